"""The layouts that an import reads, and the errors of bad rows."""

import json
import os
import zipfile

import pytest
from sqlalchemy import String

from service.catalogue.errors import InvalidImportSource
from service.catalogue.rows import MAX_TEXT_LENGTH, MAX_TITLE_LENGTH
from service.catalogue.sources import RowError, SourceRow, read_import_source
from service.storage.tables.catalogue import LabelChange, Product, ProductImage
from tests.conftest import REAL_DATA
from tests.images import png
from tests.service.conftest import write_shop


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def draw(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png("red"))


def rows_of(source):
    return [row for row in source.rows if isinstance(row, SourceRow)]


def errors_of(source):
    return [row for row in source.rows if isinstance(row, RowError)]


def test_reads_a_folder_per_product(tmp_path):
    shop = write_shop(tmp_path / "shop")
    (shop / "amber" / "notes.txt").write_text("no image")
    (shop / "amber" / ".hidden.png").write_bytes(b"")

    source = read_import_source(shop)

    assert [(row.product_id, row.role, row.image.name) for row in rows_of(source)[:3]] == [
        ("amber", "example", "photo.png"),
        ("amber", "catalogue", "front.png"),
        ("amber", "catalogue", "side.png"),
    ]
    assert (len(rows_of(source)), source.num_rows) == (9, 9)
    assert source.understood == "a folder per product, 3 products, 9 images; left out: 2 files, listed in the report"
    assert [(item.location, item.is_failure) for item in source.left_out] == [
        ("amber/.hidden.png", False),
        ("amber/notes.txt", False),
    ]


def test_reads_csv_with_roles_and_attributes(tmp_path):
    path = write(
        tmp_path / "c.csv",
        "product_id,title,image_path,role,label,attributes,attributes.size\n"
        'a1,Ärmel,x/1.png,,,"{""brand"": ""Über""}",XL\n'
        "a1,,x/2.png,example,other,,\n",
        encoding="utf-8-sig",
    )

    draw(tmp_path, "x/1.png", "x/2.png")

    first, second = rows_of(read_import_source(path))

    assert (first.product_id, first.title, first.role, first.label) == ("a1", "Ärmel", "catalogue", None)
    assert first.image == tmp_path / "x" / "1.png"
    assert first.attributes == {"brand": "Über", "size": "XL"}
    assert (second.title, second.role, second.label, second.attributes) == (None, "example", "other", None)


def test_reads_ndjson(tmp_path):
    rows = [{"product_id": 7, "image": "a.png", "attributes": {"n": [1, 2]}}, {"id": "8", "path": "b.png"}]
    path = write(tmp_path / "c.ndjson", "\n\n".join(json.dumps(row) for row in rows))

    draw(tmp_path, "a.png", "b.png")

    first, second = rows_of(read_import_source(path))

    assert [row.product_id for row in (first, second)] == ["7", "8"]
    assert first.attributes == {"n": [1, 2]}
    assert second.location == "c.ndjson:3"


