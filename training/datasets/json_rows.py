"""Rows of JSON files: one object per line (NDJSON), or a list or objects that span several lines."""

import io
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from training.datasets.columns import Columns
from training.datasets.files import short
from training.errors import InvalidDataset

# A list, or an object of several lines, cannot be read line by line.
_MAX_WHOLE_BYTES = 64 * 2**20
_SPACE = re.compile(r"[ \t\r\n\ufeff]*")
_ONE_PER_LINE = "write one object per line, for example with: jq -c"


class _NotANumber(ValueError):
    """NaN and infinity, which Python's parser would accept."""


def _refuse_constant(constant: str) -> object:
    raise _NotANumber(f"{constant} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def parse_json(text: str) -> object:
    """Parse strict JSON; raises ValueError for NaN, infinity and anything else that is not JSON."""
    try:
        return _DECODER.decode(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise ValueError(_reason(error)) from error


def json_rows(
    path: Path, lines: Iterator[str], columns: Columns, notes: list[str]
) -> Iterator[tuple[int, object | ValueError]]:
    """Yield (line number, row), with known names of columns, or the error of a line.

    In a list, and of objects that span several lines, the number is that of the row.

    Raises InvalidDataset if the file as a whole cannot be read.
    """
    num_blank = 0
    first = ""
    for first in lines:
        if first.strip():
            break
        num_blank += 1
    _refuse_csv(path, first, columns)
    values = _values_of_file(path, first, lines)
    if isinstance(values, _Lines):
        numbered = _values_of_lines(values.lines, num_blank)
    else:
        notes.append("the file is a JSON list or has objects of several lines; rows are numbered, not lines")
        numbered = enumerate(values, start=1)
    known = _KnownNames(columns)
    for number, value in numbered:
        yield number, known.renamed(value) if isinstance(value, dict) else value


class _Lines:
    """The lines of a file that has one value per line."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines = lines


def _values_of_file(path: Path, first: str, lines: Iterator[str]) -> "_Lines | Iterator[object]":
    """Return the lines, or the values of a file that cannot be read line by line."""
    is_list = first.lstrip("\ufeff \t").startswith("[")
    is_whole = _is_json(first)
    if not first or (is_whole and not is_list):
        return _Lines(chain([first], lines))
    second = next((line for line in lines if line.strip()), "") if is_whole else ""
    if is_whole and second:  # a file with one list per line
        return _Lines(chain([first, second], lines))
    if path.stat().st_size > _MAX_WHOLE_BYTES:
        if is_list or first.strip() == "{":
            raise InvalidDataset(
                f"{path} is a list or has objects of several lines, which are read up to {_MAX_WHOLE_BYTES:,} bytes; "
                f"{_ONE_PER_LINE}"
            )
        return _Lines(chain([first], lines))
    text = first + "".join(lines)
    # One bad line is an error of that line; a first object that is complete only after more lines is none.
    if not is_list and not _goes_on(first, text):
        return _Lines(iter(io.StringIO(text, newline="")))
    return _values_of_text(path, text)


def _refuse_csv(path: Path, first: str, columns: Columns) -> None:
    """Raise InvalidDataset if the first line names columns: each line would be an error without this hint."""
    if any(columns.known(name.strip('"')) in columns.names for name in re.split(r"[,;\t|]", first[:10_000])):
        raise InvalidDataset(f"{path} is not JSON: its first line names columns, as CSV does; give it the ending .csv")


def _values_of_lines(lines: Iterator[str], num_blank: int) -> Iterator[tuple[int, object | ValueError]]:
    for number, line in enumerate(lines, start=num_blank + 1):
        if line.isspace() or not line:
            continue
        try:
            yield number, parse_json(line)
        except ValueError as error:
            yield number, error


def _values_of_text(path: Path, text: str) -> Iterator[object]:
    """Yield the elements of a list, or values that follow each other."""
    position = _after_space(text, 0)
    is_list = text.startswith("[", position)
    try:
        if is_list:
            yield from _elements(text, position)
            return
        while position < len(text):
            value, position = _DECODER.raw_decode(text, position)
            yield value
            position = _after_space(text, position)
    except (ValueError, RecursionError) as error:
        raise InvalidDataset(f"{path} is {_reason(error)}; nothing was read") from error


def _elements(text: str, position: int) -> Iterator[object]:
    """Yield the elements of the list that begins at `position` and ends the text, one after the other."""
    position = _after_space(text, position + 1)
    if not text.startswith("]", position):
        while True:
            value, position = _DECODER.raw_decode(text, position)
            yield value
            position = _after_space(text, position)
            if not text.startswith(",", position):
                break
            position = _after_space(text, position + 1)
    end = _after_space(text, position + 1)
    if not text.startswith("]", position) or end < len(text):
        raise json.JSONDecodeError("", text, end if text.startswith("]", position) else position)


def _goes_on(first: str, text: str) -> bool:
    """Return whether the first value of the text begins in the first line and ends in another."""
    try:
        return _DECODER.raw_decode(text, _after_space(text, 0))[1] > len(first)
    except (ValueError, RecursionError):
        return False


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None  # the pattern matches nothing too
    return match.end()


def _reason(error: Exception) -> str:
    """Describe why text is not JSON, in other words than those of the parser."""
    if isinstance(error, RecursionError):
        return "not JSON that is read here: nested too deeply"
    if isinstance(error, _NotANumber):
        return f"not JSON: {error}"
    if not isinstance(error, json.JSONDecodeError):
        return "not JSON that is read here: a number has too many digits"
    rest = error.doc[error.pos : error.pos + 30].strip()
    line = f"line {error.lineno}, " if "\n" in error.doc.strip() else ""
    return (
        f"not JSON: {line}character {error.colno}, {f'at {short(rest)}' if rest else 'where the text ends too early'}"
    )


class _KnownNames:
    """Normalise the names of rows, most of which have the same."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._names: tuple[str, ...] = ()
        self._known: tuple[str, ...] = ()

    def renamed(self, row: dict[str, object]) -> dict[str, object] | ValueError:
        names = tuple(row)
        if names != self._names:
            known = tuple(self._columns.known(name) for name in names)
            if problem := self._columns.problem_of(known):
                return ValueError(f"the row has {problem}")
            self._names, self._known = names, known
        return row if self._known == names else dict(zip(self._known, row.values(), strict=True))
