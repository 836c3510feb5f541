"""JSON: one object per line, or a list, or objects of several lines."""

import pytest

from training.datasets import json_rows
from training.datasets.json_rows import parse_json
from training.datasets.records import Columns, read_records
from training.errors import InvalidDataset

COLUMNS = Columns(("image", "label"), {"path": "image"}, (("image",),))
LIST_NOTE = ("the file is a JSON list or has objects of several lines; rows are numbered, not lines",)


def read(tmp_path, text, name="t.ndjson"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    records = read_records(path, COLUMNS)
    return [(number, record if isinstance(record, dict) else str(record)) for number, record in records], records.notes


@pytest.mark.parametrize(
    "text",
    [
        '\ufeff{"image": "a"}\n{"image": "b"}\n',
        '{"image": "a"}\r\n{"image": "b"}\r\n',
        '{"image": "a"}\r{"image": "b"}',
        '{"Image": "a"}\n{"path": "b"}\n',
    ],
    ids=["mark", "crlf", "cr", "names"],
)
def test_one_object_per_line_is_read(tmp_path, text):
    assert read(tmp_path, text) == ([(1, {"image": "a"}), (2, {"image": "b"})], ())


@pytest.mark.parametrize("name", ["t.ndjson", "t.jsonl", "t.json"])
@pytest.mark.parametrize(
    "text",
    [
        '[{"image": "a"}, {"path": "b"}]',
        '\ufeff\n[\n  {"image": "a"},\n  {"image": "b"}\n]\n\n',
        '{\n  "image": "a"\n}\n{\n  "image": "b"\n}\n',
    ],
    ids=["list", "list of several lines", "objects of several lines"],
)
def test_a_list_and_objects_of_several_lines_are_read_and_noted(tmp_path, text, name):
    assert read(tmp_path, text, name) == ([(1, {"image": "a"}), (2, {"image": "b"})], LIST_NOTE)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a"', "not JSON: character 1, where the text ends too early"),
        ('{"image": "a"},', "not JSON: character 15, at ','"),
        ("{'image': 'a'}", "not JSON: character 2"),
        ('{"image": Infinity}', "Infinity is not a JSON number"),
        ('{"image": ' + "9" * 5000 + "}", "a number has too many digits"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("null", "a JSON object is needed, got None"),
        ('["a"]', "a JSON object is needed, got ['a']"),
    ],
    ids=lambda text: text[:20],
)
def test_a_bad_line_is_an_error_of_the_line(tmp_path, line, message):
    ((first, error), (second, row)), _ = read(tmp_path, f'{line}\n{{"image": "a"}}\n')

    assert message in error
    assert (first, second, row) == (1, 2, {"image": "a"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"image": "a"},\n]', "line 2, character 1, at ']'; nothing was read"),
        ('[{"image": "a"}] x', "character 18, at 'x'"),
        ("[", "character 2, where the text ends too early"),
        ('[{"image": "a"}', "ends too early"),
        ("image,label\na,b\n", "first line names columns, as CSV does; give it the ending .csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, text, message):
    with pytest.raises(InvalidDataset, match=message):
        read(tmp_path, text)


def test_a_list_too_large_for_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "_MAX_WHOLE_BYTES", 10)

    with pytest.raises(InvalidDataset, match="write one object per line, for example with: jq -c"):
        read(tmp_path, '[\n{"image": "a"}\n]')


@pytest.mark.parametrize("text", ["", "\n\n", "[]"])
def test_a_file_without_rows_has_none(tmp_path, text):
    assert read(tmp_path, text)[0] == []


def test_a_byte_order_mark_is_not_part_of_json():
    assert parse_json("\ufeff[1]") == [1]
