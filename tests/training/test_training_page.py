"""The settings and presets named in docs/training.md exist."""

import dataclasses
import re
from pathlib import Path

from training.config import TrainingConfig, preset_names

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


def test_every_named_setting_exists():
    config = TrainingConfig()
    sections = [
        field.name for field in dataclasses.fields(config) if dataclasses.is_dataclass(getattr(config, field.name))
    ]
    named = re.findall(rf"`({'|'.join(sections)})\.(?!py\b)(\w+)", PAGE)

    assert len(named) > 15
    for section, knob in named:
        assert hasattr(getattr(config, section), knob), f"{section}.{knob}"


def test_every_preset_is_described():
    assert [name for name in preset_names() if f"`{name}`" not in PAGE] == []
