"""One virtual environment per peer, made with pip and kept between runs."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

_MARKER = "installed.json"
# The libraries that do the work have the same versions as in Akin's environment.
_SHARED = ("numpy", "pillow")
_LIST_VERSIONS = (
    "import importlib.metadata as m, json, sys; print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
)


def same_version(distribution: str) -> str:
    """Return the requirement of the version that runs here, without a build's local part such as `+cpu`."""
    return f"{distribution}=={version(distribution).partition('+')[0]}"


def make_environment(directory: Path, requirements: Sequence[str], torch_index_url: str | None) -> Path:
    """Return the interpreter of an environment with exactly these requirements; install them if it lacks them.

    `torch_index_url` names an index from which torch alone is installed. Raises SystemExit if pip fails.
    """
    wanted = sorted({*requirements, *map(same_version, _SHARED)})
    python = directory / "bin" / "python"
    marker = directory / _MARKER
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        return python
    print(f"installing {' '.join(wanted)} into {directory}", file=sys.stderr, flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(directory)])
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    torch = [requirement for requirement in wanted if requirement.startswith("torch==")]
    if torch and torch_index_url:
        _run([*install, "--index-url", torch_index_url, *torch])
    _run([*install, *wanted])
    marker.write_text(json.dumps(wanted))
    return python


def installed_versions(python: Path, distributions: Sequence[str]) -> dict[str, str]:
    """Return the versions that an environment has."""
    command = [str(python), "-c", _LIST_VERSIONS, *distributions]
    versions: dict[str, str] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return versions


def _run(command: list[str]) -> None:
    # pip's warnings go to standard error, so that the table on standard output stays clean.
    done = subprocess.run(command, stdout=sys.stderr)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with status {done.returncode}")
