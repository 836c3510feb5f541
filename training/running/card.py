"""The run card: every setting, version and hash needed to understand and repeat a run."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.config import TrainingConfig, config_from_tables
from training.errors import InvalidRun
from training.loop_parts import LoopResult
from training.report.run_folder import REPORT, RUN_CARD, read_run_table, table
from training.running.preparation import TrainingData

_PACKAGES = ("akin", "torch", "torchvision", "numpy", "pillow", "scikit-learn", "safetensors", "timm")
_GIT_SECONDS = 5

Card = dict[str, Any]


def new_card(data_path: Path, data: TrainingData, config: TrainingConfig, device: torch.device, command: str) -> Card:
    """Create the card of a new run."""
    return {
        "title": f"Training on {data_path.resolve().name}",
        "command": command,
        "status": "running",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": _name_of(device),
        "git_sha": _git_sha(),
        "akin": _version("akin"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "config": config.to_json(),
        "snapshot": {
            "hash": data.snapshot.snapshot_hash,
            "layout": data.snapshot.layout,
            "path": str(data_path.resolve()),
            "num_images": len(data.snapshot.images),
            "num_classes": len(set(data.snapshot.labels)),
        },
        "split": _describe_split(data),
        "steps": config.steps,
        "warnings": list(data.notes),
    }


def write_json(path: Path, value: object) -> None:
    """Write a JSON file of a run atomically."""
    aside = path.with_suffix(".draft")
    with aside.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def finished_card(card: Card, data: TrainingData, config: TrainingConfig, result: LoopResult) -> Card:
    """Return the card with the outcome of its run."""
    finished = {
        **card,
        "status": "interrupted" if result.status == "interrupted" else "completed",
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "stopped_early": result.status == "stopped_early",
        "final_relaxation": result.final_relaxation,
        "warnings": [*data.notes, *result.warnings],
    }
    if result.best_metric is not None:
        metric = result.metric_name or config.evaluation.metric
        finished["best"] = {"step": result.best_step, "metric": metric, "value": result.best_metric}
        finished["metric_of_kept_weights"] = result.kept_metric
    return finished


def continued_card(run_dir: Path, card: Card) -> Card:
    """Return the card of a resumed run; raises InvalidRun if it began with other data or another configuration."""
    stored = dict(read_run_table(run_dir, RUN_CARD))
    # A run without its page was killed while writing its results, which are then written again.
    if stored.get("status") == "completed" and (run_dir / REPORT).exists():
        raise InvalidRun(f"the run in {run_dir} is complete; train into another folder, or read {run_dir}/report.html")
    hashes = [table(of, "snapshot").get("hash") for of in (stored, card)]
    if hashes[0] != hashes[1]:
        raise InvalidRun(
            f"{run_dir} was started with other images (snapshot {str(hashes[0])[:12]}, now {str(hashes[1])[:12]}); "
            "give the same data again, or train into another folder"
        )
    # A card of an earlier version lacks settings that were added since; they had their defaults.
    config = config_from_tables(table(stored, "config")).to_json()
    if config != card["config"]:
        names = ", ".join(_differences(config, card["config"])[:5])
        raise InvalidRun(
            f"{run_dir} was started with another configuration ({names}); give the same, or train into another folder"
        )
    stored.pop("error", None)
    earlier = {name: stored.get(name) for name in ("created_at", "device", "git_sha", "versions", "command")}
    return {**card, "created_at": stored.get("created_at"), "earlier_parts": [*_list(stored), earlier]}


def _list(stored: Card) -> list[Any]:
    parts = stored.get("earlier_parts")
    return parts if isinstance(parts, list) else []


def _differences(first: Any, second: Any, prefix: str = "") -> list[str]:
    if not isinstance(first, dict) or not isinstance(second, dict):
        return [] if first == second else [f"{prefix}: {first!r}, now {second!r}"]
    found = []
    for name in sorted(first.keys() | second.keys()):
        found += _differences(first.get(name), second.get(name), f"{prefix}.{name}".lstrip("."))
    return found


def _describe_split(data: TrainingData) -> Card:
    described: Card = {
        "train_images": len(data.train),
        "train_classes": data.num_classes,
        "unseen_classes": list(data.split.unseen_classes),
        "validation_classes": list(data.split.validation_classes),
    }
    for name, part in (("validation", data.split.validation), ("test", data.split.test)):
        if part is not None:
            described[f"{name}_queries"] = len(part.query)
            described[f"{name}_queries_unseen"] = int(np.count_nonzero(part.is_unseen))
    return described


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_sha() -> str | None:
    """Return the commit of the code if it runs from a checkout, else None."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607  # git is found on PATH; the arguments are constants
            cwd=root,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
