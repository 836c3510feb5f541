"""Losses by name, with validated parameters."""

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

# The parameters of each loss; the defaults are those of its class.
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
# Smallest and largest value; the distance of unit vectors is at most 2.
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
    """A loss, the pairs it is computed on, and its parameters; None selects the default of the loss.

    Raises InvalidConfig for an unknown name, a parameter that the loss does not have, or a value outside its range.
    """

    name: LossName = "multi_similarity"
    pairs: PairsName = "all"
    mixed_weight: float = 0.1  # weight of the loss on all pairs, with pairs "mixed"
    positive_margin: float | None = None
    negative_margin: float | None = None
    margin: float | None = None
    mining: TripletMining | None = None
    positive_scale: float | None = None
    negative_scale: float | None = None
    threshold: float | None = None
    beta: float | None = None  # initial value
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
        """The parameters of the loss that are set."""
        values = {name: getattr(self, name) for name in _PARAMETER_NAMES}
        return {name: value for name, value in values.items() if value is not None}


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    # 1 == True, but 1 is not meant as True.
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise InvalidConfig(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def _check_range(name: str, value: object) -> None:
    low, high = _RANGES[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # NaN fails both comparisons.
    if not is_number or not low <= cast(float, value) <= high:
        raise InvalidConfig(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")


def create_loss(
    config: LossConfig, num_classes: int, embedding_dim: int, generator: torch.Generator | None = None
) -> MetricLoss:
    """Create a loss on the CPU; `generator` initialises learnt proxies.

    Losses with one weight or proxy per class take labels 0 to num_classes − 1.
    """
    arguments: dict[str, object] = {**config.parameters}
    if arguments.pop("beta_per_class", False):
        arguments["num_classes"] = num_classes
    # On representative pairs the proxies would never be used.
    if config.name == "proxy_anchor" and config.pairs != "representative":
        arguments.update(num_classes=num_classes, embedding_dim=embedding_dim, generator=generator)
    loss = _CLASSES[config.name](**arguments)
    return MixedLoss(loss, config.mixed_weight) if config.pairs == "mixed" else loss


def pairs_for(config: LossConfig, labels_B: Tensor, is_representative_B: Tensor) -> Pairs:
    """Return the pairs on which the loss of `config` is called."""
    if config.pairs == "all":
        return all_pairs(labels_B)
    # A mixed loss creates the pairs of its other part itself.
    return representative_pairs(labels_B, is_representative_B)


# Parameters known to work, by data set; the losses in _FOR_ALL use the same for all three.
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
