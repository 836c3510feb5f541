"""The table and the JSON file of a check."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_check.settings import Row

FAILED = "failed"


def has_failed(rows: Sequence[Row]) -> bool:
    """Tell whether a part or a test failed."""
    return any(row.measure == FAILED and row.value != 0 for row in rows)


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as text in three columns; consecutive rows of a part name it once."""
    headings = ("part", "measure", "value")
    lines = [headings, *((row.part, row.measure, _shown(row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(2)]
    formatted = []
    previous = ""
    for number, (part, measure, value) in enumerate(lines):
        named = part if part != previous else ""
        previous = part
        formatted.append(f"{named:{widths[0]}s}  {measure:{widths[1]}s}  {value}".rstrip())
        if number == 0:
            formatted.append("  ".join("-" * width for width in (*widths, len(headings[2]))))
    return "\n".join(formatted)


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as a list of objects with part, measure, value and unit."""
    stored = [{"part": row.part, "measure": row.measure, "value": row.value, "unit": row.unit} for row in rows]
    path.write_text(json.dumps(stored, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> list[Row]:
    """Read what `write_json` wrote."""
    return [Row(**stored) for stored in json.loads(path.read_text(encoding="utf-8"))]


def _shown(row: Row) -> str:
    if not isinstance(row.value, float):
        value = str(row.value)
    elif row.unit:
        value = f"{row.value:,.1f}"
    else:
        value = f"{row.value:.3f}"
    return f"{value} {row.unit}".rstrip()
