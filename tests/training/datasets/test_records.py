import pytest

from tests.training.datasets.trees import write
from training.datasets.records import Columns, parse_json, read_records
from training.errors import InvalidDataset

COLUMNS = Columns(("image", "label"), {"path": "image"}, (("image",),))


def records(path):
    return list(read_records(path, COLUMNS))


def test_csv_aliases_become_column_names(tmp_path):
    path = write(tmp_path / "x.csv", "path,label,attributes.size\na.png,7,XL\n")

    assert records(path) == [(2, {"image": "a.png", "label": "7", "attributes.size": "XL"})]


def test_json_lines_may_be_blank_and_keep_their_numbers(tmp_path):
    path = write(tmp_path / "x.ndjson", '\n{"path": "a.png"}\n\n{"image": "b.png"}\n')

    assert records(path) == [(2, {"image": "a.png"}), (4, {"image": "b.png"})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "a JSON object is needed"),
        ('{"image": ', "not JSON"),
        ('{"image": NaN}', "NaN is not a JSON number"),
        ('{"imge": "a.png"}', "unknown column 'imge'"),
        ('{"image": "a.png", "path": "b.png"}', "two columns 'image'"),
    ],
)
def test_a_bad_json_line_yields_its_error(tmp_path, line, message):
    (_, error), (_, good) = records(write(tmp_path / "x.ndjson", f'{line}\n{{"image": "a.png"}}\n'))

    assert isinstance(error, ValueError)
    assert message in str(error)
    assert good == {"image": "a.png"}


def test_a_csv_row_with_too_many_fields_is_an_error(tmp_path):
    ((_, error),) = records(write(tmp_path / "x.csv", "image\na.png,b\n"))

    assert "more fields" in str(error)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "label\n", "no column 'image'; its first line names 'label'"),
        ("x.csv", "image,colour\n", "unknown column 'colour'"),
        ("x.csv", 'image\n"a', "a quote may not be closed"),
        ("x.parquet", "", "neither a folder nor"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path, name, text, message):
    with pytest.raises(InvalidDataset, match=message):
        records(write(tmp_path / name, text))


def test_json_nested_too_deeply_is_an_error():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 200_000)
