"""The shell scripts: their linter, and what they report where they cannot run."""

import shutil
import subprocess

from tests.deploy.conftest import ROOT, TOOLS

SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix() for folder in ("deploy", "requirements") for path in (ROOT / folder).rglob("*.sh")
)


def run(script, path):
    command = [shutil.which("sh") or "sh", script]
    return subprocess.run(command, cwd=ROOT, env={"PATH": str(path)}, capture_output=True, text=True)


def test_the_linter_finds_nothing():
    done = subprocess.run(
        [str(TOOLS / "shellcheck"), "--color=never", *SCRIPTS], cwd=ROOT, capture_output=True, text=True
    )

    assert len(SCRIPTS) == 5
    assert (done.returncode, done.stdout) == (0, "")


def test_the_check_of_compose_is_skipped_without_docker(tmp_path):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname") or "dirname")
    (tmp_path / "curl").symlink_to(shutil.which("true") or "true")  # it is never run

    done = run("deploy/check-compose.sh", tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (3, "", "SKIPPED: docker is not installed\n")


def test_compiling_the_lock_files_needs_uv(tmp_path):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname") or "dirname")

    done = run("requirements/compile.sh", tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "uv is not installed; install it with: pip install uv\n"
