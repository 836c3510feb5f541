"""The gain of alternating projections and its causes: loss × method × seed at equal steps.

    python benchmarks/projections_study.py search  TASK [--data FOLDER]   knobs, on validation classes
    python benchmarks/projections_study.py compare TASK [--losses …]      the methods, on the test half
    python benchmarks/study_tables.py                                     the tables of docs/study.md

TASK is omniglot (a small network from scratch), grocery or cars196 (a head on frozen features), or cars196-96px (the
whole network). FOLDER contains the archives of the data sets (by default ../shared/data beside the checkout). Each run
is one line of a file in benchmarks/results/; finished runs are not repeated, so that an interrupted study can be
continued. `compare` uses the knobs `studied` of each task, which were chosen from the results of `search`; the test
half is not used before.
"""

import argparse
import json
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.config import TrainingConfig, config_from_tables
from training.evaluation.held_out import measure
from training.loop import TrainingLoop
from training.loop_parts import LoopHooks
from training.running.distributed import ProcessGroup
from training.running.preparation import Materials, TrainingData, gather_materials, prepare_inputs, read_training_data
from training.running.run import loop_parts
from training.running.starting_model import StartingModel, create_starting_model

RESULTS = Path(__file__).parent / "results"
LOSSES = (
    "contrastive", "triplet", "multi_similarity", "margin", "lifted_structure", "n_pair", "angular", "proxy_anchor",
)  # fmt: skip
# Four alphabets are trained on and four are unseen: 132 and 110 characters.
OMNIGLOT_UNSEEN = ("Early_Aramaic", "Greek", "Japanese_(katakana)", "Tagalog")

