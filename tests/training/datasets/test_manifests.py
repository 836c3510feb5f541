import json

import pytest

from tests.training.datasets.trees import write
from training.datasets.manifests import read_manifest
from training.errors import InvalidDataset


def read_rows(tmp_path, *rows):
    for name in ("a.png", "b.png"):
        write(tmp_path / name, "")
    return read_manifest(write(tmp_path / "m.ndjson", "\n".join(json.dumps(row) for row in rows)))


def test_reads_csv_with_every_column_that_a_catalogue_has(tmp_path):
    for number in (1, 2):
        write(tmp_path / "x" / f"{number}.png", "")
    path = write(
        tmp_path / "m.csv",
        "product_id,title,image_path,role,label,split,attributes,attributes.size\n"
        "a1,Amber,x/1.png,,,train,{},XL\n"
        "a1,,x/2.png,example,other,val,,\n",
    )

    first, second = read_manifest(path).images

    assert (first.location, first.path) == ("m.csv:2", tmp_path / "x" / "1.png")
    assert (first.label, first.role, first.part) == ("a1", "catalogue", "train")
    assert (second.label, second.role, second.part) == ("other", "example", "validation")


def test_without_roles_all_images_are_catalogue_images(tmp_path):
    dataset = read_rows(tmp_path, {"image": "a.png", "label": "x"}, {"path": "b.png", "id": 7})

    assert [(image.label, image.role, image.part) for image in dataset.images] == [
        ("x", "catalogue", ""),
        ("7", "catalogue", ""),
    ]


@pytest.mark.parametrize(
    "label", [1.5, 1.0, True, [], ["a"], {}, {"a": 1}, None, "", "  ", "a\0b", "\ud800", "x" * 201]
)
def test_a_label_that_is_neither_text_nor_integer_names_its_row(tmp_path, label):
    dataset = read_rows(tmp_path, {"image": "a.png", "label": label}, {"image": "b.png", "label": -3})

    assert [image.label for image in dataset.images] == ["-3"]
    (error,) = dataset.errors
    assert error.location == "m.ndjson:1"
    assert "label" in error.message


def test_an_empty_label_defaults_to_the_product_id(tmp_path):
    dataset = read_rows(tmp_path, {"image": "a.png", "label": None, "product_id": "p"})

    assert dataset.images[0].label == "p"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "a"}, "image is empty"),
        ({"label": "a", "image": 3}, "image must be a path as text, got 3"),
        ({"label": "a", "image": "A.PNG"}, "'a.png' exists, so correct the path"),
        ({"label": "a", "image": "https://shop.com/a.png"}, "is a URL"),
        ({"label": "4.00638E+12", "image": "a.png"}, "format the column as text"),
        ({"label": "a", "image": "a\0.png"}, "NUL"),
        ({"label": "a", "image": "\ud800.png"}, "is not a valid path"),
        ({"label": "a", "image": "a.png", "role": "hero"}, "must be catalogue or example"),
        ({"label": "a", "image": "a.png", "part": "dev"}, "must be train, validation or test"),
        ({"label": "a", "image": "a.png", "part": 1}, "must be train, validation or test"),
        ({"product_id": 2.5, "image": "a.png"}, "product_id must be text or an integer, got 2.5"),
        ({"label": "a", "image": "a.png", "colour": "red"}, "unknown column 'colour'"),
    ],
)
def test_a_bad_row_is_reported_and_the_others_are_read(tmp_path, row, message):
    dataset = read_rows(tmp_path, row, {"image": "b.png", "label": "b"})

    assert [image.label for image in dataset.images] == ["b"]
    assert message in dataset.errors[0].message


@pytest.mark.parametrize(
    ("first_line", "message"),
    [("image,title", "no column 'label' or 'product_id'"), ("label", "no column 'image'"), ("image,label,x", "'x'")],
)
def test_a_first_line_that_lacks_or_misspells_a_column_is_refused(tmp_path, first_line, message):
    with pytest.raises(InvalidDataset, match=message):
        read_manifest(write(tmp_path / "m.csv", f"{first_line}\n"))


def test_a_table_as_a_spreadsheet_writes_it_is_read(tmp_path):
    """Identifiers and paths are normalised, and what is unusual about the file is noted."""
    write(tmp_path / "images" / "a.png", "")
    text = "Label;Image;Role;\r\n\u00a0Ka\u0308se;images\\a.png;Catalogue;\r\n;;;\r\n"

    dataset = read_manifest(write(tmp_path / "m.csv", text, "utf-8-sig"))

    (image,) = dataset.images
    assert (image.label, image.role, image.path) == ("K\u00e4se", "catalogue", tmp_path / "images" / "a.png")
    assert (dataset.errors, dataset.notes) == ((), ("columns are separated by semicolons",))


def test_labels_in_another_normal_form_are_one_class(tmp_path):
    dataset = read_rows(tmp_path, {"image": "a.png", "label": "Ka\u0308se"}, {"image": "b.png", "label": "K\u00e4se"})

    assert {image.label for image in dataset.images} == {"K\u00e4se"}
