"""Publish releases while calls to the disk fail, one per run; a program that test_publish_faults.py starts.

    LD_PRELOAD=disk_faults.so python -m tests.service.releases.publishing_under_faults HOME STRIDE

For every STRIDE-th call that changes the disk while a release is published and activated, a child process publishes a
release, this call fails or kills the child, and the parent examines what is left. Prints one JSON object.
"""

import ctypes
import errno
import json
import os
import sys
import tempfile
from pathlib import Path

import torch

from embedding.errors import EmbeddingError
from embedding.runtimes.options import NetworkOptions
from index.errors import VectorIndexError
from service.catalogue.importing import import_catalogue
from service.catalogue.sources import read_import_source
from service.errors import ServiceError
from service.installation.installation import Installation, open_installation
from service.installation.logs import configure_logging
from service.installation.settings import Settings
from service.releases.build import build_release
from service.releases.files import load_release, verify_release
from service.releases.records import active_release, select_releases
from service.releases.retention import retire_old_releases
from tests.service.conftest import write_shop
from tests.service.fixtures.tiny_model import save_tiny_checkpoint

# How the n-th call ends: (errno, or 0 for a kill; whether all later calls fail as well).
MODES = {"input-output-error": (errno.EIO, 0), "disk-full": (errno.ENOSPC, 1), "killed": (0, 0)}
PUBLISHED, REFUSED, KILLED = 0, 3, 137

# The functions of the preloaded library.
_faults = ctypes.CDLL(None)
_faults.disk_faults_hit.restype = ctypes.c_char_p


def main() -> None:
    """Run all faults in each mode and print the outcomes."""
    torch.set_num_threads(1)
    configure_logging("warning")  # to standard error: standard output has the result
    home, stride = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    settings = Settings(home=home)
    checkpoint = prepare(settings)
    num_calls = count_calls(settings, checkpoint)
    outcomes = {mode: {"published": 0, "refused": 0, "killed": 0} for mode in MODES}
    problems: list[str] = []
    for number, mode in enumerate(MODES):
        # Each mode starts at another call, so that few faults cover many calls.
        for n in range(1 + number * stride // len(MODES), num_calls + 1, stride):
            outcome, found = one_fault(settings, checkpoint, n, mode)
            outcomes[mode][outcome] += 1
            problems += found
    print(json.dumps({"num_calls": num_calls, "outcomes": outcomes, "problems": problems}))  # noqa: T201  # its result


def one_fault(settings: Settings, checkpoint: Path, n: int, mode: str) -> tuple[str, list[str]]:
    """Publish with a fault in the n-th call, examine what is left, and publish again."""
    before = active_id(settings)
    status, call = publish_in_child(settings, checkpoint, n, mode)
    outcome = {PUBLISHED: "published", REFUSED: "refused", KILLED: "killed"}[status]
    problems = examine(settings, before, status)
    problems += [f"afterwards {problem}" for problem in publish_again(settings, checkpoint)]
    return outcome, [f"{mode}, call {n} ({call}): {problem}" for problem in problems]


def prepare(settings: Settings) -> Path:
    """Make a shop with an active release, and return a tiny checkpoint."""
    # Outside the home, in which calls are counted.
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    save_tiny_checkpoint(folder / "small")
    with open_installation(settings) as installation:
        import_catalogue(
            read_import_source(write_shop(folder / "shop")), installation.database, installation.media_store
        )
        build_release(installation, checkpoint=folder / "small")
    return folder / "small"


def count_calls(settings: Settings, checkpoint: Path) -> int:
    """Return how many calls change the disk without a fault."""
    with open_installation(settings) as installation:
        _faults.disk_faults_arm(str(settings.home).encode(), 0, 0, 0)
        build_release(installation, checkpoint=checkpoint)
        _faults.disk_faults_disarm()
    return int(_faults.disk_faults_counted())


def publish_in_child(settings: Settings, checkpoint: Path, n: int, mode: str) -> tuple[int, str]:
    """Publish in a process whose n-th call fails; return its exit status and the call."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            with open_installation(settings) as installation:
                _faults.disk_faults_arm(str(settings.home).encode(), n, *MODES[mode])
                status = publish(installation, checkpoint)
                os.write(writing, _faults.disk_faults_hit())
                _faults.disk_faults_disarm()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        call = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), call


def publish(installation: Installation, checkpoint: Path) -> int:
    """Publish and activate; an error of Akin or of the operating system counts as a refusal."""
    try:
        build_release(installation, checkpoint=checkpoint)
    except (ServiceError, EmbeddingError, VectorIndexError, OSError):
        return REFUSED
    return PUBLISHED


def examine(settings: Settings, before: str, status: int) -> list[str]:
    """Return the problems of what is left: each release must be complete, and the active one must load."""
    problems = []
    with open_installation(settings) as installation, installation.database.reading() as session:
        active = active_release(session).release_id
        recorded = {release.id for release in select_releases(session)}
    folders = {path.name for path in settings.releases_dir.iterdir() if not path.name.startswith(".")}
    for release_id in sorted(recorded | folders):
        try:
            verify_release(settings.releases_dir, release_id)
        except ServiceError as error:
            problems.append(str(error))
    if status == PUBLISHED and active == before:
        problems.append("published, and not active")
    if status == REFUSED and active != before:
        problems.append(f"refused, and {active} is active")
    load(settings, active)
    return problems


def publish_again(settings: Settings, checkpoint: Path) -> list[str]:
    """Publish again without a fault; nothing of the failed run must remain."""
    with open_installation(settings) as installation:
        built = build_release(installation, checkpoint=checkpoint)
        load(settings, built.release_id)
        # A release that was complete but not recorded is recorded by the next build.
        with installation.database.reading() as session:
            recorded = {release.id for release in select_releases(session)}
        assert recorded == {path.name for path in settings.releases_dir.iterdir() if not path.name.startswith(".")}
        problems = [] if built.is_active and built.num_embedded == 0 else [f"{built}"]
        retire_old_releases(installation, keep=0)
    hidden = [path.name for path in settings.releases_dir.glob(".*") if path.name != ".lock"]
    return problems + ([f"{hidden} remains"] if hidden else [])


def active_id(settings: Settings) -> str:
    with open_installation(settings) as installation, installation.database.reading() as session:
        return active_release(session).release_id or ""


def load(settings: Settings, release_id: str | None) -> None:
    assert release_id
    load_release(settings.releases_dir, release_id, NetworkOptions("cpu"), index_device="cpu")


if __name__ == "__main__":
    main()
