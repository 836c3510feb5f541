"""The layouts of labels, and the errors of bad rows."""

import base64
import json
import re

import pytest

from service.catalogue.sources import RowError, SourceRow, read_import_source
from service.labels import sources as label_sources
from service.labels.errors import InvalidLabels
from service.labels.sources import NewExample, Relabel, read_label_rows, read_label_source, single_image, single_label
from tests.images import png
from tests.service.catalogue.test_sources import write_grocery
from tests.service.conftest import write_shop

DIGEST = "ab" * 32


def write(path, text="", content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if content is None else content)
    return path


def rows_of(source):
    return list(source.rows)


def error_of(source):
    (error,) = (row for row in source.rows if isinstance(row, RowError))
    return error.message


def test_reads_a_csv_of_changes_and_images(tmp_path):
    write(tmp_path / "x" / "1.png", content=png("red"))
    path = write(
        tmp_path / "labels.csv",
        "image_id,sha256,product_id,label,image,labelled_by\n"
        "i1,,,  apple ,,Ada\n"
        f",{DIGEST},p1,,,\n"
        ",,p2,,x/1.png,\n"
        ",,,pear,x/1.png,\n",
    )

    source = read_label_source(path)

    assert (source.layout, source.num_rows) == ("CSV", 4)
    image = tmp_path / "x" / "1.png"
    assert rows_of(source) == [
        Relabel("labels.csv:2", "i1", None, None, "apple", "Ada"),
        Relabel("labels.csv:3", None, DIGEST, "p1", None),
        NewExample("labels.csv:4", image, "p2", None),
        NewExample("labels.csv:5", image, None, "pear"),
    ]


def test_rows_can_be_read_again(tmp_path):
    source = read_label_source(write(tmp_path / "labels.csv", "image_id,label\na,b\n"))

    assert rows_of(source) == rows_of(source) != []


def test_reads_ndjson_with_images_in_it(tmp_path):
    text = base64.b64encode(png("red")).decode()
    rows = [
        {"image_base64": text, "product_id": 7},
        {"image_base64": f"data:image/png;base64,{text}", "label": "a"},
        {"image_id": "i", "label": None},
    ]
    path = write(tmp_path / "labels.ndjson", "\n".join(json.dumps(row) for row in rows))

    first, second, third = rows_of(read_label_source(path, has_images=False))

    assert (first.image, first.product_id, first.label) == (png("red"), "7", None)
    assert (second.image, second.label) == (png("red"), "a")
    assert (third.image_id, third.label) == ("i", None)


def test_reads_a_folder_per_class(tmp_path):
    shop = write_shop(tmp_path / "shop")
    write(shop / "loose.png", content=png("red"))
    write(shop / "amber" / "phone.heic")
    write(shop / "amber" / "notes.txt")

    source = read_label_source(shop)

    good = [row for row in source.rows if isinstance(row, NewExample)]
    assert len(good) == 9
    assert {row.label for row in good} == {"amber", "birch", "cedar"}
    assert {row.product_id for row in good} == {None}
    reasons = {item.location: item.reason for item in source.left_out}
    assert list(reasons) == ["amber/notes.txt", "amber/phone.heic", "loose.png"]
    assert "move it into one" in reasons["loose.png"]
    assert source.understood.startswith("a folder per class, 3 classes, 9 images; left out: 3 files")


@pytest.mark.parametrize("name", ["labels.csv", "labels.ndjson", "labels.jsonl"])
def test_a_folder_with_a_table_is_read_through_it(tmp_path, name):
    text = "image_id,label\na,b\n" if name.endswith("csv") else '{"image_id": "a", "label": "b"}\n'
    write(tmp_path / name, text)
    write(tmp_path / "other" / "x.png", content=png("red"))

    (row,) = read_label_source(tmp_path).rows

    assert row == Relabel(f"{name}:{2 if name.endswith('csv') else 1}", "a", None, None, "b")


