"""A run's folder as a training of 1,000 steps would write it."""

import json
import math
from pathlib import Path

from tests.images import png
from training.report.neighbours import Neighbour, NeighbourRow, write_neighbours

STEPS = 1000
PROJECTION_STEPS = 100


def step_record(step: int, **changed) -> dict[str, object]:
    progress = 1 - math.exp(-step / 300)
    wave = math.sin(step / 37)
    record = {
        "kind": "step", "step": step, "seconds": step / 100, "epoch": step // 50, "learning_rate": 1e-3,
        "loss": 1.2 - 0.9 * progress + 0.05 * wave, "active_share": 0.9 - 0.6 * progress, "gradient_norm": 3.0,
        "drift": (step % PROJECTION_STEPS) / 500,
        "pull_ratio": 0.0 if step < PROJECTION_STEPS else 4e-4 * (step % PROJECTION_STEPS) ** 1.2,
        "positive_distance_q10": 0.3 - 0.1 * progress, "positive_distance_q50": 0.7 - 0.3 * progress + 0.02 * wave,
        "positive_distance_q90": 1.0 - 0.3 * progress, "negative_distance_q10": 0.7 + 0.3 * progress,
        "negative_distance_q50": 1.0 + 0.3 * progress + 0.02 * wave, "negative_distance_q90": 1.2 + 0.3 * progress,
        "embedding_spread": 0.4 + 0.5 * progress, "mined_share": 0.5 if step > 100 else 0.0,
        "representative_age": step % PROJECTION_STEPS, "projection": step // PROJECTION_STEPS,
    }  # fmt: skip
    return record | changed


def metrics_records() -> list[dict[str, object]]:
    records: list[dict[str, object]] = []
    for step in range(0, STEPS + 1, 10):
        if step % PROJECTION_STEPS == 0:
            number = step // PROJECTION_STEPS
            records.append({"kind": "projection", "step": step, "projection": number, "pull_weight": 0.005})
        records.append(step_record(step))
        if step % 200 == 0:
            rise = 1 - math.exp(-step / 250)
            recalls = {"recall_at_1": 0.28 + 0.33 * rise, "seen_recall_at_1": 0.28 + 0.4 * rise}
            unseen = 0.25 + 0.25 * rise - 1e-7 * step**2
            records.append(
                {"kind": "evaluation", "step": step, "seconds": step / 90, **recalls, "unseen_recall_at_1": unseen,
                 "map_at_r": 0.9 * recalls["recall_at_1"], "metric": "mean_of_parts_recall_at_1",
                 "mean_of_parts_recall_at_1": (recalls["seen_recall_at_1"] + unseen) / 2}
            )  # fmt: skip
    records.append({"kind": "warning", "step": 120, "message": "the pull is inert: raise projections.pull_weight"})
    return records


def run_card(labels: list[str]) -> dict[str, object]:
    config = {
        "steps": STEPS, "seed": 3, "network": {"backbone": "efficientnet_lite0", "train": "head", "checkpoint": ""},
        "batches": {"classes_per_batch": 8, "images_per_class": 4, "representatives": "alternate"},
        "loss": {"name": "multi_similarity", "options": {"alpha": 2.0, "beta": 40.0}},
        "projections": {"passes": 8.0, "pull": "decoupled", "pull_weight": 0.005},
        "evaluation": {"every": 200, "ks": [1, 2, 4, 8], "bf16": True},
    }  # fmt: skip
    split = {"train_images": 2640, "train_classes": len(labels), "test_queries": 2485, "unseen_classes": 20}
    snapshot = {"hash": "f00d" * 16, "layout": "grocery", "path": "groceries", "num_images": 5421, "num_classes": 81}
    return {
        "title": "Grocery, head, multi-similarity", "akin": "0.1.0", "command": "akin train --data groceries --out run",
        "status": "finished", "created_at": "2025-05-01T10:00:00Z", "seconds": 41.3, "steps": STEPS, "device": "cpu",
        "git_sha": "0123abcd", "versions": {"python": "3.13.1", "torch": "2.13.0"}, "config": config,
        "snapshot": snapshot,
        "split": split, "best": {"step": 800, "metric": "mean_of_parts_recall_at_1", "value": 0.561},
        "warnings": ["the pull is inert: raise projections.pull_weight"],
    }  # fmt: skip


def evaluation(labels: list[str]) -> dict[str, object]:
    def metrics(recall: float, num_queries: int) -> dict[str, float]:
        recalls = {f"recall_at_{k}": min(1.0, recall * k**0.25) for k in (1, 2, 4, 8)}
        return {**recalls, "r_precision": 0.9 * recall, "map_at_r": 0.85 * recall, "num_queries": num_queries}

    per_class = [
        {"label": label, "is_unseen": position % 4 == 0, "num_queries": 7 + position, "before": 0.25,
         "after": 0.25 + (0.4 if position % 3 else -0.1) * (1 + position / 40)}
        for position, label in enumerate(labels)
    ]  # fmt: skip
    return {
        "protocol": "2,485 photos against 81 catalogue images", "ks": [1, 2, 4, 8],
        "before": {"all": metrics(0.275, 2485), "seen": metrics(0.281, 1900), "unseen": metrics(0.251, 585)},
        "after": {"all": metrics(0.614, 2485), "seen": metrics(0.661, 1900), "unseen": metrics(0.384, 585)},
        "per_class": per_class, "clustering": {"num_clusters": 81, "seed": 0, "nmi": 0.81, "ami": 0.7, "f1": 0.55},
    }  # fmt: skip


def write_json(run_dir: Path, name: str, value: object) -> None:
    (run_dir / name).write_text(json.dumps(value), encoding="utf-8")


def write_run(run_dir: Path, labels: list[str], *, with_curves: bool = True) -> Path:
    """Write every file of a run except those of its report; without curves the log contains warnings only."""
    run_dir.mkdir(parents=True)
    records = [record for record in metrics_records() if with_curves or record["kind"] == "warning"]
    lines = [json.dumps(record) + "\n" for record in records]
    (run_dir / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    write_json(run_dir, "run_card.json", run_card(labels))
    write_json(run_dir, "evaluation.json", evaluation(labels))
    image = run_dir / "red.png"
    image.write_bytes(png("red"))
    hits = tuple(Neighbour(image, label, 0.9, label == labels[0]) for label in labels[:3])
    write_neighbours(run_dir, [NeighbourRow(image, labels[0], hits)])
    return run_dir