Tables = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A data set and the runs on it; `knobs` are tables of the training configuration."""

    archives: tuple[str, ...]
    knobs: Tables
    losses: tuple[str, ...] = LOSSES
    loss_knobs: dict[str, Tables] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("recall_at_1", "map_at_r")
    # Chosen by the search on validation classes; see docs/study.md.
    studied: Tables = field(default_factory=dict)
    search_losses: tuple[str, ...] = ("contrastive", "multi_similarity")
    more_methods: dict[str, Tables] = field(default_factory=dict)


_NO_PULL = {"pull": "none"}
PLAIN: Tables = {"batches": {"representatives": "none", "hard_class_fraction": 0.0}, "projections": _NO_PULL}
HELD: Tables = {"batches": {"representatives": "queue", "hard_class_fraction": 0.0}}
MINED: Tables = {"batches": {"hard_class_fraction": 0.5}}
# T = 1: the same batches with a new selection of representatives at every step, and no pull.
CONTROL: Tables = {
    "batches": {"representatives": "queue", "hard_class_fraction": 0.0},
    "projections": {"steps": 1, **_NO_PULL},
}


def merged(*tables: Tables) -> Tables:
    """Merge nested tables; later values take precedence."""
    joined: Tables = {}
    for table in tables:
        for name, value in table.items():
            joined[name] = merged(joined.get(name, {}), value) if isinstance(value, dict) else value
    return joined


_HEAD = {
    "steps": 2000,
    "network": {"train": "head", "embedding_dim": 256},
    "optimiser": {"head_learning_rate": 1e-3, "backbone_learning_rate": 1e-3},
    "batches": {"classes_per_batch": 8, "images_per_class": 4},
}
_STRONG_PULL: Tables = {"projections": {"pull": "coupled", "pull_weight": 1.0}}
# As in the preset `head`, so that stored features are shared.
_GROCERY_VIEWS = {
    "crop_area_min": 0.36,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "plain": 0.4,
    "views": 4,
    "catalogue_views": 8,
    "catalogue_scenes": 16,
}
_CATALOGUE = {"batches": {"representatives": "alternate", "hard_class_fraction": 0.5}}

TASKS = {
    "omniglot": Task(
        archives=("omniglot-small1.zip", "omniglot-small2.zip"),
        knobs={
            "steps": 1500,
            "network": {
                "backbone": "conv4",
                "weights": "random",
                "embedding_dim": 128,
                "head_start": "random",
                "freeze_batch_norm": False,
            },
            "augmentation": {"crop_area_min": 0.6, "crop_ratio": 1.2, "flip": 0.0},
            "optimiser": {"head_learning_rate": 1e-3, "backbone_learning_rate": 1e-3},
            "batches": {"classes_per_batch": 8, "images_per_class": 4},
        },
        # Distances of a network trained from scratch are larger than those that the published margins were tuned for.
        loss_knobs={"contrastive": {"positive_margin": 0.2, "negative_margin": 1.0}},
        studied={"projections": {"pull": "decoupled", "pull_weight": 1e-3}},
    ),
    "grocery": Task(
        archives=("grocery.zip",),
        knobs={**_HEAD, "augmentation": _GROCERY_VIEWS},
        metrics=("recall_at_1", "seen_recall_at_1", "unseen_recall_at_1"),
        loss_knobs={"contrastive": {"positive_margin": 0.2, "negative_margin": 0.8}},
        studied={"projections": {"pull": "decoupled", "pull_weight": 5e-2}},
        more_methods={
            "projections, catalogue and queue in turn + mining": _CATALOGUE,
            "projections, strong pull + mining": merged(MINED, _STRONG_PULL),
        },
    ),
    "cars196": Task(
        archives=("cars196-train.zip", "cars196-test.zip"),
        # Without augmented views, which would double the time to compute features on a CPU.
        knobs={**_HEAD, "augmentation": {"views": 0, "catalogue_views": 0}},
        loss_knobs={"contrastive": {"positive_margin": 0.2, "negative_margin": 0.8}},
        studied={"projections": {"pull": "decoupled", "pull_weight": 1e-2}},
    ),
    "cars196-96px": Task(
        archives=("cars196-train.zip", "cars196-test.zip"),
        knobs={
            "steps": 600,
            "network": {"embedding_dim": 128, "image_size": 96},
            "optimiser": {"head_learning_rate": 1e-4, "backbone_learning_rate": 1e-4},
            "batches": {"classes_per_batch": 8, "images_per_class": 4},
        },
        losses=("multi_similarity",),
        studied={"projections": {"pull": "decoupled", "pull_weight": 1e-3}},
    ),
}


def methods_of(task: Task) -> dict[str, Tables]:
    """Return the knobs of each method that is compared."""
    projections = merged(HELD, task.studied)
    return {
        "plain": PLAIN,
        "plain + mining": merged(PLAIN, MINED),
        "T = 1 control": CONTROL,
        "projections": projections,
        "projections + mining": merged(projections, MINED),
        # In addition to the five methods, to isolate the effect of the pull.
        "projections + mining, no pull": merged(projections, MINED, {"projections": _NO_PULL}),
        **{name: merged(projections, knobs) for name, knobs in task.more_methods.items()},
    }


def searched(task: Task) -> dict[str, Tables]:
    """Return the settings tried on validation classes: one knob at a time changed from `projections + mining`."""
    base = merged(HELD, MINED, {"projections": {"passes": 8.0, **_NO_PULL}})

    def changed(**tables: Tables) -> Tables:
        return merged(base, tables)

    settings = {"plain": PLAIN, "plain + mining": merged(PLAIN, MINED), "base": base}
    for weight in (1e-4, 1e-3, 1e-2, 5e-2):
        settings[f"decoupled pull {weight:g}"] = changed(projections={"pull": "decoupled", "pull_weight": weight})
    for weight in (1e-3, 1e-2, 1e-1, 1.0):
        settings[f"coupled pull {weight:g}"] = changed(projections={"pull": "coupled", "pull_weight": weight})
    for passes in (2.0, 32.0):
        settings[f"passes {passes:g}"] = changed(projections={"passes": passes})
    for pairs in ("representative", "mixed"):
        settings[f"pairs {pairs}"] = changed(loss={"pairs": pairs})
    for fraction in (0.25, 0.75):
        settings[f"mined share {fraction:g}"] = changed(batches={"hard_class_fraction": fraction})
    settings["representatives not augmented"] = changed(batches={"representative_transform": "evaluation"})
    settings["relaxation 0.7"] = changed(projections={"relaxation": 0.7})
    settings["final relaxation 0.6"] = changed(projections={"final_relaxation": 0.6})
    if task.more_methods:
        for source in ("catalogue", "alternate"):
            settings[f"representatives {source}"] = changed(batches={"representatives": source})
            settings[f"representatives {source}, pull 5e-3"] = changed(
                batches={"representatives": source}, projections={"pull": "decoupled", "pull_weight": 5e-3}
            )
    return settings


class Study:
    """Runs of one task; images are decoded, or features computed, only once."""

    def __init__(self, name: str, archives: Path, work: Path) -> None:
        self.name = name
        self.task = TASKS[name]
        self._work = work
        self._data_path = _unpacked(self.task.archives, archives, work)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._prepared: tuple[str, TrainingData, Materials] | None = None

    def run(self, phase: str, setting: str, knobs: Tables, loss: str, seed: int) -> Tables:
        """Train once and return the measurements: on validation classes (`search`) or on the test half."""
        config = self._config(phase, knobs, loss, seed)
        start = create_starting_model(config.network, config.seed)
        data, materials = self._materials(phase, config, start)
        prepared = prepare_inputs(data, start, materials, config, self._device)
        records: list[Tables] = []
        part = data.split.validation if phase == "search" else data.split.test
        assert part is not None
        begun = time.monotonic()
        parts = loop_parts(data, start, prepared, config, self._device, ProcessGroup())
        # The weights of the last step are measured; held-out images are not used during training.
        loop = TrainingLoop(replace(parts, validate=None), LoopHooks(record=records.append))
        loop.run()
        seconds = time.monotonic() - begun
        measured = measure(prepared.inputs.embed, data.snapshot, part, device=str(self._device)).flat()
        return {
            "task": self.name,
            "phase": phase,
            "setting": setting,
            "loss": loss,
            "seed": seed,
            "seconds": round(seconds, 2),
            "device": str(self._device),
            **{name: value for name, value in measured.items() if isinstance(value, float)},
            **_averages([record for record in records if record["kind"] == "step"]),
            "config": config.to_json(),
        }

    def _config(self, phase: str, knobs: Tables, loss: str, seed: int) -> TrainingConfig:
        split: Tables = {"validation_share": 0.0, "validation_example_share": 0.0}
        if phase == "search":
            split = {"validation_share": 0.25, "validation_example_share": 0.1}
        if self.name == "omniglot":
            # Whole alphabets are held out; their characters are listed from the folder.
            split |= {"unseen_classes": tuple(_characters_of(self._data_path, OMNIGLOT_UNSEEN)), "test": "hash"}
        if self.name == "grocery":
            split |= {"unseen_classes": tuple(unseen_products(self._data_path))}
        tables = merged(
            self.task.knobs,
            {"loss": {"name": loss, **self.task.loss_knobs.get(loss, {})}},
            {"split": split, "seed": seed, "log_every": 25},
            {"evaluation": {"keep": "last"}},
            knobs,
        )
        return config_from_tables(tables)

    def _materials(self, phase: str, config: TrainingConfig, start: StartingModel) -> tuple[TrainingData, Materials]:
        if self._prepared is None or self._prepared[0] != phase:
            data = read_training_data(
                self._data_path, config, start.preprocessing, cache_dir=self._work / "cache", on_progress=_show
            )
            materials = gather_materials(
                data, start, config, device=self._device, cache_dir=self._work / "cache", on_progress=_show
            )
            self._prepared = phase, data, materials
        return self._prepared[1], self._prepared[2]


def _averages(records: list[Tables]) -> Tables:
    """Return diagnostics of the method, averaged over the logged steps."""
    names = ("pull_ratio", "active_share", "representative_age", "mined_share", "drift")
    found = {name: [record[name] for record in records if record.get(name) is not None] for name in names}
    return {f"mean_{name}": float(np.mean(values)) for name, values in found.items() if values}


def stored(path: Path) -> list[Tables]:
    """Read the results in a file, without an incomplete last line of an interrupted run."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def study(name: str, phase: str, arguments: argparse.Namespace) -> None:
    """Run all settings of a phase that have no result yet."""
    task = TASKS[name]
    path = RESULTS / f"{name}-{phase}.jsonl"
    done = {(row["setting"], row["loss"], row["seed"]) for row in stored(path)}
    settings = searched(task) if phase == "search" else methods_of(task)
    losses = arguments.losses or (task.search_losses if phase == "search" else task.losses)
    # Seeds outermost: an interrupted study lacks seeds of all settings, not the last losses.
    wanted = [key for key in _order(settings, losses, arguments.seeds) if key not in done]
    if not wanted:
        return
    begun = time.monotonic()
    runs = Study(name, arguments.data, arguments.work)
    path.parent.mkdir(exist_ok=True)
    for number, (setting, loss, seed) in enumerate(wanted, start=1):
        result = runs.run(phase, setting, settings[setting], loss, seed)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        shown = ", ".join(f"{metric} {result[metric]:.3f}" for metric in task.metrics if metric in result)
        left = (time.monotonic() - begun) / number * (len(wanted) - number) / 60
        print(f"{number}/{len(wanted)} {setting}, {loss}, seed {seed}: {shown} ({left:.0f} min left)", flush=True)