def test_only_the_examples_of_a_catalogue_are_read(tmp_path):
    write(tmp_path / "a.png", content=png("red"))
    write(
        tmp_path / "catalogue.csv", "product_id,image,role,label\np,a.png,catalogue,\nq,a.png,example,x\nr,a.png,x,\n"
    )

    source = read_label_source(tmp_path)

    example, error = rows_of(source)
    assert (example.product_id, example.label, source.num_skipped) == ("q", "x", 1)
    assert error.location == "catalogue.csv:4"


def test_a_catalogue_without_examples_is_refused(tmp_path):
    write(tmp_path / "a.png", content=png("red"))
    write(tmp_path / "catalogue.csv", "product_id,image\np,a.png\n")

    with pytest.raises(InvalidLabels, match=r"none of the 1 rows .* has the role example"):
        read_label_source(tmp_path)


def test_photos_of_the_grocery_dataset_are_labels(tmp_path):
    root = write_grocery(tmp_path / "up" / "GroceryStoreDataset")

    for start in (root, root.parent, root / "dataset"):
        source = read_label_source(start)
        (photo,) = (row for row in source.rows if isinstance(row, NewExample))
        assert (photo.product_id, photo.label, source.num_skipped) == ("Oat-Milk", None, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "x"}, "exactly one of image_id, sha256, image and image_base64; it has none"),
        ({"image_id": "a", "sha256": DIGEST, "label": "x"}, "it has image_id and sha256"),
        ({"image_id": "a", "image_base64": "AAAA", "label": "x"}, "it has image_id and image_base64"),
        ({"image_id": "a"}, "the row has no label"),
        ({"image_id": "a", "label": ["x"]}, "the label must be text"),
        ({"image_id": "a", "label": "x" * 201}, "longer than 200"),
        ({"image_id": "a", "label": "x\0y"}, "contains a NUL character"),
        ({"image_id": "a\n", "label": "x\ny"}, "contains a line break"),
        ({"image_id": {"a": 1}, "label": "x"}, "the image_id must be text"),
        ({"sha256": DIGEST.upper(), "label": "x"}, "64 hexadecimal digits in lower case"),
        ({"sha256": "abc", "label": "x"}, "64 hexadecimal digits"),
        ({"image_base64": "AAAA"}, "neither a product_id nor a label"),
        ({"image_base64": "not base64!", "label": "x"}, "is not base64"),
        ({"image_base64": 7, "label": "x"}, "must be text"),
        ({"image": "a.png", "label": "x"}, "was not sent; send a zip"),
        ({"image": 7, "label": "x"}, "must be a path as text"),
        ({"image_id": "a", "label": "x", "lable": "y"}, "unknown column 'lable'; columns are image_id"),
        ({"image_id": "a", "label": "x", "attributes.size": "y"}, "unknown column 'attributes.size'"),
        ({"image": "a.png", "path": "b.png", "label": "x"}, "two columns 'image'"),
        (["image_id", "a"], "a JSON object is needed"),
        (None, "a JSON object is needed"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row, message):
    (error,) = read_label_rows([row]).rows

    assert isinstance(error, RowError)
    assert error.location == "labels[0]"
    assert re.search(message, error.message), error.message


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("../secret.png", "is not in the archive; name an image that is"),
        ("a/../../secret.png", "is not in the archive; name an image that is"),
        ("link.png", "is not in the archive; name an image that is"),
        ("/etc/hostname", "does not exist; it was looked for as 'etc/hostname'"),
        ("nul\0.png", "contains a NUL character"),
    ],
)
def test_an_upload_cannot_name_files_of_this_machine(tmp_path, image, reason):
    """A path outside is refused whether or not the file exists, and links out of the folder are not followed."""
    write(tmp_path / "secret.png", content=png("red"))
    sent = tmp_path / "sent"
    write(sent / "labels.ndjson", json.dumps({"image": image, "label": "x"}))
    (sent / "link.png").symlink_to(tmp_path / "secret.png")

    message = error_of(read_label_source(sent))

    assert reason in message
    assert str(tmp_path) not in message


