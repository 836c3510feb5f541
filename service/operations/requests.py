"""What can be asked of a worker, in the form that goes over HTTP, stands in the database and comes from a terminal."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from service.operations.errors import InvalidOperation
from training.config import TrainingConfig, load_preset, preset_names
from training.errors import InvalidConfig
from training.gate import GatePolicy

Request = TypeVar("Request", bound=BaseModel)

RETRAIN, BUILD = "retrain", "build"
KINDS = (RETRAIN, BUILD)

# What is held out never depends on who asks: a model must not be measured on what somebody chose for it.
_HELD_OUT = "what is held out is decided by hash, for all runs alike"
_FIXED_KNOBS = {
    ("network", "checkpoint"): "use base: current or pretrained",
    ("split", "test"): _HELD_OUT,
    ("split", "unseen_share"): _HELD_OUT,
    ("split", "unseen_classes"): _HELD_OUT,
    ("split", "seen_example_share"): _HELD_OUT,
}


class RetrainRequest(BaseModel):
    """A new model from the labels there are, and a new release if it proves better."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Literal["all"] | datetime = Field(
        "all",
        description="`all` labels, or a time: examples labelled since then, and the catalogue's images. What is "
        "held out is measured whole in both cases.",
    )
    preset: str = Field("", description="A preset of `akin presets`; empty: `head` without a GPU, `small` with one.")
    overrides: tuple[str, ...] = Field((), description='Single knobs, such as "steps=2000" or "loss.name=triplet".')
    base: Literal["pretrained", "current"] = Field(
        "pretrained", description="Start from the preset's published weights, or from the active release's model."
    )
    gate: dict[str, Any] = Field(default_factory=dict, description="Changes to the policy of the gate.")
    promote: Literal["automatic", "manual"] = Field(
        "automatic", description="`manual`: a release that passes the gate is published and not activated."
    )
    note: str = Field("", max_length=1000, description="For people.")

    @field_validator("data", mode="after")
    @classmethod
    def _with_zone(cls, value: object) -> object:
        # Without its zone a time means another moment on each machine.
        return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value

    def policy(self) -> GatePolicy:
        """Return the policy of the gate; raises InvalidOperation naming the value."""
        try:
            return GatePolicy.from_json(self.gate)
        except InvalidConfig as error:
            raise InvalidOperation(f"gate: {error}") from error

    def config(self, preset: str) -> TrainingConfig:
        """Return the configuration of the run, made from `preset` where the request names none."""
        try:
            return load_preset(self.preset or preset, [*self.overrides, "split.test=hash"])
        except InvalidConfig as error:
            raise InvalidOperation(str(error)) from error

    def check(self) -> None:
        """Raise InvalidOperation for what could only fail later."""
        if self.preset and self.preset not in preset_names():
            raise InvalidOperation(f"there is no preset {self.preset!r}; presets are {', '.join(preset_names())}")
        preset = self.preset or "head"
        config, untouched = self.config(preset), load_preset(preset, ["split.test=hash"])
        # What came of the overrides, however they are written: a whole section may be given as one.
        for (section, knob), remedy in _FIXED_KNOBS.items():
            if getattr(getattr(config, section), knob) != getattr(getattr(untouched, section), knob):
                raise InvalidOperation(f"the overrides may not change {section}.{knob}: {remedy}")
        self.policy()


class BuildRequest(BaseModel):
    """A release of the catalogue as it is, with the active release's model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    activate: bool = Field(True, description="Serve it at once.")
    note: str = Field("", max_length=1000, description="For people.")


def parse_retrain(value: Mapping[str, Any] | bytes) -> RetrainRequest:
    """Read and check a request; raises InvalidOperation naming each value that cannot be used."""
    request = _parse(RetrainRequest, value)
    request.check()
    return request


def parse_build(value: Mapping[str, Any] | bytes) -> BuildRequest:
    """Read a request; raises InvalidOperation naming each value that cannot be used."""
    return _parse(BuildRequest, value)


def _parse(kind: type[Request], value: Mapping[str, Any] | bytes) -> Request:
    try:
        return kind.model_validate_json(value or b"{}") if isinstance(value, bytes) else kind.model_validate(value)
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(map(str, detail['loc'])) or 'body'}: {detail['msg']} (got {_shown(detail['input'])})"
            for detail in error.errors()
        )
        allowed = ", ".join(kind.model_fields)
        raise InvalidOperation(f"the request cannot be used: {reasons}; it may have {allowed}") from error


def _shown(value: object) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return f"{text!r:.80}"
