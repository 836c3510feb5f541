"""A loss by its name, with parameters that are checked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from training.errors import InvalidConfig
from training.losses.angular import MAX_ANGLE_DEGREES, AngularLoss
from training.losses.contrastive import ContrastiveLoss
from training.losses.lifted_structure import LiftedStructureLoss
from training.losses.margin import MarginLoss
from training.losses.mixed import MixedLoss
from training.losses.multi_similarity import MultiSimilarityLoss
from training.losses.n_pair import NormalisedSoftmaxLoss, NPairLoss
from training.losses.pairs import MetricLoss, Pairs, all_pairs, representative_pairs
from training.losses.proxy_anchor import ProxyAnchorLoss
from training.losses.triplet import TripletLoss, TripletMining

LossName = Literal[
    "contrastive",
    "triplet",
    "multi_similarity",
    "margin",
    "lifted_structure",
    "n_pair",
    "normalised_softmax",
    "angular",
    "proxy_anchor",
]
PairsName = Literal["all", "representative", "mixed"]

# What each loss takes; the defaults stand with the loss.
_PARAMETERS: Mapping[LossName, tuple[str, ...]] = {
    "contrastive": ("positive_margin", "negative_margin"),
    "triplet": ("margin", "mining"),
    "multi_similarity": ("positive_scale", "negative_scale", "threshold"),
    "margin": ("beta", "margin", "beta_per_class"),
    "lifted_structure": ("margin",),
    "n_pair": ("temperature",),
    "normalised_softmax": ("temperature",),
    "angular": ("angle_degrees",),
    "proxy_anchor": ("margin", "scale"),
}
_PARAMETER_NAMES = tuple(dict.fromkeys(name for names in _PARAMETERS.values() for name in names))
_CLASSES: Mapping[LossName, Callable[..., MetricLoss]] = {
    "contrastive": ContrastiveLoss,
    "triplet": TripletLoss,
    "multi_similarity": MultiSimilarityLoss,
    "lifted_structure": LiftedStructureLoss,
    "n_pair": NPairLoss,
    "normalised_softmax": NormalisedSoftmaxLoss,
    "angular": AngularLoss,
    "margin": MarginLoss,
    "proxy_anchor": ProxyAnchorLoss,
}
# Least and largest value; unit vectors are at most two apart.
_RANGES: Mapping[str, tuple[float, float]] = {
    "positive_margin": (0.0, 2.0),
    "negative_margin": (0.0, 2.0),
    "margin": (0.0, 2.0),
    "positive_scale": (1e-3, 1e3),
    "negative_scale": (1e-3, 1e3),
    "threshold": (-1.0, 1.0),
    "beta": (0.0, 2.0),
    "temperature": (1e-3, 1e3),
    "angle_degrees": (1.0, MAX_ANGLE_DEGREES),
    "scale": (1e-3, 1e3),
    "mixed_weight": (0.0, 1e3),
}


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Which loss, on which pairs, with which parameters; None is the loss's own default.

    Raises InvalidConfig for a name that does not exist, a parameter that the loss does not take, or a value outside
    its range.
    """

    name: LossName = "multi_similarity"
    pairs: PairsName = "all"
    mixed_weight: float = 0.1  # of all pairs, with pairs "mixed"
    positive_margin: float | None = None
    negative_margin: float | None = None
    margin: float | None = None
    mining: TripletMining | None = None
    positive_scale: float | None = None
    negative_scale: float | None = None
    threshold: float | None = None
    beta: float | None = None  # where learning starts
    beta_per_class: bool | None = None
    temperature: float | None = None
    angle_degrees: float | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        _check_choice("loss", self.name, get_args(LossName))
        _check_choice("pairs", self.pairs, get_args(PairsName))
        _check_range("mixed_weight", self.mixed_weight)
        for name, value in self.parameters.items():
            if name not in _PARAMETERS[self.name]:
                known = ", ".join(_PARAMETERS[self.name])
                raise InvalidConfig(f"the loss {self.name} takes no {name}, got {name} = {value!r}; it takes {known}")
            if name == "mining":
                _check_choice(name, value, get_args(TripletMining))
            elif name == "beta_per_class":
                _check_choice(name, value, (False, True))
            else:
                _check_range(name, value)
        if self.name == "contrastive":
            create: Callable[..., ContrastiveLoss] = ContrastiveLoss
            loss = create(**self.parameters)
            if loss.positive_margin >= loss.negative_margin:
                margins = f"{loss.positive_margin} and {loss.negative_margin}"
                raise InvalidConfig(f"positive_margin must be below negative_margin, got {margins}")

    @property
    def parameters(self) -> dict[str, float | str | bool]:
        """The loss's own parameters, where they are set."""
        values = {name: getattr(self, name) for name in _PARAMETER_NAMES}
        return {name: value for name, value in values.items() if value is not None}


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    # 1 equals True, but nobody means it.
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise InvalidConfig(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def _check_range(name: str, value: object) -> None:
    low, high = _RANGES[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # NaN is in no range.
    if not is_number or not low <= cast(float, value) <= high:
        raise InvalidConfig(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")


def create_loss(
    config: LossConfig, num_classes: int, embedding_dim: int, generator: torch.Generator | None = None
) -> MetricLoss:
    """Build a loss on the CPU; `generator` draws proxies, where the loss learns some.

    Losses with one weight or row a class take labels 0 to num_classes − 1.
    """
    arguments: dict[str, object] = {**config.parameters}
    if arguments.pop("beta_per_class", False):
        arguments["num_classes"] = num_classes
    # Among representative pairs nothing would ever use the proxies.
    if config.name == "proxy_anchor" and config.pairs != "representative":
        arguments.update(num_classes=num_classes, embedding_dim=embedding_dim, generator=generator)
    loss = _CLASSES[config.name](**arguments)
    return MixedLoss(loss, config.mixed_weight) if config.pairs == "mixed" else loss


def pairs_for(config: LossConfig, labels_B: Tensor, is_representative_B: Tensor) -> Pairs:
    """Return the pairs that the loss of `config` is called with."""
    if config.pairs == "all":
        return all_pairs(labels_B)
    # A mixed loss makes the other pairs itself.
    return representative_pairs(labels_B, is_representative_B)


# Parameters known to work, by data set; the losses in _FOR_ALL have one setting for all three.
_FOR_ALL = {
    "margin": LossConfig("margin", beta=1.2, margin=0.2),
    "lifted_structure": LossConfig("lifted_structure", margin=1.0),
    "n_pair": LossConfig("n_pair", temperature=0.11),
    "normalised_softmax": LossConfig("normalised_softmax", temperature=0.11),
    "angular": LossConfig("angular", angle_degrees=45.0),
    "proxy_anchor": LossConfig("proxy_anchor", margin=0.1, scale=32.0),
}
PRESETS: Mapping[str, Mapping[str, LossConfig]] = {
    "cub": {
        "contrastive": LossConfig("contrastive", positive_margin=0.0, negative_margin=0.3841),
        "triplet": LossConfig("triplet", margin=0.0961),
        "multi_similarity": LossConfig("multi_similarity", positive_scale=2.0, negative_scale=40.0, threshold=0.5),
        **_FOR_ALL,
    },
    "cars": {
        "contrastive": LossConfig("contrastive", positive_margin=0.2652, negative_margin=0.5409),
        "triplet": LossConfig("triplet", margin=0.1190),
        "multi_similarity": LossConfig("multi_similarity", positive_scale=14.35, negative_scale=75.83, threshold=0.66),
        **_FOR_ALL,
    },
    "sop": {
        "contrastive": LossConfig("contrastive", positive_margin=0.2858, negative_margin=0.5130),
        "triplet": LossConfig("triplet", margin=0.0451),
        "multi_similarity": LossConfig("multi_similarity", positive_scale=2.0, negative_scale=40.0, threshold=0.5),
        **_FOR_ALL,
    },
}
