"""The configuration of a training run: frozen dataclasses with a TOML form.

A configuration is read from a preset or a TOML file, changed by overrides such as `projections.passes=4`, validated as
a whole and stored in the run card. An unknown setting is an error that names the valid ones.
"""

import dataclasses
import difflib
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from embedding.backbones import DEFAULT_BACKBONE
from training.data.splits import SplitConfig
from training.errors import InvalidConfig
from training.evaluation.bounds import DEFAULT_DISTRACTORS, DEFAULT_QUERIES, EvaluationBounds
from training.losses.factory import LossConfig

PRESETS_DIR = Path(__file__).parent / "presets"

Representatives = Literal["none", "queue", "catalogue", "alternate"]

Section = TypeVar("Section")


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The network. With `train = "head"` the backbone is frozen and its features are computed once."""

    backbone: str = DEFAULT_BACKBONE
    weights: Literal["pretrained", "random"] = "pretrained"
    checkpoint: str = ""  # start from this checkpoint, with its architecture and preprocessing
    pooling: Literal["average", "gem"] = "average"
    embedding_dim: int = 256
    head_start: Literal["principal_components", "whitening", "random"] = "principal_components"
    head_shrinkage: float = 1.0  # of whitening: weight of directions in which no class varies
    train: Literal["all", "head"] = "all"
    image_size: int = 0  # pixels; 0: the size the backbone's weights were trained with
    freeze_batch_norm: bool = True  # the statistics; see train_batch_norm_affine for scale and shift
    train_batch_norm_affine: bool = True

    def __post_init__(self) -> None:
        _check(self.embedding_dim >= 1, "network.embedding_dim", self.embedding_dim, "at least 1")
        _check(self.head_shrinkage > 0, "network.head_shrinkage", self.head_shrinkage, "above 0")
        is_size = self.image_size == 0 or self.image_size >= 16
        _check(is_size, "network.image_size", self.image_size, "at least 16, or 0 for the backbone's own")


@dataclass(frozen=True, slots=True)
class AugmentationConfig:
    """How training images are augmented. Areas are shares of the image and probabilities are within 0..1."""

    crop_area_min: float = 0.16
    crop_area_max: float = 1.0
    crop_ratio: float = 4 / 3  # largest width to height, and height to width
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    grey: float = 0.0
    plain: float = 0.0  # probability that an image is not augmented
    # For frozen features: the augmented views computed for each image, and the synthetic scenes for each catalogue
    # image (training/data/scenes.py).
    views: int = 4
    catalogue_views: int = 4
    catalogue_scenes: int = 0

    def __post_init__(self) -> None:
        is_range = 0 < self.crop_area_min <= self.crop_area_max <= 1
        areas = (self.crop_area_min, self.crop_area_max)
        _check(is_range, "augmentation.crop_area_min and crop_area_max", areas, "0 < min <= max <= 1")
        _check(self.crop_ratio >= 1, "augmentation.crop_ratio", self.crop_ratio, "at least 1")
        for name in ("flip", "brightness", "contrast", "saturation", "grey", "plain"):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"augmentation.{name}", value, "within 0..1")
        for name in ("views", "catalogue_views", "catalogue_scenes"):
            value = getattr(self, name)
            _check(0 <= value <= 64, f"augmentation.{name}", value, "within 0..64")


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """Batches of P classes with m images each, their representatives, and hard class mining."""

    classes_per_batch: int = 8
    images_per_class: int = 4
    representatives: Representatives = "queue"
    representative_transform: Literal["evaluation", "training"] = "training"
    share_queue: bool = False  # draw representatives from the queue of the other images (control of method test 1)
    hard_class_fraction: float = 0.5
    # Mining starts once the table contains this share of the classes.
    mine_from_share: float = 0.6
    refresh_table: bool = False  # embed every class's representative when a projection begins

    def __post_init__(self) -> None:
        _check(self.classes_per_batch >= 2, "batches.classes_per_batch", self.classes_per_batch, "at least 2")
        _check(self.images_per_class >= 2, "batches.images_per_class", self.images_per_class, "at least 2")
        fraction = self.hard_class_fraction
        _check(0 <= fraction < 1, "batches.hard_class_fraction", fraction, "within 0..1, 1 excluded")
        _check(0 < self.mine_from_share <= 1, "batches.mine_from_share", self.mine_from_share, "above 0, at most 1")

    @property
    def batch_size(self) -> int:
        """Images in a batch."""
        return self.classes_per_batch * self.images_per_class


@dataclass(frozen=True, slots=True)
class ProjectionConfig:
    """How long a projection lasts, and how strongly the weights are pulled to its starting point."""

    passes: float = 8.0  # T = passes × ceil(C / P)
    steps: int = 0  # T; 0: computed from `passes`
    until: Literal["steps", "metric"] = "steps"
    patience: int = 3  # for until = "metric": evaluations without improvement
    pull: Literal["none", "coupled", "decoupled"] = "none"
    pull_weight: float = 2e-4  # λ of the coupled pull, ρ of the decoupled one
    pull_decay: float = 1.0
    anchor: Literal["last", "best"] = "last"
    relaxation: float = 1.0  # a: the share of the way from a projection's start to its end
    final_relaxation: float = 1.0  # the same between the run's first and last weights, once
    choose_final_relaxation: bool = False  # choose a from a grid by the validation metric

    def __post_init__(self) -> None:
        _check(self.passes > 0, "projections.passes", self.passes, "above 0")
        _check(self.steps >= 0, "projections.steps", self.steps, "at least 0 (0: from passes)")
        _check(self.patience >= 1, "projections.patience", self.patience, "at least 1")
        _check(self.pull_weight >= 0, "projections.pull_weight", self.pull_weight, "at least 0")
        is_share = self.pull != "decoupled" or self.pull_weight < 1
        _check(is_share, "projections.pull_weight of a decoupled pull", self.pull_weight, "below 1")
        _check(0 < self.pull_decay <= 1, "projections.pull_decay", self.pull_decay, "above 0, at most 1")
        for name in ("relaxation", "final_relaxation"):
            value = getattr(self, name)
            _check(0 < value <= 1, f"projections.{name}", value, "above 0, at most 1")

    def steps_of(self, num_classes: int, classes_per_batch: int) -> int:
        """Return T, the optimiser steps of one projection."""
        return self.steps or max(1, round(self.passes * -(-num_classes // classes_per_batch)))


@dataclass(frozen=True, slots=True)
class OptimiserConfig:
    """The optimiser, its learning rates and their schedule."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    backbone_learning_rate: float = 1e-5
    head_learning_rate: float = 1e-4
    loss_learning_rate: float = 1e-3
    weight_decay: float = 1e-4  # not applied to batch norm, biases, pooling and loss parameters
    momentum: float = 0.9  # for sgd
    schedule: Literal["constant", "cosine"] = "constant"
    warm_up_steps: int = 0
    head_warm_up_steps: int = 0  # steps in which only the head and the loss parameters are trained
    clip_norm: float = 10.0  # 0: do not clip

    def __post_init__(self) -> None:
        for name in ("backbone_learning_rate", "head_learning_rate", "loss_learning_rate"):
            value = getattr(self, name)
            remedy = 'above 0; to freeze the backbone, set network.train = "head"'
            _check(value > 0, f"optimiser.{name}", value, remedy)
        for name in ("weight_decay", "clip_norm"):
            value = getattr(self, name)
            _check(value >= 0, f"optimiser.{name}", value, "at least 0")
        _check(0 <= self.momentum < 1, "optimiser.momentum", self.momentum, "within 0..1, 1 excluded")
        for name in ("warm_up_steps", "head_warm_up_steps"):
            _check(getattr(self, name) >= 0, f"optimiser.{name}", getattr(self, name), "at least 0")


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """When the model is evaluated, which metric selects it, and when a run stops early."""

    every: int = 200  # steps between evaluations on the validation part
    metric: str = "auto"  # auto: mean_of_parts_recall_at_1 if there are two parts, else map_at_r
    ks: tuple[int, ...] = (1, 2, 4, 8)
    patience: int = 0  # evaluations without improvement before the run stops; 0: never
    keep: Literal["best", "last"] = "best"  # which weights become the checkpoint
    clustering: bool = False  # run k-means on the test part at the end
    bf16: bool = True  # on CUDA
    # Of the sets on which a retrain compares models: the most queries, and the catalogue images of other products.
    max_queries: int = DEFAULT_QUERIES
    num_distractors: int = DEFAULT_DISTRACTORS

    def __post_init__(self) -> None:
        _check(self.max_queries >= 2, "evaluation.max_queries", self.max_queries, "at least 2")
        _check(self.num_distractors >= 0, "evaluation.num_distractors", self.num_distractors, "at least 0")
        _check(self.every >= 1, "evaluation.every", self.every, "at least 1")
        _check(self.patience >= 0, "evaluation.patience", self.patience, "at least 0")
        _check(bool(self.ks) and min(self.ks) >= 1, "evaluation.ks", self.ks, "one or more numbers above 0")
        names = ["auto", "mean_of_parts_recall_at_1"]
        measured = [*(f"recall_at_{k}" for k in self.all_ks), "r_precision", "map_at_r"]
        names += [f"{part}{name}" for part in ("", "seen_", "unseen_") for name in measured]
        _check(self.metric in names, "evaluation.metric", self.metric, f"one of {', '.join(names)}")

    @property
    def bounds(self) -> EvaluationBounds:
        """The bounds on an evaluation set."""
        return EvaluationBounds(self.num_distractors, self.max_queries)

    @property
    def all_ks(self) -> tuple[int, ...]:
        """The k of recall@k: `ks`, and always 1, which reports show."""
        return tuple(sorted({1, *self.ks}))


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """The configuration of one training run."""

    steps: int = 2000
    seed: int = 0
    log_every: int = 20
    save_every: int = 500  # steps between states from which a run can resume
    split: SplitConfig = field(default_factory=SplitConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    projections: ProjectionConfig = field(default_factory=ProjectionConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        _check(self.steps >= 1, "steps", self.steps, "at least 1")
        _check(self.seed >= 0, "seed", self.seed, "at least 0")
        _check(self.log_every >= 1, "log_every", self.log_every, "at least 1")
        _check(self.save_every >= 1, "save_every", self.save_every, "at least 1")
        if self.batches.representatives == "none":
            _check(self.loss.pairs == "all", "loss.pairs without representatives", self.loss.pairs, "all")
            pull = self.projections.pull
            _check(pull == "none", "projections.pull without representatives", pull, "none")

    def to_json(self) -> dict[str, Any]:
        """Return nested tables of plain values with every setting."""
        return cast(dict[str, Any], _plain(dataclasses.asdict(self)))


def preset_names() -> list[str]:
    """Return the names that `load_preset` takes."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.toml"))


def load_preset(name: str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a preset; raises InvalidConfig for an unknown name."""
    path = PRESETS_DIR / f"{name}.toml"
    if not path.is_file():
        raise InvalidConfig(f"there is no preset {name!r}; presets are {', '.join(preset_names())}")
    return load_config(path, overrides)


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a TOML file; `overrides` such as `projections.passes=4` replace single values."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"{path} is not TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"{path} is not UTF-8 text: {error}") from error
    return config_from_tables(tables, overrides)


def config_from_tables(tables: Mapping[str, object], overrides: Sequence[str] = ()) -> TrainingConfig:
    """Build a configuration from nested tables (TOML or JSON) and overrides."""
    merged = {name: dict(value) if isinstance(value, Mapping) else value for name, value in tables.items()}
    for override in overrides:
        _apply_override(merged, override)
    return _build(TrainingConfig, merged, "")


def _apply_override(tables: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name.strip():
        raise InvalidConfig(f"the override {override!r} is not of the form SECTION.NAME=VALUE")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        # A bare word is a string, since quotes within quotes are awkward in a shell.
        value = text.strip()
    section, dot, setting = name.strip().partition(".")
    if not dot:
        tables[section] = value
        return
    table = tables.setdefault(section, {})
    if not isinstance(table, dict):
        raise InvalidConfig(f"the override {override!r} names a setting of {section!r}, which is not a section")
    table[setting] = value


def _build(cls: type[Section], table: Mapping[str, Any], prefix: str) -> Section:
    """Build one section; errors for unknown names and wrong types name the setting."""
    hints = get_type_hints(cls)
    known = {setting.name for setting in dataclasses.fields(cast(Any, cls))}
    for name in table:
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {similar[0]!r}? " if similar else ""
            raise InvalidConfig(f"unknown setting {prefix + name!r}; {hint}settings are {', '.join(sorted(known))}")
    values = {name: _convert(hints[name], value, prefix + name) for name, value in table.items()}
    return cls(**values)


def _convert(hint: Any, value: object, name: str) -> object:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InvalidConfig(f"{name} is a section of settings, got {value!r}")
        return _build(cast(type[object], hint), value, f"{name}.")
    if get_origin(hint) is Literal:
        return _one_of(get_args(hint), value, name)
    if get_origin(hint) in (Union, types.UnionType):
        return _convert_union(hint, value, name)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise InvalidConfig(f"{name} takes a list, got {value!r}")
        return tuple(_convert(get_args(hint)[0], element, name) for element in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise InvalidConfig(f"{name} takes a value of type {hint.__name__}, got {value!r}")
    return value


def _convert_union(hint: Any, value: object, name: str) -> object:
    options = [option for option in get_args(hint) if option is not type(None)]
    if value is None:
        return None
    for option in options[:-1]:
        try:
            return _convert(option, value, name)
        except InvalidConfig:
            continue
    return _convert(options[-1], value, name)


def _one_of(allowed: tuple[object, ...], value: object, name: str) -> object:
    if value not in allowed:
        raise InvalidConfig(f"{name} must be one of {', '.join(str(item) for item in allowed)}; got {value!r}")
    return value


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _check(is_good: bool, name: str, value: object, needed: str) -> None:
    # NaN fails every comparison and therefore raises too.
    if not is_good:
        raise InvalidConfig(f"{name} must be {needed}; got {value!r}")
