"""Which table stands for a folder; nothing is guessed where a table lies in the way."""

import pytest

from tests.training.datasets.trees import write
from training.datasets.folders import FolderImages
from training.datasets.manifests import MANIFEST
from training.datasets.reading import find_source
from training.datasets.table_choice import ChosenTable
from training.errors import InvalidDataset

TABLE = "product_id,image\na,images/1.png\n"
JSON_ROW = '{"product_id": "a", "image": "images/1.png"}\n'


def found_in(folder, **files):
    write(folder / "images" / "1.png", "")
    for name, text in files.items():
        write(folder / name, text)
    return find_source(folder, (MANIFEST,))


@pytest.mark.parametrize(
    "name",
    [
        "catalogue.csv", "Catalogue.CSV", "catalog.csv", "CATALOG.tsv", "manifest.csv", "catalogue.ndjson",
        "catalogue.txt", "catalogue.json", "products.csv", "items.tsv", "export 2024-05.csv", "rows.jsonl",
        "metadata.jsonl", "shop/catalogue.csv", "shop/any.csv",
    ],
)  # fmt: skip
def test_the_only_table_is_read_whatever_its_name(tmp_path, name):
    folder = (tmp_path / name).parent
    is_json = name.endswith(("json", "jsonl"))
    row = JSON_ROW.replace("image", "file_name", 1) if "metadata" in name else JSON_ROW
    text = row if is_json else TABLE.replace(",", "\t") if name.endswith("tsv") else TABLE

    write(folder / "images" / "1.png", "")
    write(tmp_path / name, text)
    found = find_source(tmp_path, (MANIFEST,))

    assert isinstance(found, ChosenTable)
    assert found.path == tmp_path / name


def test_an_accepted_name_comes_before_others_which_are_named(tmp_path):
    found = found_in(tmp_path, **{"catalogue.csv": TABLE, "prices.csv": "x,y\n", "stock.xlsx": ""})

    assert isinstance(found, ChosenTable)
    assert found.path.name == "catalogue.csv"
    assert [(item.location, item.is_failure) for item in found.left_out] == [
        ("prices.csv", False),
        ("stock.xlsx", False),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"catalogue.csv": TABLE, "Catalog.csv": TABLE},
            "2 tables, all named .*: Catalog.csv, catalogue.csv; give the",
        ),
        ({"products.csv": TABLE, "items.csv": TABLE}, "2 tables, none named catalogue.csv: items.csv, products.csv"),
        ({"products.csv": "sku;photo\n1;2\n"}, "the table products.csv, which cannot be read .*accepted names"),
        ({"rows.jsonl": '{"sku": 1}\n'}, "the table rows.jsonl, which cannot be read .*unknown column 'sku'"),
        ({"labels.csv": "x,y\n"}, "if labels.csv has labels, give it to akin catalogue label"),
        ({"products.xlsx": ""}, "the table products.xlsx, .*a spreadsheet is not read; save products.xlsx as CSV"),
        ({"images/catalogue.csv": TABLE, "a/1.png": ""}, "in one of them, the table images/catalogue.csv"),
        ({"data/any.csv": TABLE, "a/1.png": ""}, "in one of them, the table data/any.csv, .* --layout"),
    ],
)
def test_a_table_in_the_way_is_refused_by_name(tmp_path, files, message):
    with pytest.raises(InvalidDataset, match=message):
        found_in(tmp_path, **files)


def test_tables_of_other_columns_in_folders_of_products_are_named(tmp_path):
    for name in ("amber", "birch"):
        write(tmp_path / name / "1.png", "")
        write(tmp_path / name / "sizes.csv", "size,stock\n1,2\n")

    found = find_source(tmp_path, (MANIFEST,))

    assert isinstance(found, FolderImages)
    assert [(item.location, item.reason) for item in found.left_out] == [
        ("amber/sizes.csv", "a table beside images is not read"),
        ("birch/sizes.csv", "a table beside images is not read"),
    ]


def test_the_option_reads_folders_beside_a_table(tmp_path):
    for name in ("amber/1.png", "birch/1.png"):
        write(tmp_path / name, "")
    write(tmp_path / "prices.csv", "x,y\n")

    found = find_source(tmp_path, (MANIFEST,), layout="products")

    assert isinstance(found, FolderImages)
    assert (found.num_classes, [item.location for item in found.left_out]) == (2, ["prices.csv"])
