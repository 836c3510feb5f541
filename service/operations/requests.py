"""Requests for operations: one model for HTTP bodies, database rows and the command line."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from service.operations.errors import InvalidOperation
from service.operations.kinds import IMPORT, LABELS, Kind
from training.config import TrainingConfig, load_preset, preset_names
from training.datasets.folders import Layout
from training.errors import InvalidConfig
from training.gate.decision import GatePolicy

Request = TypeVar("Request", bound=BaseModel)

# The held-out images never depend on the request: nobody chooses the images that a model is measured on.
_HELD_OUT = "held-out images are chosen by hash, identically for all runs"
_FIXED_KNOBS = {
    ("network", "checkpoint"): "use base: current or pretrained",
    ("split", "test"): _HELD_OUT,
    ("split", "unseen_share"): _HELD_OUT,
    ("split", "unseen_classes"): _HELD_OUT,
    ("split", "seen_example_share"): _HELD_OUT,
}
# Settings of the split that no request can change, as advice names them.
FIXED_SPLIT_SETTINGS = frozenset(f"{section}.{knob}" for section, knob in _FIXED_KNOBS if section == "split")


class RetrainRequest(BaseModel):
    """Train a model on the labels, and publish a release with it if the gate accepts it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Literal["all"] | datetime = Field(
        "all",
        description="`all` labels, or a time: then only examples labelled since that time, and all images of the "
        "catalogue, are trained on. Held-out images are the same in both cases.",
    )
    preset: str = Field("", description="One of `akin presets`; empty: `head` without a GPU, `small` with one.")
    overrides: tuple[str, ...] = Field((), description='Single settings, such as "steps=2000" or "loss.name=triplet".')
    base: Literal["pretrained", "current"] = Field(
        "pretrained", description="Start from the preset's published weights, or from the active release's model."
    )
    gate: dict[str, Any] = Field(default_factory=dict, description="Changes to the gate's policy.")
    promote: Literal["automatic", "manual"] = Field(
        "automatic", description="`manual`: a release that passes the gate is published but not activated."
    )
    note: str = Field("", max_length=1000, description="Free text, recorded with the operation.")

    @field_validator("data", mode="after")
    @classmethod
    def _with_zone(cls, value: object) -> object:
        # Without a zone, the same text would mean a different moment on each machine.
        return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value

    def policy(self) -> GatePolicy:
        """Return the gate's policy; raises InvalidOperation, which names the invalid value."""
        try:
            return GatePolicy.from_json(self.gate)
        except InvalidConfig as error:
            raise InvalidOperation(f"gate: {error}") from error

    def config(self, preset: str) -> TrainingConfig:
        """Return the configuration of the training run; `preset` applies if the request names none."""
        try:
            return load_preset(self.preset or preset, [*self.overrides, "split.test=hash"])
        except InvalidConfig as error:
            raise InvalidOperation(str(error)) from error

    def check(self) -> None:
        """Raise InvalidOperation for values that would fail only in a later step."""
        if self.preset and self.preset not in preset_names():
            raise InvalidOperation(f"there is no preset {self.preset!r}; presets are {', '.join(preset_names())}")
        preset = self.preset or "head"
        config, untouched = self.config(preset), load_preset(preset, ["split.test=hash"])
        # The resulting values are compared: an override may replace a whole section at once.
        for (section, knob), remedy in _FIXED_KNOBS.items():
            if getattr(getattr(config, section), knob) != getattr(getattr(untouched, section), knob):
                raise InvalidOperation(f"the overrides may not change {section}.{knob}: {remedy}")
        self.policy()


class BuildRequest(BaseModel):
    """Build a release of the current catalogue with the active release's model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    activate: bool = Field(True, description="Activate the release once it is built.")
    note: str = Field("", max_length=1000, description="Free text, recorded with the operation.")


class ImportRequest(BaseModel):
    """Import an uploaded archive or table: products with their images, or labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["catalogue", "labels"] = Field("catalogue", description="What the upload contains.")
    dry_run: bool = Field(False, description="Read and check everything, write nothing.")
    labelled_by: str = Field("", description="Who set the labels, unless a row names somebody.")
    source: str = Field("", description="Where the labels come from, kept with each change.")
    layout: Layout = Field("auto", description="How folders in an archive are read.")
    note: str = Field("", max_length=1000, description="Free text, recorded with the operation.")

    @property
    def operation_kind(self) -> Kind:
        """The kind of the operation that performs this."""
        return IMPORT if self.kind == "catalogue" else LABELS


class QueuedImport(ImportRequest):
    """An import as its operation records it: with the name of the upload's file and the hash of its bytes."""

    file: str
    sha256: str


def parse_retrain(value: Mapping[str, Any] | bytes) -> RetrainRequest:
    """Validate a request to retrain; raises InvalidOperation, which names each invalid value."""
    request = _parse(RetrainRequest, value)
    request.check()
    return request


def parse_build(value: Mapping[str, Any] | bytes) -> BuildRequest:
    """Validate a request to build a release; raises InvalidOperation, which names each invalid value."""
    return _parse(BuildRequest, value)


def parse_import(value: Mapping[str, Any]) -> ImportRequest:
    """Validate a request to import an upload; raises InvalidOperation, which names each invalid value."""
    request = _parse(ImportRequest, value)
    if request.kind == "catalogue" and (request.labelled_by or request.source):
        raise InvalidOperation("labelled_by and source are recorded with labels; omit them, or import kind=labels")
    return request


def _parse(kind: type[Request], value: Mapping[str, Any] | bytes) -> Request:
    try:
        return kind.model_validate_json(value or b"{}") if isinstance(value, bytes) else kind.model_validate(value)
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(map(str, detail['loc'])) or 'body'}: {detail['msg']} (got {_shown(detail['input'])})"
            for detail in error.errors()
        )
        allowed = ", ".join(kind.model_fields)
        raise InvalidOperation(f"invalid request: {reasons}; allowed fields are {allowed}") from error


def _shown(value: object) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return f"{text!r:.80}"