@pytest.mark.parametrize(
    ("image", "reason"), [("../secret.png", "is not in the archive"), ("/etc/hostname", "does not exist")]
)
def test_an_uploaded_catalogue_cannot_name_files_of_this_machine(tmp_path, image, reason):
    write(tmp_path / "secret.png", content=png("red"))
    sent = tmp_path / "sent"
    write(sent / "catalogue.csv", f"product_id,image\na,{image}\n")

    source = read_import_source(sent, is_trusted=False)

    (error,) = source.rows
    assert isinstance(error, RowError)
    assert reason in error.message
    assert str(tmp_path) not in error.message


def test_an_uploaded_grocery_list_cannot_name_files_of_this_machine(tmp_path):
    root = write_grocery(tmp_path / "sent")
    write(root / "dataset" / "train.txt", "../../../secret.jpg, 0, 4\n")

    source = read_import_source(tmp_path / "sent", is_trusted=False)

    iconic, error = source.rows
    assert isinstance(iconic, SourceRow)
    assert isinstance(error, RowError)
    assert iconic.role == "catalogue"
    assert "is not in the archive" in error.message


def test_a_trusted_table_may_name_any_file(tmp_path):
    write(tmp_path / "photos" / "a.png", content=png("red"))
    path = write(tmp_path / "lists" / "labels.csv", "image,label\n../photos/a.png,x\n")

    (row,) = read_label_source(path, is_trusted=True).rows

    assert isinstance(row, NewExample)
    assert isinstance(row.image, type(path))
    assert row.image.exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.csv", "label,product_id\na,b\n", "no column 'image_id' or 'sha256' or 'image'"),
        ("labels.csv", "image_id,label,color\na,b,c\n", "unknown column 'color'"),
        ("labels.csv", "image_id,label,image_base64\na,b,c\n", "unknown column 'image_base64'"),
        ("labels.csv", "image;label;x\na;b;c\n", "unknown column 'x'"),
        ("labels.csv", 'image_id,label\na,"b\nc,d\n', "a quote may not be closed"),
        ("labels.csv", "", "no column"),
        ("labels.doc", "x", "neither a folder nor"),
    ],
)
def test_a_table_that_cannot_be_read_as_a_whole_is_refused_before_any_row(tmp_path, name, text, message):
    path = write(tmp_path / name, text)

    with pytest.raises(InvalidLabels, match=message) as refused:
        read_label_source(path)

    assert str(tmp_path) not in str(refused.value)


def test_text_in_another_encoding_is_refused_before_any_row(tmp_path):
    path = write(tmp_path / "labels.ndjson", content=b'{"image_id": "a", "label": "b"}\n{"label": "\xe4"}\n')

    with pytest.raises(InvalidLabels, match="save it as UTF-8"):
        read_label_source(path)


def test_a_line_too_long_for_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(label_sources, "_MAX_LINE_BYTES", 100)
    path = write(tmp_path / "labels.ndjson", '{"image_id": "a", "label": "b"}\n' + "x" * 101)

    with pytest.raises(InvalidLabels, match=r"labels\.ndjson, line 2 has more than 100 bytes"):
        read_label_source(path)


def test_a_missing_path_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(InvalidLabels, match="does not exist"):
        read_label_source(tmp_path / "nowhere")
    with pytest.raises(InvalidLabels, match="the archive contains no folders with images; expected a folder per class"):
        read_label_source(tmp_path)


def test_one_image_needs_a_product_or_a_valid_label(tmp_path):
    with pytest.raises(InvalidLabels, match="neither a product_id nor a label"):
        single_image(tmp_path / "a.png", product_id=None, label=" ")
    with pytest.raises(InvalidLabels, match="contains a line break"):
        single_label("i", "a\nb")