def test_a_folder_with_a_catalogue_file_is_read_through_it(tmp_path):
    write(tmp_path / "images" / "a" / "x.png", "")
    write(tmp_path / "catalogue.csv", "product_id,image\na,images/a/x.png\n")

    assert read_import_source(tmp_path).layout == "CSV"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"product_id": "", "image": "a.png"}, "product_id is empty"),
        ({"image": "a.png"}, "product_id is empty"),
        ({"product_id": "  ", "image": "a.png"}, "product_id is empty"),
        ({"product_id": "x" * 201, "image": "a.png"}, "longer than 200"),
        ({"product_id": "a\x00b", "image": "a.png"}, "contains a NUL character"),
        ({"product_id": True, "image": "a.png"}, "must be text or an integer, got True"),
        ({"product_id": "a"}, "image is empty"),
        ({"product_id": "a", "image": 3}, "must be a path as text, got 3"),
        ({"product_id": "a", "image": "a.png", "role": "hero"}, "'hero'; it must be catalogue or example"),
        ({"product_id": "a", "image": "a.png", "attributes": [1]}, "must be a JSON object"),
        ({"product_id": "a", "image": "a.png", "attributes": "{"}, "not JSON"),
        ({"product_id": "a", "image": "a.png", "attributes": 3}, "must be a JSON object"),
        ({"product_id": "a", "image": "a.png", "title": ["x"]}, "title must be text"),
        ({"product_id": "a", "image": "a.png", "title": "x" * 1001}, "at most 1000"),
        ([1, 2], "a JSON object is needed"),
        ({"product_id": "a", "image": "a.png", "tittle": "x"}, "unknown column 'tittle'"),
        ({"product_id": "a", "image": "a.png", "path": "b.png"}, "two columns 'image'"),
        ({"product_id": "a", "image": "a.png", "attributes": {"price": float("nan")}}, "NaN is not a JSON number"),
        ({"product_id": "a", "image": "a.png", "attributes": {"x": "\ud800"}}, "lone surrogate"),
        ({"product_id": "a", "image": "a.png", "title": "a\ud800b"}, "lone surrogate"),
        ({"product_id": "a", "image": "a.png", "title": "a\0b"}, "NUL"),
        ({"product_id": "a", "image": "a.png", "attributes": {"x": "\0"}}, "NUL"),
    ],
)
def test_a_bad_row_is_reported_and_the_others_are_read(tmp_path, row, message):
    good = {"product_id": "good", "image": "g.png"}
    draw(tmp_path, "a.png", "g.png")
    path = write(tmp_path / "c.ndjson", "\n".join(json.dumps(item) for item in (row, good)))

    source = read_import_source(path)

    assert [item.product_id for item in rows_of(source)] == ["good"]
    (error,) = errors_of(source)
    assert error.location == "c.ndjson:1"
    assert message in error.message


def test_numbers_beyond_json_are_reported(tmp_path):
    lines = '{"product_id": "a", "image": "a.png", "attributes": {"x": 1e999}}\n'

    assert "JSON cannot represent" in errors_of(read_import_source(write(tmp_path / "c.ndjson", lines)))[0].message


@pytest.mark.parametrize("line", ['{"product_id": ', '{"a":' * 200_000, '{"product_id": ' + "9" * 5000 + "}"])
def test_a_line_that_is_not_json_is_reported(tmp_path, line):
    source = read_import_source(write(tmp_path / "c.ndjson", line + "\n"))

    assert "JSON" in errors_of(source)[0].message


def test_an_empty_object_removes_the_attributes_and_a_missing_one_keeps_them(tmp_path):
    rows = [{"product_id": "a", "image": "a.png", "attributes": {}}, {"product_id": "a", "image": "a.png"}]

    draw(tmp_path, "a.png")

    emptied, left = rows_of(read_import_source(write(tmp_path / "c.ndjson", "\n".join(map(json.dumps, rows)))))

    assert (emptied.attributes, left.attributes) == ({}, None)


def test_linked_folders_are_followed_once(tmp_path):
    shop = write_shop(tmp_path / "shop")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.png").write_bytes(png("red"))
    (shop / "linked").symlink_to(tmp_path / "elsewhere")
    (shop / "amber" / "loop").symlink_to(shop)

    source = read_import_source(shop)

    assert [row.location for row in rows_of(source) if row.product_id == "linked"] == ["linked/x.png"]
    assert source.num_rows == 10


def test_names_that_are_not_valid_utf8_are_reported_escaped(tmp_path):
    shop = write_shop(tmp_path / "shop")
    folder = shop / os.fsdecode(b"prod\xff")
    folder.mkdir()
    (folder / "x.png").write_bytes(png("red"))

    (left_out,) = read_import_source(shop).left_out

    left_out.location.encode()
    left_out.reason.encode()
    assert left_out.location == "prod\\udcff"


