"""Records of CSV and NDJSON files, with column names normalised to those of the reader.

An unknown name is an error, since a misspelt column would otherwise be lost silently.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.datasets.files import open_text, short
from training.errors import InvalidDataset

ATTRIBUTE_PREFIX = "attributes."
RECORD_ENDINGS = (".csv", ".ndjson", ".jsonl")


@dataclass(frozen=True, slots=True)
class Columns:
    """The allowed column names, besides `attributes.NAME` with `has_attributes`."""

    names: tuple[str, ...]
    aliases: Mapping[str, str]
    needed: tuple[tuple[str, ...], ...]  # a CSV file needs one column of each tuple
    has_attributes: bool = True

    def known(self, name: str) -> str:
        """Return the column name for a name or its alias."""
        return self.aliases.get(name, name)

    def problem_of(self, names: list[str]) -> str | None:
        """Return a message about the first unknown or repeated name, if any."""
        for name in names:
            if name not in self.names and not (self.has_attributes and name.startswith(ATTRIBUTE_PREFIX)):
                kept = f", and {ATTRIBUTE_PREFIX}{name or 'NAME'} would keep it as an attribute"
                known = f"columns are {', '.join(self.names)}{kept if self.has_attributes else ''}"
                return f"an unknown column {name!r}; {known}"
            if names.count(name) > 1:
                return f"two columns {name!r}"
        return None


def read_records(path: Path, columns: Columns) -> Iterator[tuple[int, Mapping[str, object] | ValueError]]:
    """Yield (line number, record) of a .csv, .ndjson or .jsonl file, with an error instead for a bad line.

    Raises InvalidDataset if the file as a whole cannot be read.
    """
    ending = path.suffix.lower()
    if ending not in RECORD_ENDINGS:
        raise InvalidDataset(f"{path} is neither a folder nor a .csv, .ndjson or .jsonl file")
    for line_number, record in (_csv_records if ending == ".csv" else _json_records)(path, columns):
        try:
            yield line_number, _checked(record)
        except ValueError as error:
            yield line_number, error


def parse_json(text: str) -> object:
    """Parse strict JSON; raises ValueError for NaN, infinity and anything else that is not JSON."""

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("not JSON that is read here: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error


def _checked(record: object) -> Mapping[str, object]:
    if isinstance(record, ValueError):
        raise record
    if not isinstance(record, dict):
        raise ValueError(f"a JSON object is needed, got {short(record)}")
    if None in record:
        raise ValueError(f"the row has more fields than the first line has columns: {short(record[None])}")
    return record


def _csv_records(path: Path, columns: Columns) -> Iterator[tuple[int, object]]:
    with open_text(path) as file:
        reader = csv.DictReader(file, strict=True)
        names = [columns.known(name) for name in reader.fieldnames or ()]
        _check_first_line(path, names, columns)
        reader.fieldnames = names
        try:
            for record in reader:
                yield reader.line_num, record
        except csv.Error as error:
            raise InvalidDataset(
                f"{path}, after line {reader.line_num}: {error}; nothing was read, a quote may not be closed"
            ) from error


def _check_first_line(path: Path, names: list[str], columns: Columns) -> None:
    for alternatives in columns.needed:
        if not set(alternatives) & set(names):
            needed = " or ".join(repr(name) for name in alternatives)
            found = ", ".join(repr(name) for name in names) or "nothing"
            hint = "; columns are parted by commas, not semicolons" if any(";" in name for name in names) else ""
            raise InvalidDataset(f"{path} has no column {needed}; its first line names {found}{hint}")
    if problem := columns.problem_of(names):
        raise InvalidDataset(f"{path} has {problem}")


def _json_records(path: Path, columns: Columns) -> Iterator[tuple[int, object]]:
    with open_text(path) as file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield line_number, _with_known_names(parse_json(line), columns)
            except ValueError as error:
                yield line_number, error


def _with_known_names(record: object, columns: Columns) -> object:
    """Normalise the names of a row; raises ValueError for an unknown or repeated name."""
    if not isinstance(record, dict):
        return record
    renamed = [columns.known(str(name)) for name in record]
    if problem := columns.problem_of(renamed):
        raise ValueError(f"the row has {problem}")
    return dict(zip(renamed, record.values(), strict=True))