def _order(settings: Tables, losses: tuple[str, ...], num_seeds: int) -> Iterator[tuple[str, str, int]]:
    for seed, loss, setting in product(range(num_seeds), losses, settings):
        yield setting, loss, seed


def _unpacked(names: tuple[str, ...], archives: Path, work: Path) -> Path:
    """Unpack archives into one folder, without the top-level folder of each."""
    folder = work / "-".join(Path(name).stem for name in names)
    if folder.exists():
        return folder
    temporary = folder.with_name(f".{folder.name}")
    for name in names:
        with zipfile.ZipFile(archives / name) as archive:
            for member in archive.infolist():
                inner = Path(*Path(member.filename).parts[1:])
                if not member.is_dir():
                    (temporary / inner).parent.mkdir(parents=True, exist_ok=True)
                    (temporary / inner).write_bytes(archive.read(member))
    temporary.rename(folder)
    return folder


def _characters_of(path: Path, alphabets: tuple[str, ...]) -> list[str]:
    return sorted(f"{alphabet}/{folder.name}" for alphabet in alphabets for folder in (path / alphabet).iterdir())


def unseen_products(path: Path, draw: int = 0) -> list[str]:
    """Return 20 of the 81 products, chosen at random; the published zero-shot figures belong to draw 0."""
    lines = (path / "dataset" / "classes.csv").read_text(encoding="utf-8").splitlines()[1:]
    names = {int(line.split(",")[1]): line.split(",")[0] for line in lines if line.strip()}
    return [names[number] for number in np.random.default_rng(draw).permutation(81)[:20].tolist()]


def _show(stage: str, done: int, total: int) -> None:
    if done == total or done % 500 == 0:
        print(f"  {stage}: {done} of {total}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", "compare"))
    parser.add_argument("task", nargs="?", choices=tuple(TASKS))
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--work", type=Path, default=Path("akin-data") / "study", help="unpacked images and features")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=())
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for name in [arguments.task] if arguments.task else ["omniglot", "grocery", "cars196"]:
        study(name, arguments.what, arguments)


if __name__ == "__main__":
    main()
