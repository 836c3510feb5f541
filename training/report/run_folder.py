"""The names of the files in a run's folder, and reading them without trusting them.

Everything that a run tells of itself is a file, so that its report can be written again later. Any of the files may be
missing (the run was stopped early) and any value in them may be null.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from training.errors import InvalidRun

RUN_CARD = "run_card.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
NEIGHBOURS = "neighbours.json"
NEIGHBOUR_GRID = "neighbours.jpg"
REPORT = "report.html"
CURVES = "curves"
TENSORBOARD = "tensorboard"

# One line of metrics.jsonl, or any other JSON object.
Record = Mapping[str, object]


def require_run(run_dir: Path) -> None:
    """Raise InvalidRun unless `run_dir` is a folder that a run has written to."""
    if not run_dir.is_dir():
        raise InvalidRun(f"{run_dir} is no folder; name a folder that `akin train` has written")
    if not (run_dir / RUN_CARD).is_file() and not (run_dir / METRICS).is_file():
        missing = f"it holds neither {RUN_CARD} nor {METRICS}"
        raise InvalidRun(f"{run_dir} is no run: {missing}; name a folder that `akin train` has written")


def read_run_file(run_dir: Path, name: str) -> object:
    """Return what the JSON file `name` of a run holds, or None where there is no such file."""
    path = run_dir / name
    try:
        value: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidRun(f"{path} is no JSON ({error}); delete it, or take it from a backup") from error
    return value


def read_run_table(run_dir: Path, name: str) -> Record:
    """Return the JSON object in the file `name` of a run; empty where there is no such file."""
    value = read_run_file(run_dir, name)
    if value is not None and not isinstance(value, dict):
        raise InvalidRun(f"{run_dir / name} holds no JSON object; delete it, or take it from a backup")
    return value or {}


def number(record: Record, key: str) -> float | None:
    """Return the finite number under `key`, or None where there is none."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def table(record: Record, key: str) -> Record:
    """Return the object under `key`, or an empty one."""
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def entries(value: object) -> list[Record]:
    """Return the objects in a JSON list; anything else in it, or instead of it, is left out."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def selection_metric(record: Record) -> tuple[str, float] | None:
    """Return name and value of the metric that chooses the checkpoint, from an evaluation's record.

    "metric" is the name of another field, or the value itself; without it recall@1 is shown.
    """
    name = record.get("metric")
    if isinstance(name, str):
        value = number(record, name)
    else:
        name, value = "validation metric", number(record, "metric")
    if value is None:
        name, value = "recall_at_1", number(record, "recall_at_1")
    return None if value is None else (name, value)


def metric_title(name: str) -> str:
    """Return how a metric's key is written for people: "unseen_recall_at_1" is "recall@1, unseen classes"."""
    for prefix, words in {
        "unseen_": "unseen classes",
        "seen_": "seen classes",
        "mean_of_parts_": "mean of both",
    }.items():
        if name.startswith(prefix):
            return f"{metric_title(name.removeprefix(prefix))}, {words}"
    known = {"map_at_r": "MAP@R", "r_precision": "R-precision", "nmi": "NMI", "ami": "AMI", "f1": "pairwise F1"}
    if name.startswith("recall_at_"):
        return f"recall@{name.removeprefix('recall_at_')}"
    return known.get(name, name.replace("num_", "number of ").replace("_", " "))
