"""A short fine-tuning, plain against projections with mining, with equal steps, measured on unseen classes."""

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_check.images import choose_images, draw_images
from benchmarks.gpu_check.settings import Row, Settings
from benchmarks.gpu_check.weights import Weights, find_weights
from embedding.backbones import DEFAULT_BACKBONE, create_backbone
from training.config import TrainingConfig, config_from_tables
from training.report.run_folder import RUN_CARD
from training.running.run import RunHooks, RunOptions, train

PART = "fine-tuning"
PLAIN, PROJECTIONS = "plain", "projections + mining"
METRICS = {"recall_at_1": "recall@1", "map_at_r": "MAP@R"}
_PROBE_STEPS = 5
_MAX_STEPS, _MIN_STEPS = 300, 5
_METHODS: dict[str, dict[str, dict[str, object]]] = {
    PLAIN: {
        "batches": {"representatives": "none", "hard_class_fraction": 0.0},
        "projections": {"pull": "none"},
    },
    PROJECTIONS: {
        "batches": {"representatives": "queue", "hard_class_fraction": 0.5},
        "projections": {"pull": "coupled", "pull_weight": 1e-2},
    },
}


@dataclass(frozen=True, slots=True)
class _Run:
    """The metrics of one run on unseen classes, and its times in seconds."""

    method: str
    seed: int
    before: dict[str, float]
    after: dict[str, float]
    training_seconds: float
    seconds: float


def measure(settings: Settings, deadline: float) -> Iterator[Row]:
    """Train until `deadline` (of time.monotonic); a seed counts only if the runs of both methods finished."""
    data, description = _images(settings)
    weights = find_weights(settings)
    yield Row(PART, "images", description)
    yield Row(PART, "weights", weights.description)
    trials = _Trials(settings, data, weights, deadline)
    steps = settings.steps or trials.affordable_steps()
    if not steps:
        yield Row(PART, "steps", "none: the time ran out during a first short run")
        return
    runs: list[_Run] = []
    for seed in range(settings.seeds):
        for method in _METHODS:
            run = trials.run(method, steps, seed)
            if run is not None:
                runs.append(run)
                print(f"  {method}, seed {seed}: {_shown(run)}, {run.seconds:.0f} s", flush=True)
    yield from _rows(settings, runs, steps, trials.describe())


def _images(settings: Settings) -> tuple[Path, str]:
    data, name = settings.data, ""
    if data is None:
        size = settings.pixels_for(224)
        data = draw_images(settings.work / "synthetic", num_classes=30, images_per_class=12, size=size)
        name = "synthetic, drawn for this check; "
    manifest, description = choose_images(data, settings.work / "images", settings.max_images)
    return manifest, name + description


