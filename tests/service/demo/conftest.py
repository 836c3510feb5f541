"""Demos that tests share or prepare cheaply."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.demo.preparation import Demo, prepare_demo
from service.installation.installation import open_installation
from service.installation.settings import Settings


@pytest.fixture
def announced() -> list[str]:
    return []


@pytest.fixture
def tiny_default_model(monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path) -> None:
    """Use the tiny model where a first release uses the untrained one, for tests that do not depend on the model."""
    monkeypatch.setattr("service.releases.build.zero_shot_checkpoint", lambda _: tiny_checkpoint)


@pytest.fixture
def prepare(settings: Settings, announced: list[str]) -> Callable[..., Demo]:
    """Prepare the demo in the home of the settings."""

    def prepare(**changes: object) -> Demo:
        return prepare_in(settings.model_copy(update=changes), announced)

    return prepare


def prepare_in(settings: Settings, announced: list[str]) -> Demo:
    """Prepare the demo in a home."""
    with open_installation(settings) as installation:
        return prepare_demo(installation, announce=announced.append, on_progress=lambda *_: None)
