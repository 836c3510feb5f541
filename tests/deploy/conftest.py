"""The container files, as parsed by the real tools."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
# Without a developer's .env and AKIN_* variables: the tests read the shipped defaults.
ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


def compose(*arguments: str, gpu: bool = False, environment: Mapping[str, str] = {}) -> Any:
    """Return what the real Compose makes of the shipped files."""
    files = ["docker-compose.yml", *(["docker-compose.gpu.yml"] if gpu else [])]
    command = [str(TOOLS / "docker-compose"), "--env-file", "/dev/null", "--profile", "*"]
    command += [part for name in files for part in ("--file", name)]
    done = subprocess.run(
        [*command, "config", *arguments, "--format", "json"],
        cwd=ROOT,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session", params=["cpu", "gpu"])
def configuration(request: pytest.FixtureRequest) -> Any:
    """The whole configuration, without and with the override for GPUs."""
    return compose(gpu=request.param == "gpu")


@pytest.fixture(scope="session")
def services(configuration: Any) -> dict[str, Any]:
    """The services by name, all profiles included."""
    found: dict[str, Any] = configuration["services"]
    return found


def seconds(duration: str) -> float:
    """Convert a duration in Compose's notation, such as 2m30s, to seconds."""
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert parts, duration
    hours, minutes, rest = (int(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + rest