class _Trials:
    """Runs over the same images; they share the cache of decoded images."""

    def __init__(self, settings: Settings, data: Path, weights: Weights, deadline: float) -> None:
        self._settings = settings
        self._data = data
        self._weights = weights
        self._deadline = deadline
        own_size = create_backbone(
            weights.network.get("backbone", DEFAULT_BACKBONE), pretrained=False
        ).preprocessing.image_size
        self._image_size = settings.pixels_for(own_size)
        self._prepared_at = 0.0

    def describe(self) -> str:
        """Return the size of images and batches as text."""
        settings = self._settings
        return f"{self._image_size} pixels, batches of {settings.num_classes_per_batch} × {settings.images_per_class}"

    def affordable_steps(self) -> int:
        """Return the number of steps with which all runs finish before the deadline; 0 if there is no time.

        It is estimated from a short run, which also fills the cache of decoded images.
        """
        probe = self.run(PROJECTIONS, _PROBE_STEPS, seed=0, folder="probe")
        if probe is None:
            return 0
        # The rest of a run: evaluation before and after, and writing checkpoint and report.
        around = time.monotonic() - self._prepared_at - probe.training_seconds
        num_runs = len(_METHODS) * self._settings.seeds
        # A fifth is reserved, since the speed of a machine varies.
        left = 0.8 * (self._deadline - time.monotonic()) / num_runs - around
        steps = int(left / (probe.training_seconds / _PROBE_STEPS))
        return max(_MIN_STEPS, min(_MAX_STEPS, steps))

    def run(self, method: str, steps: int, seed: int, folder: str = "") -> _Run | None:
        """Train and measure once; None if the deadline interrupted the run."""
        started = time.monotonic()
        out = self._settings.work / (folder or f"{method}-{seed}".replace(" ", ""))
        options = RunOptions(
            data=self._data,
            out=out,
            config=self._config(method, steps, seed),
            cache_dir=self._settings.work / "cache",
            device=self._settings.device,
            command="make gpu-check",
        )
        hooks = RunHooks(on_progress=self._note_progress, should_stop=lambda: time.monotonic() > self._deadline)
        outcome = train(options, hooks)
        if not outcome.after:
            return None
        card = json.loads((out / RUN_CARD).read_text(encoding="utf-8"))
        return _Run(
            method, seed, outcome.before["unseen"], outcome.after["unseen"], card["seconds"], time.monotonic() - started
        )

    def _note_progress(self, _stage: str, _done: int, _total: int) -> None:
        self._prepared_at = time.monotonic()

    def _config(self, method: str, steps: int, seed: int) -> TrainingConfig:
        is_pretrained = self._weights.is_pretrained
        rates = (3e-5, 3e-4) if is_pretrained else (5e-4, 5e-4)
        knobs = _METHODS[method]
        return config_from_tables(
            {
                "steps": steps,
                "seed": seed,
                "log_every": 10,
                "save_every": 10**6,
                "network": {
                    "embedding_dim": 128,
                    "image_size": self._image_size,
                    "freeze_batch_norm": is_pretrained,
                    **self._weights.network,
                },
                "augmentation": {"crop_area_min": 0.25},
                "batches": {
                    "classes_per_batch": self._settings.num_classes_per_batch,
                    "images_per_class": self._settings.images_per_class,
                    **knobs["batches"],
                },
                "projections": knobs["projections"],
                "optimiser": {"backbone_learning_rate": rates[0], "head_learning_rate": rates[1]},
                # The manifest states the unseen classes. The weights of the last step are measured, without validation.
                "split": {"test": "stated", "validation_share": 0.0, "validation_example_share": 0.0},
                "evaluation": {"keep": "last", "ks": [1]},
            }
        )


def _rows(settings: Settings, runs: list[_Run], steps: int, setting: str) -> Iterator[Row]:
    seeds = [s for s in range(settings.seeds) if len({run.method for run in runs if run.seed == s}) == len(_METHODS)]
    kept = f"{len(seeds)} seeds" if len(seeds) == settings.seeds else f"{len(seeds)} of {settings.seeds} seeds in time"
    yield Row(PART, "setting", f"{setting}, {steps} steps, {kept}")
    counted = [run for run in runs if run.seed in seeds]
    if not counted:
        return
    for metric, name in METRICS.items():
        yield Row(PART, f"{name} of unseen classes, before", statistics.mean(run.before[metric] for run in counted))
        for method in _METHODS:
            values = [run.after[metric] for run in counted if run.method == method]
            yield Row(PART, f"{name} of unseen classes, {method}", statistics.mean(values))
            if len(values) > 1:
                yield Row(PART, f"{name}, {method}, standard deviation", statistics.stdev(values))
    for method in _METHODS:
        own = [run for run in counted if run.method == method]
        yield Row(PART, f"training, {method}", statistics.mean(run.training_seconds for run in own), "s")
        yield Row(PART, f"whole run, {method}", statistics.mean(run.seconds for run in own), "s")


def _shown(run: _Run) -> str:
    return ", ".join(f"{name} {run.before[key]:.3f} → {run.after[key]:.3f}" for key, name in METRICS.items())
