"""Records of tables, with column names normalised to those of the reader: the one reader of CSV, TSV and NDJSON."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from training.datasets.columns import ATTRIBUTE_PREFIX, Columns
from training.datasets.csv_rows import csv_rows
from training.datasets.files import short
from training.datasets.json_rows import json_rows, parse_json
from training.datasets.table_text import MAX_CSV_LINE, MAX_JSON_LINE, open_lines, refuse_other_formats
from training.errors import InvalidDataset

__all__ = [
    "ATTRIBUTE_PREFIX",
    "JSON_ENDINGS",
    "RECORD_ENDINGS",
    "TABLE_ENDINGS",
    "Columns",
    "Records",
    "parse_json",
    "read_records",
]

# The endings of files that are tables wherever they lie.
RECORD_ENDINGS = (".csv", ".tsv", ".ndjson", ".jsonl")
# The endings of files that are tables if they are named as one; beside images they are often something else.
TABLE_ENDINGS = (*RECORD_ENDINGS, ".txt", ".tab", ".json")
JSON_ENDINGS = frozenset({".ndjson", ".jsonl", ".json"})


class Records:
    """The records of a table, which is read again in each iteration.

    `notes` are set when the first record has been read: what was understood that is not plain CSV or NDJSON in UTF-8.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        self._columns = columns

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, object] | ValueError]]:
        """Yield (line number, record), with an error instead for a bad line.

        Raises InvalidDataset if the file as a whole cannot be read.
        """
        ending = self.path.suffix.lower()
        if ending not in TABLE_ENDINGS:
            if self.path.is_file():
                refuse_other_formats(self.path)
            endings = ", ".join(RECORD_ENDINGS[:-1])
            raise InvalidDataset(f"{self.path} is neither a folder nor a {endings} or {RECORD_ENDINGS[-1]} file")
        notes: list[str] = []
        read = json_rows if ending in JSON_ENDINGS else csv_rows
        max_line = MAX_JSON_LINE if ending in JSON_ENDINGS else MAX_CSV_LINE
        with open_lines(self.path, notes, max_line=max_line) as lines:
            for line_number, record in read(self.path, lines, self._columns, notes):
                if len(notes) != len(self.notes):
                    self.notes = tuple(notes)
                if isinstance(record, dict | ValueError):
                    yield line_number, record
                else:
                    yield line_number, ValueError(f"a JSON object is needed, got {short(record)}")
        self.notes = tuple(notes)


def read_records(path: Path, columns: Columns) -> Records:
    """Return the records of a table; nothing is read before the first iteration."""
    return Records(path, columns)
