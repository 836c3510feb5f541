"""The ratios of several benchmarks in one table.

    python -m benchmarks.table FILE...

Each file is what a benchmark wrote with `--json`: an object whose "rows" have "what", "ratio" and "goal", such as
{"rows": [{"what": "/search p50 / forward", "ratio": 0.57, "goal": "<= 0.75"}]}. Other keys of the object are ignored.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_GOAL = re.compile(r"(<=|>=|<|>) *([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Row:
    """A measured ratio; the goal is a comparison with a number, such as "<= 0.75", or empty."""

    what: str
    ratio: float
    goal: str = ""

    def is_met(self) -> bool | None:
        """Tell whether the ratio meets the goal; None without one. Raises ValueError for a goal of another form."""
        if not self.goal:
            return None
        match = _GOAL.fullmatch(self.goal)
        if match is None:
            raise ValueError(f"the goal {self.goal!r} is not a comparison such as '<= 0.75'")
        comparison, limit = match[1], float(match[2])
        return {
            "<=": self.ratio <= limit, ">=": self.ratio >= limit, "<": self.ratio < limit, ">": self.ratio > limit,
        }[comparison]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    print(format_rows([row for file in parser.parse_args().files for row in read_rows(file)]))


def read_rows(file: Path) -> list[Row]:
    """Read the rows of one benchmark; raises SystemExit if the file has none."""
    try:
        return [Row(**stored) for stored in json.loads(file.read_text(encoding="utf-8"))["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{file} has no rows of a benchmark ({error!r}); write it with --json") from error


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Write rows that `read_rows` reads."""
    stored = {"rows": [asdict(row) for row in rows]}
    file.write_text(json.dumps(stored, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def format_rows(rows: Sequence[Row]) -> str:
    """Return the rows as text; a missed goal is marked."""
    lines = [("what", "ratio", "goal", "")]
    for row in rows:
        lines.append((row.what, f"{row.ratio:.2f}", row.goal, "missed" if row.is_met() is False else ""))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        f"{what:{widths[0]}s}  {ratio:>{widths[1]}s}  {goal:{widths[2]}s}  {mark}".rstrip()
        for what, ratio, goal, mark in lines
    )


if __name__ == "__main__":
    main()
