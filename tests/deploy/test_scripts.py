"""The scripts beside the image: what they take over from the host, and what they say where they cannot work."""

import os
import shutil
import subprocess

import pytest

from tests.deploy.conftest import ROOT, TOOLS

SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "deploy").rglob("*.sh"))


def test_shell_scripts_are_sound():
    done = subprocess.run(
        [str(TOOLS / "shellcheck"), "--color=never", *SCRIPTS], cwd=ROOT, capture_output=True, text=True
    )

    assert len(SCRIPTS) >= 5
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def bare_path(tmp_path):
    """A PATH with what any Unix has, and nothing that builds images."""
    for name in ("sh", "sed", "dirname", "id", "mktemp", "chmod", "rm", "cat"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    return {"PATH": str(tmp_path)}


def run(script, *arguments, environment):
    command = [shutil.which("sh") or "sh", f"deploy/{script}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("script", "arguments", "reason"),
    [
        ("build-image.sh", (), "buildah is not installed (Debian: apt-get install buildah): nothing was built"),
        ("prove-image.sh", ("akin:any",), "buildah is not installed: the image was not started"),
    ],
)
def test_without_buildah_it_says_what_was_skipped_with_a_status_of_its_own(bare_path, script, arguments, reason):
    done = run(script, *arguments, environment=bare_path)

    assert (done.returncode, done.stdout, done.stderr) == (3, "", f"SKIPPED: {reason}\n")


@pytest.mark.parametrize(
    "arguments", [("--target", "tpu"), ("--target",), ("--tag",), ("--push",)], ids=lambda given: " ".join(given)
)
def test_arguments_that_make_no_sense_are_refused(arguments):
    assert run("build-image.sh", *arguments, environment=dict(os.environ)).returncode == 2