def test_a_csv_row_with_too_many_fields_is_reported(tmp_path):
    source = read_import_source(write(tmp_path / "c.csv", "product_id,image\na,b.png,c\n"))

    assert "more fields" in errors_of(source)[0].message


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.csv", "title,image\n", "no column 'product_id'"),
        ("c.csv", "product_id,title\n", "no column 'image'"),
        ("c.csv", "", "no column 'product_id'; its first line names nothing"),
        ("c.csv", "product_id,image,tittle\n", r"unknown column 'tittle'.*attributes\.tittle"),
        ("c.csv", "product_id,image,image\n", "two columns 'image'"),
        ("c.csv", 'product_id,image\na,"b', "line 2: .*quote may not be closed"),
        ("c.csv", "product_id;title\n", "no column 'image'; its first line names 'product_id', 'title'"),
        ("c.xlsx", "", "neither a folder nor"),
    ],
)
def test_a_table_that_cannot_be_read_as_a_whole_is_refused(tmp_path, name, text, message):
    with pytest.raises(InvalidImportSource, match=message):
        read_import_source(write(tmp_path / name, text))


def test_text_in_another_encoding_is_refused(tmp_path):
    path = write(tmp_path / "c.csv", "product_id,image\nä,b.png\n", encoding="latin-1")

    with pytest.raises(InvalidImportSource, match="save it as UTF-8"):
        read_import_source(path)


def test_a_missing_path_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(InvalidImportSource, match="does not exist"):
        read_import_source(tmp_path / "nowhere")
    with pytest.raises(InvalidImportSource, match="expected a folder per product"):
        read_import_source(tmp_path)


def write_grocery(root):
    header = (
        "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),"
        "Iconic Image Path (str),Product Description Path (str)"
    )
    write(root / "dataset" / "classes.csv", f"{header}\nOat-Milk,0,Milk,4,/iconic/Oat-Milk.jpg,/d.txt\n")
    write(root / "dataset" / "train.txt", "train/Oat-Milk/1.jpg, 0, 4\ntrain/x.jpg, 77, 4\n")
    write(root / "dataset" / "test.txt", "test/Oat-Milk/1.jpg, 0, 4\n")
    write(root / "dataset" / "val.txt", "val/Oat-Milk/1.jpg, 0, 4\n")
    return root


@pytest.mark.parametrize("start", ["", "dataset"])
def test_reads_the_grocery_layout_without_its_val_and_test(tmp_path, start):
    root = write_grocery(tmp_path / "g")

    source = read_import_source(root / start)

    iconic, photo = rows_of(source)
    assert (iconic.product_id, iconic.title, iconic.role) == ("Oat-Milk", "Oat Milk", "catalogue")
    assert iconic.attributes == {"coarse_class": "Milk"}
    assert iconic.image == root / "dataset" / "iconic" / "Oat-Milk.jpg"
    assert (photo.product_id, photo.role, photo.image) == (
        "Oat-Milk",
        "example",
        root / "dataset" / "train" / "Oat-Milk" / "1.jpg",
    )
    assert errors_of(source)[0].location == "train.txt:2"


def test_counts_of_the_real_grocery_dataset(tmp_path):
    archive = REAL_DATA / "grocery.zip"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not beside the project (../shared/data)")
    with zipfile.ZipFile(archive) as opened:
        # Images are not opened when the layout is read.
        opened.extractall(tmp_path, [name for name in opened.namelist() if name.endswith((".csv", ".txt"))])

    source = read_import_source(tmp_path / "GroceryStoreDataset")

    roles = [row.role for row in rows_of(source)]
    assert (roles.count("catalogue"), roles.count("example")) == (81, 2640)
    assert len({row.product_id for row in rows_of(source)}) == 81
    assert not errors_of(source)
    assert all(row.image.parts.count("test") + row.image.parts.count("val") == 0 for row in rows_of(source))


def test_the_length_limits_are_those_of_the_columns():
    products, images, changes = (table.__table__.columns for table in (Product, ProductImage, LabelChange))
    texts = [products["id"], products["label"], images["labelled_by"], images["label_source"], changes["source"]]

    assert length_of(products["title"]) == MAX_TITLE_LENGTH
    assert {length_of(column) for column in texts} == {MAX_TEXT_LENGTH}


def length_of(column):
    assert isinstance(column.type, String)
    return column.type.length
