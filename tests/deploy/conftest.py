"""What the files for containers say, as the tools that read them see it."""

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
# Without this machine's .env and AKIN_*: what is shipped is looked at.
ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


def compose(*arguments: str, gpu: bool = False, environment: Mapping[str, str] = {}) -> Any:
    """Let the real Compose read the shipped files, and return its answer."""
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
    """Return a duration as Compose writes it, such as 2m30s, in seconds."""
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert parts, duration
    hours, minutes, rest = (int(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + rest
