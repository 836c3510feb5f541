"""The names of the files in a run's folder, and functions that read them defensively.

The report can be written again from these files. Any of them may be missing, for example after an early stop, and any
value may be null.
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
    """Raise InvalidRun unless `run_dir` is the folder of a run."""
    if not run_dir.is_dir():
        raise InvalidRun(f"{run_dir} is not a folder; name a folder that `akin train` has written")
    if not (run_dir / RUN_CARD).is_file() and not (run_dir / METRICS).is_file():
        missing = f"it holds neither {RUN_CARD} nor {METRICS}"
        raise InvalidRun(f"{run_dir} is not a training run: {missing}; name a folder that `akin train` has written")


def read_run_file(run_dir: Path, name: str) -> object:
    """Return the content of the JSON file `name` of a run, or None without the file."""
    path = run_dir / name
    try:
        value: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidRun(f"{path} is not JSON ({error}); delete it, or take it from a backup") from error
    return value


def read_run_table(run_dir: Path, name: str) -> Record:
    """Return the JSON object in the file `name` of a run; empty without the file."""
    value = read_run_file(run_dir, name)
    if value is not None and not isinstance(value, dict):
        raise InvalidRun(f"{run_dir / name} holds no JSON object; delete it, or take it from a backup")
    return value or {}


def number(record: Record, key: str) -> float | None:
    """Return the finite number under `key`, or None."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def table(record: Record, key: str) -> Record:
    """Return the object under `key`, or an empty one."""
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def entries(value: object) -> list[Record]:
    """Return the objects in a JSON list; other values are ignored."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def selection_metric(record: Record) -> tuple[str, float] | None:
    """Return name and value of the metric that selects the checkpoint, from an evaluation's record.

    "metric" is the name of another field, or the value itself; the default is recall@1.
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
    """Return the title of a metric: "unseen_recall_at_1" becomes "recall@1, unseen classes"."""
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
