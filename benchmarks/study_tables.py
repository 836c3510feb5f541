"""The tables of docs/study.md, from the results of projections_study.py.

    python benchmarks/study_tables.py            write them between the markers in docs/study.md
    python benchmarks/study_tables.py --print    print them

Values are mean ± standard deviation over seeds. Differences are paired by seed, with the standard error of the mean in
brackets; a difference of less than two standard errors is not significant.
"""

import argparse
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "study.md"
TITLES = {
    "recall_at_1": "recall@1",
    "map_at_r": "MAP@R",
    "seen_recall_at_1": "recall@1, seen",
    "unseen_recall_at_1": "recall@1, unseen",
}
METRICS = {
    "omniglot": ("map_at_r", "recall_at_1"),
    "grocery": ("recall_at_1", "seen_recall_at_1", "unseen_recall_at_1"),
    "cars196": ("map_at_r", "recall_at_1"),
    "cars196-96px": ("map_at_r", "recall_at_1"),
}
Row = dict[str, Any]


def compare_table(rows: list[Row], metrics: Iterable[str]) -> str:
    """Return, for each loss and method, the metrics, the difference to plain training, and the time of a run."""
    metrics = tuple(metrics)
    header = ["loss", "method", *(TITLES[name] for name in metrics), f"{TITLES[metrics[0]]} − plain", "pull ratio", "s"]
    lines = [header, ["---"] * len(header)]
    for loss in dict.fromkeys(row["loss"] for row in rows):
        of_loss = [row for row in rows if row["loss"] == loss]
        plain = {row["seed"]: row for row in of_loss if row["setting"] == "plain"}
        for setting in dict.fromkeys(row["setting"] for row in of_loss):
            runs = [row for row in of_loss if row["setting"] == setting]
            cells = [spread([row[name] for row in runs]) for name in metrics]
            differences = [row[metrics[0]] - plain[row["seed"]][metrics[0]] for row in runs if row["seed"] in plain]
            difference = "" if setting == "plain" else paired(differences)
            ratios = [row["mean_pull_ratio"] for row in runs if "mean_pull_ratio" in row]
            ratio = f"{statistics.mean(ratios):.3f}" if ratios else ""
            seconds = f"{statistics.median(row['seconds'] for row in runs):.0f}"
            lines.append([loss.replace("_", " "), setting, *cells, difference, ratio, seconds])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def over_losses_table(rows: list[Row], metrics: Iterable[str]) -> str:
    """Return each method's difference to plain training, over all losses and seeds."""
    metrics = tuple(metrics)
    plain = {(row["loss"], row["seed"]): row for row in rows if row["setting"] == "plain"}
    lines = [["method", *(f"{TITLES[name]} − plain" for name in metrics), "better than plain", "time / plain"]]
    lines.append(["---"] * len(lines[0]))
    for setting in dict.fromkeys(row["setting"] for row in rows):
        runs = [row for row in rows if row["setting"] == setting and (row["loss"], row["seed"]) in plain]
        if setting == "plain":
            continue
        pairs = [(row, plain[row["loss"], row["seed"]]) for row in runs]
        cells = [paired([row[name] - base[name] for row, base in pairs]) for name in metrics]
        wins = sum(row[metrics[0]] > base[metrics[0]] for row, base in pairs)
        time = statistics.median(row["seconds"] / base["seconds"] for row, base in pairs)
        lines.append([setting, *cells, f"{wins} of {len(pairs)}", f"{time:.2f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def search_table(rows: list[Row], metrics: Iterable[str]) -> str:
    """Return the metrics of all settings tried on validation classes, for each loss over seeds."""
    metrics = tuple(metrics)
    by_setting: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_setting[row["setting"]].append(row)
    losses = tuple(dict.fromkeys(row["loss"] for row in rows))
    header = ["setting", *(f"{loss.replace('_', ' ')}, {TITLES[name]}" for loss in losses for name in metrics)]
    lines = [[*header, "pull ratio"], ["---"] * (len(header) + 1)]
    for setting, runs in by_setting.items():
        cells = [spread([row[name] for row in runs if row["loss"] == loss]) for loss in losses for name in metrics]
        ratios = [row["mean_pull_ratio"] for row in runs if "mean_pull_ratio" in row]
        lines.append([setting, *cells, f"{statistics.mean(ratios):.4f}" if ratios else ""])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: list[float]) -> str:
    """Return mean ± standard deviation, or the value itself if there is only one."""
    if len(values) < 2:
        return ", ".join(f"{value:.3f}" for value in values)
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def paired(differences: list[float]) -> str:
    """Return the mean difference, with the standard error of the mean in brackets."""
    if len(differences) < 2:
        return ", ".join(f"{value:+.3f}" for value in differences)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.3f} ({error:.3f})"


def tables() -> dict[str, str]:
    """Return the tables by the names of their markers in the page."""
    made = {}
    for path in sorted(RESULTS.glob("*.jsonl")):
        task, _, phase = path.stem.rpartition("-")
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        metrics = METRICS[task]
        if phase == "search":
            made[f"{task}-search"] = search_table(rows, metrics)
        else:
            made[f"{task}-compare"] = compare_table(rows, metrics)
            made[f"{task}-over-losses"] = over_losses_table(rows, metrics)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true")
    arguments = parser.parse_args()
    made = tables()
    if arguments.print:
        for name, table in made.items():
            print(f"\n{name}\n\n{table}")
        return
    page = PAGE.read_text(encoding="utf-8")
    for name, table in made.items():
        marker = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        # Split and joined, since re.sub would interpret backslashes of a table.
        parts = marker.split(page)
        count = len(parts) // 3
        if count == 1:
            page = parts[0] + parts[1] + table + "\n" + parts[2] + parts[3]
        if count != 1:
            print(f"docs/study.md has {count} markers for {name}; one is needed")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
