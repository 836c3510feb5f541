"""The scripts beside the image: what they take over from the host, and what they say where they cannot work."""

import os
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.conftest import ROOT, TOOLS

SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "deploy").rglob("*.sh"))
HOST_PIP = runpy.run_path(str(ROOT / "deploy" / "host_pip.py"))
pip_settings, local_paths, ca_bundle = (HOST_PIP[name] for name in ("pip_settings", "local_paths", "ca_bundle"))


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


def test_requirements_are_those_of_the_project_and_of_the_extras():
    program = [sys.executable, "deploy/image/requirements.py", "pyproject.toml"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    listed = subprocess.run([*program, "gpu", "offline"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    unknown = subprocess.run([*program, "tpu"], cwd=ROOT, capture_output=True, text=True)

    assert listed.splitlines() == [*project["dependencies"], *extras["gpu"], *extras["offline"]]
    assert unknown.returncode != 0
    assert "tpu" in unknown.stderr


def test_settings_of_pip_are_taken_together_with_the_environment_last():
    listing = """
:env:.find-links='/wheels'
:env:.no-input='1'
global.cert='/etc/ca.crt'
global.extra-index-url='file:///pypi/simple\\nhttps://example.org/simple'
global.find-links='/elsewhere'
install.timeout='7'
global.timeout='60'
download.timeout='9'
"""

    assert pip_settings(listing.replace("\\n", " ")) == {
        "find-links": "/wheels",
        "no-input": "1",
        "cert": "/etc/ca.crt",
        "extra-index-url": "file:///pypi/simple https://example.org/simple",
        "timeout": "7",
    }


def test_local_folders_that_pip_reads_are_mounted(tmp_path):
    (tmp_path / "pypi" / "simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "constraints.txt").touch()
    settings = {
        # Its pages link to files beside the folder.
        "extra-index-url": f"{(tmp_path / 'pypi' / 'simple').as_uri()} https://example.org/simple",
        "find-links": f"{tmp_path / 'wheels'} {tmp_path / 'missing'} wheels",
        "constraint": str(tmp_path / "constraints.txt"),
    }

    assert local_paths(settings) == [tmp_path / "constraints.txt", tmp_path / "pypi", tmp_path / "wheels"]


def test_certificates_are_those_that_are_named_first(tmp_path):
    (tmp_path / "named.crt").touch()
    (tmp_path / "variable.crt").touch()

    assert ca_bundle({"cert": str(tmp_path / "named.crt")}, {}) == tmp_path / "named.crt"
    assert (
        ca_bundle({"cert": str(tmp_path / "missing.crt")}, {"SSL_CERT_FILE": str(tmp_path / "variable.crt")})
        == tmp_path / "variable.crt"
    )


def test_the_setup_of_this_host_can_be_written_down(tmp_path):
    subprocess.run([sys.executable, "deploy/host_pip.py", str(tmp_path)], cwd=ROOT, check=True)

    assert (tmp_path / "pip.conf").read_text().startswith("[global]\n")
    assert "cert =" not in (tmp_path / "pip.conf").read_text()  # given apart, at another place
    assert all(Path(line).exists() for line in (tmp_path / "mounts").read_text().splitlines())
