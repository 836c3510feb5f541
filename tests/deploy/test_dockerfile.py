"""The Dockerfile, by its linter and by what its stages must not do. Building it is deploy/build-image.sh's."""

import re
import subprocess
import tomllib

import pytest

from service.installation.settings import Settings
from tests.deploy.conftest import ROOT, TOOLS

SHIPPED = ("runtime", "cpu", "gpu")  # the stages whose layers are in an image
TEXT = (ROOT / "Dockerfile").read_text()


def instructions():
    """Return (stage, instruction, its argument) of each instruction, with continued lines joined."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    found, stage = [], ""
    for line in filter(str.strip, lines):
        word, _, argument = line.partition(" ")
        if word == "FROM":
            name = re.search(r" AS (\w[\w-]*)$", argument)
            stage = name.group(1) if name else "default"
        found.append((stage, word, argument.strip()))
    return found


def arguments(word, *stages):
    return [argument for stage, name, argument in instructions() if name == word and (not stages or stage in stages)]


def test_the_linter_has_nothing_to_say():
    done = subprocess.run(
        [str(TOOLS / "hadolint"), "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (0, "")


def test_there_is_a_target_for_cpus_and_one_for_gpus():
    assert {"cpu", "gpu"} <= {stage for stage, _, _ in instructions()}
    assert arguments("FROM", "default") == ["cpu"]


def test_nothing_is_run_in_what_is_shipped():
    """So neither a compiler, nor a cache, nor what a build mounts can be left there."""
    assert arguments("RUN", *SHIPPED) == []
    assert all(argument.startswith("--from=") for argument in arguments("COPY", *SHIPPED))


def test_it_runs_as_a_user_without_rights():
    assert arguments("USER") == ["10001:10001"]
    assert "--chown=10001:10001 /data /data" in " ".join(arguments("COPY", "runtime"))
    assert arguments("VOLUME") == ['["/data"]']


def test_a_change_of_code_installs_no_packages_again():
    """What comes before the dependencies are installed is pyproject.toml and how to install."""
    copied = arguments("COPY", "builder", "dependencies-cpu", "dependencies-gpu")

    assert copied == ["deploy/image/ /opt/tools/", "pyproject.toml ."]


def test_its_health_is_asked_by_the_probe():
    (check,) = arguments("HEALTHCHECK")

    assert "python -m service.web.probe" in check
    assert "$AKIN_PORT/livez" in check


def test_it_ends_on_the_signal_that_servers_take():
    assert arguments("STOPSIGNAL") == ["SIGTERM"]
    assert arguments("ENTRYPOINT") == ['["akin"]']  # no shell between, which would keep the signal


def test_its_settings_exist():
    named = set(re.findall(r"\b(AKIN_[A-Z_]+)=", " ".join(arguments("ENV"))))

    assert named == {"AKIN_HOME", "AKIN_HOST", "AKIN_PORT"}
    assert {name.removeprefix("AKIN_").lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("secret", ["pip_conf", "ca_bundle"])
def test_secrets_of_the_build_are_mounted_and_never_copied(secret):
    installing = [argument for argument in arguments("RUN") if ".sh" in argument]

    assert len(installing) == 3
    assert all(f"--mount=type=secret,id={secret}" in argument for argument in installing)
    assert not any(secret in argument for argument in arguments("COPY") + arguments("ENV") + arguments("ARG"))


def test_the_version_is_that_of_the_project():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert set(re.findall(r"VERSION=([\d.]+)$", TEXT, re.MULTILINE)) == {version}
    assert f"akin:{version}-cpu" in TEXT


def test_what_is_sent_to_a_build_is_what_it_copies():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        source.rstrip("/")
        for argument in arguments("COPY")
        if not argument.startswith("--from=")
        for source in argument.split()[:-1]
    }

    assert lines[1] == "*"  # all the rest stays here: secrets, state, history
    assert sent == copied
    assert all((ROOT / name).exists() for name in sent)
