"""Rows of tables with delimiters, as spreadsheets write them.

Columns and rows without content are ignored. The delimiter is the only one with which the first line names the needed
columns, or the one that the first line states (`sep=;`).
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from training.datasets.columns import Columns
from training.datasets.files import short
from training.errors import InvalidDataset

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# Excel reads and writes this line; its ends depend on the program.
_DELIMITER_LINE = re.compile(r'"?sep=([,;\t|])"?[,;\t|]*\s*', re.IGNORECASE)
# A quoted name may contain line breaks.
_MAX_HEADER_LINES = 20
_MAX_HEADER_CHARACTERS = 100_000
_NUM_LINES_WITH_TITLE = 10


@dataclass(frozen=True, slots=True)
class _Header:
    """The first line: known names of the columns, "" for a column without a name."""

    names: tuple[str, ...]
    delimiter: str
    num_lines: int  # up to the end of the header
    # Spaces after delimiters stand before quotes too, which would otherwise not be quotes.
    has_spaces: bool


def csv_rows(
    path: Path, lines: Iterator[str], columns: Columns, notes: list[str]
) -> Iterator[tuple[int, dict[str, str | None] | ValueError]]:
    """Yield (number of the row's first line, row); a field that a short row lacks is None.

    Raises InvalidDataset if the file as a whole cannot be read.
    """
    header = _read_header(path, lines, columns)
    if header.delimiter != ",":
        notes.append(f"columns are separated by {_DELIMITERS[header.delimiter]}")
    names, num_columns = header.names, len(header.names)
    unnamed = [position for position, name in enumerate(names) if not name]
    reader = csv.reader(lines, delimiter=header.delimiter, strict=True, skipinitialspace=header.has_spaces)
    next_line = header.num_lines + 1
    try:
        for fields in reader:
            line, next_line = next_line, header.num_lines + reader.line_num + 1
            # The first test is the fast one; few rows begin with an empty field.
            if (not fields or not fields[0] or fields[0].isspace()) and not "".join(fields).strip():
                continue
            if unnamed:
                _check_unnamed(path, line, fields, unnamed)
            if len(fields) > num_columns and "".join(fields[num_columns:]).strip():
                yield line, _too_many_fields(fields, num_columns)
                continue
            row: dict[str, str | None] = dict(zip(names, fields, strict=False))
            if len(fields) < num_columns:
                row.update(dict.fromkeys(names[len(fields) :]))
            if unnamed:
                row.pop("", None)
            yield line, row
    except csv.Error as error:
        raise InvalidDataset(f"{path}, line {next_line}: {_reason(error)}; nothing was read") from error


def _read_header(path: Path, lines: Iterator[str], columns: Columns) -> _Header:
    stated = ""
    num_lines = 0
    text = ""
    for line in lines:
        num_lines += 1
        if num_lines == 1 and (match := _DELIMITER_LINE.fullmatch(line)):
            stated = match[1]
        elif line.strip(' \t\r\n,;|"\u00a0'):
            text = line
            break
    if len(text) > _MAX_HEADER_CHARACTERS:
        raise InvalidDataset(
            f"{path} has a first line of more than {_MAX_HEADER_CHARACTERS:,} characters; it must name the columns, "
            f"such as {_example(columns)}"
        )
    if not text:
        missing = " or ".join(repr(name) for name in columns.needed[0]) if columns.needed else "with a name"
        raise InvalidDataset(
            f"{path} has no column {missing}; its first line names nothing, since the file is empty; the first line "
            f"must name the columns, such as {_example(columns)}"
        )
    for line in islice(lines, _MAX_HEADER_LINES if text.count('"') % 2 else 0):
        text += line
        num_lines += 1
        if text.count('"') % 2 == 0:
            break
    delimiter = _delimiter_of(text, stated, columns)
    if delimiter is None:
        raise InvalidDataset(f"{path} {_reason_no_columns(text, stated, num_lines, lines, columns)}")
    fields = _split(text, delimiter)
    names = tuple(columns.known(field) for field in fields)
    if problem := columns.problem_of([name for name in names if name]):
        raise InvalidDataset(f"{path} has {problem}")
    return _Header(names, delimiter, num_lines, any(field.startswith(" ") for field in fields))


def _delimiter_of(text: str, stated: str, columns: Columns) -> str | None:
    """Return the delimiter with which the first line names the needed columns, or None if none does."""
    fitting = [d for d in (stated or _DELIMITERS) if columns.has_needed(_names_in(text, d, columns))]
    # Several fit only if there is a single column, or if a name contains another delimiter.
    without_problem = [d for d in fitting if not columns.problem_of([n for n in _names_in(text, d, columns) if n])]
    return next(iter(without_problem or fitting), None)


def _reason_no_columns(text: str, stated: str, num_lines: int, lines: Iterator[str], columns: Columns) -> str:
    """Describe a first line that lacks a needed column, with a hint at the cause."""

    def num_known(delimiter: str) -> int:
        return sum(name in columns.names for name in _names_in(text, delimiter, columns))

    delimiter = stated or max(_DELIMITERS, key=num_known)
    names = _names_in(text, delimiter, columns)
    missing = next(needed for needed in columns.needed if not set(needed) & set(names))
    found = ", ".join(short(name) for name in names[:20] if name) or "nothing"
    reason = f"has no column {' or '.join(repr(name) for name in missing)}; its first line names {found}"
    if text.lstrip().startswith(("{", "[")):
        return f"{reason}; it looks like JSON, so give the file the ending .ndjson"
    for number, line in enumerate(islice(lines, _NUM_LINES_WITH_TITLE), start=num_lines + 1):
        if _delimiter_of(line, stated, columns):
            return f"{reason}; line {number} names the columns, so remove the lines above it"
    if num_known(delimiter) == 0:
        return f"{reason}; the first line must name the columns, such as {_example(columns)}"
    return reason


def _names_in(text: str, delimiter: str, columns: Columns) -> list[str]:
    return [columns.known(field) for field in _split(text, delimiter)]


def _split(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error:
        return []


def _example(columns: Columns) -> str:
    return ",".join(alternatives[0] for alternatives in columns.needed)


def _check_unnamed(path: Path, line: int, fields: list[str], unnamed: list[int]) -> None:
    """Raise InvalidDataset if a column without a name has a value: nothing says what the value means."""
    for position in unnamed:
        if position < len(fields) and fields[position].strip():
            raise InvalidDataset(
                f"{path} has no name for column {position + 1}, but line {line} has the value "
                f"{short(fields[position])} in it; name the column in the first line, or delete it"
            )


def _too_many_fields(fields: list[str], num_columns: int) -> ValueError:
    surplus = short(fields[num_columns : num_columns + 10])
    return ValueError(
        f"the row has more fields than the first line has columns: {surplus}; put text that contains the delimiter in "
        "double quotes"
    )


def _reason(error: csv.Error) -> str:
    text = str(error)
    if "expected after" in text:
        return 'a quoted field goes on after its closing quote; write a quote within quotes twice ("")'
    if "field limit" in text:
        return f"a field has more than {csv.field_size_limit():,} characters; a quote may not be closed"
    return "a field is not complete; a quote may not be closed"
