"""Open a table as lines of text: its encoding, and the formats that are mistaken for a table.

An encoding is read only if the file states it: UTF-8, or UTF-16 and UTF-32 with a byte order mark. Others, such as
cp1252, are refused, since no byte tells them apart and a wrong guess changes names silently.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from training.errors import InvalidDataset

# Each line is read into memory. In JSON, an image of 48 MiB has this length in base64; CSV holds no images.
MAX_JSON_LINE = 64 * 2**20
MAX_CSV_LINE = 8 * 2**20

_HEAD_BYTES = 4096
_BYTE_ORDER_MARKS = (
    # The mark of UTF-32 begins with that of UTF-16.
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_SAVE_AS_CSV = 'open it in a spreadsheet and save it as "CSV UTF-8"'
_UNPACK = "unpack it, and give the table in it"
_SIGNATURES = (
    (b"\xd0\xcf\x11\xe0", "an Excel workbook in the old format (.xls)", _SAVE_AS_CSV),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ", "an xz archive", _UNPACK),
    (b"(\xb5/\xfd", "a Zstandard archive", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"%PDF", "a PDF document", "export the table as CSV in UTF-8"),
    (b"{\\rtf", "an RTF document", "save it as plain text in UTF-8"),
    (b"PAR1", "a Parquet file", "export it as CSV or NDJSON"),
    (b"SQLite format 3", "an SQLite database", "export its table as CSV or NDJSON"),
    (b"\xff\xd8\xff", "a JPEG image", "give the table that names the images"),
    (b"\x89PNG", "a PNG image", "give the table that names the images"),
)
_WEB_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head")


@contextmanager
def open_lines(path: Path, notes: list[str], *, max_line: int) -> Iterator[Iterator[str]]:
    """Open a table and yield its lines with their ends; `notes` receives what is unusual about the file.

    `max_line` is the largest number of characters of a line.

    Raises InvalidDataset, also while lines are read, if the file is no text in a stated encoding.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        refuse_other_formats(path, head)
        encoding = _encoding_of(path, head)
        if encoding != "utf-8-sig":
            notes.append(f"the file is {encoding.upper()} text")
        with path.open(encoding=encoding, newline="") as file_of_text:
            yield _bounded_lines(file_of_text, path, max_line)
    except UnicodeDecodeError as error:
        raise InvalidDataset(_reason_undecodable(path, encoding, max_line)) from error
    except OSError as error:
        raise InvalidDataset(f"{path} cannot be read: {error.strerror or error}") from error


def refuse_other_formats(path: Path, head: bytes | None = None) -> None:
    """Raise InvalidDataset with a remedy if a file has the content of another format than a table."""
    if head is None:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        raise InvalidDataset(f"{path} is {_kind_of_zip(head)}")
    for start, name, remedy in _SIGNATURES:
        if head.startswith(start):
            raise InvalidDataset(f"{path} is {name}, not a table; {remedy}")
    beginning = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if beginning.startswith(_WEB_PAGE_STARTS):
        raise InvalidDataset(
            f"{path} is a web page (HTML), not a table; a download may have saved a page with an error or a login"
        )
    if beginning.startswith(b"<?xml"):
        raise InvalidDataset(f"{path} is an XML document, not a table; export it as CSV or NDJSON")


def _kind_of_zip(head: bytes) -> str:
    if b"[Content_Types].xml" in head or b"xl/" in head or b"_rels/" in head:
        return f"an Excel workbook, not a table of text; {_SAVE_AS_CSV}"
    if b"application/vnd.oasis.opendocument" in head or b"Index/Document.iwa" in head:
        return f"a spreadsheet document, not a table of text; {_SAVE_AS_CSV}"
    return f"a zip archive, not a table; give it the ending .zip, or {_UNPACK}"


def _encoding_of(path: Path, head: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    # Half of the bytes of English text in UTF-16 are zeros.
    if head.count(0) > len(head) // 4:
        raise InvalidDataset(f"{path} is UTF-16 text without a byte order mark, or no text at all; save it as UTF-8")
    return "utf-8-sig"


def _bounded_lines(file: TextIO, path: Path, max_line: int) -> Iterator[str]:
    number = 0
    while line := file.readline(max_line + 1):
        number += 1
        if len(line) > max_line:
            raise InvalidDataset(
                f"{path}, line {number} has more than {max_line:,} characters; write one row per line, and "
                "give large images as files"
            )
        yield line


def _reason_undecodable(path: Path, encoding: str, max_line: int) -> str:
    if encoding != "utf-8-sig":
        return f"{path} begins as {encoding.upper()} text, but it is damaged; save it as UTF-8"
    number, line, position = _first_undecodable(path, max_line)
    shown = line[max(0, position - 30) : position + 20].decode("utf-8", "backslashreplace").strip()
    return (
        f"{path} is not UTF-8 text: line {number} contains the byte 0x{line[position]:02X}, in {_quoted(shown)}; save "
        'it as UTF-8 (in Excel: Save As, "CSV UTF-8")'
    )


def _quoted(text: str) -> str:
    # repr() would double the backslashes of escaped bytes.
    return f"'{text}'" if text.isprintable() else repr(text)


def _first_undecodable(path: Path, max_line: int) -> tuple[int, bytes, int]:
    """Return the number and the bytes of the first line that is not UTF-8, and the position of its first bad byte."""
    # A decoder counts bytes in a part of the file only. In Latin-1 each character is one byte. A line of more
    # characters is refused before it is decoded, so that the first bad byte is among these.
    max_bytes = 4 * max_line + _HEAD_BYTES
    with path.open(encoding="latin-1", newline="") as file:
        for number, text in enumerate(iter(lambda: file.readline(max_bytes), ""), start=1):
            line = text.encode("latin-1")
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return number, line, error.start
    raise AssertionError("the file has changed while it was read")
