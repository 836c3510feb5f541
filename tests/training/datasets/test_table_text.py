"""A table is read in the encoding that it states; other encodings and formats are named."""

import gzip
import io
import zipfile

import pytest

from training.datasets import records
from training.datasets.records import Columns, read_records
from training.errors import InvalidDataset

COLUMNS = Columns(("product_id", "image"), {}, (("product_id",), ("image",)))
TEXT = "product_id,image\r\nThéière,a.jpg\r\n"


def read(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content)
    table = read_records(path, COLUMNS)
    return list(table), table.notes


def zip_of(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name in names:
            opened.writestr(name, "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (TEXT.encode(), ()),
        (TEXT.encode("utf-8-sig"), ()),
        (TEXT.encode("utf-16"), ("the file is UTF-16 text",)),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), ("the file is UTF-16 text",)),
        (TEXT.encode("utf-32"), ("the file is UTF-32 text",)),
    ],
    ids=["utf-8", "mark", "utf-16", "utf-16-be", "utf-32"],
)
def test_an_encoding_that_is_stated_is_read(tmp_path, content, notes):
    assert read(tmp_path, content) == ([(2, {"product_id": "Théière", "image": "a.jpg"})], notes)


@pytest.mark.parametrize("name", ["t.csv", "t.ndjson"])
def test_a_note_is_there_when_the_first_record_is(tmp_path, name):
    text = TEXT if name == "t.csv" else '{"product_id": "a", "image": "b"}\n'
    (tmp_path / name).write_bytes(text.encode("utf-16"))
    table = read_records(tmp_path / name, COLUMNS)

    next(iter(table))

    assert table.notes == ("the file is UTF-16 text",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("cp1252"), r"line 2 contains the byte 0xE9, in 'Th\\xe9i\\xe8re,a.jpg'; save it as UTF-8"),
        (TEXT.replace("\r\n", "\r").encode("cp1252"), "line 2 contains the byte 0xE9"),
        (b"product_id,image\n" + b"a,b\n" * 9000 + b"\xff,c\n", "line 9002 contains the byte 0xFF"),
        (TEXT.encode("utf-16-le"), "UTF-16 text without a byte order mark"),
        (TEXT.encode("utf-16") + b"x", "begins as UTF-16 text, but it is damaged"),
    ],
    ids=["cp1252", "carriage returns", "far", "no mark", "damaged"],
)
def test_another_encoding_is_refused_with_the_line_and_a_remedy(tmp_path, content, message):
    with pytest.raises(InvalidDataset, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx", "t.ndjson"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zip_of("[Content_Types].xml", "xl/workbook.xml"), 'an Excel workbook.*save it as "CSV UTF-8"'),
        (zip_of("a.jpg"), "a zip archive, not a table; give it the ending .zip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"the old format \(.xls\)"),
        (gzip.compress(b"x"), "a gzip archive.*unpack it"),
        (b"\n <!DOCTYPE html><html>", "a web page"),
        (b"<?xml version='1.0'?>", "an XML document"),
        (b"PAR1", "a Parquet file"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
    ],
    ids=["xlsx", "zip", "xls", "gzip", "html", "xml", "parquet", "jpeg"],
)
def test_a_file_of_another_format_is_named(tmp_path, name, content, message):
    with pytest.raises(InvalidDataset, match=message):
        read(tmp_path, content, name)


@pytest.mark.parametrize("name", ["t.csv", "t.ndjson"])
def test_a_line_too_long_for_memory_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(records, "MAX_CSV_LINE", 100)
    monkeypatch.setattr(records, "MAX_JSON_LINE", 100)

    with pytest.raises(InvalidDataset, match="line 1 has more than 100 characters; write one row per line"):
        read(tmp_path, b"x" * 101, name)


def test_a_missing_file_is_an_error_of_the_file(tmp_path):
    with pytest.raises(InvalidDataset, match="cannot be read: No such file"):
        list(read_records(tmp_path / "t.csv", COLUMNS))
