"""The Dockerfile: its linter, and what its stages must not do. Nothing is built here."""

import re
import subprocess
import tomllib

import pytest

from service.installation.settings import Settings
from tests.deploy.conftest import ROOT, TOOLS

SHIPPED = ("runtime", "cpu", "gpu")  # stages whose layers are part of an image
TEXT = (ROOT / "Dockerfile").read_text()


def instructions():
    """Return (stage, instruction, argument) of each instruction, with continued lines joined."""
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


def test_the_linter_finds_nothing():
    done = subprocess.run(
        [str(TOOLS / "hadolint"), "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (0, "")


def test_has_a_target_for_cpus_and_one_for_gpus():
    assert {"cpu", "gpu"} <= {stage for stage, _, _ in instructions()}
    assert arguments("FROM", "default") == ["cpu"]


def test_the_shipped_stages_only_copy():
    """No compiler, cache or mounted secret of a build can remain in an image."""
    assert arguments("RUN", *SHIPPED) == []
    assert all(argument.startswith("--from=") for argument in arguments("COPY", *SHIPPED))


def test_runs_as_an_unprivileged_user():
    assert arguments("USER") == ["10001:10001"]
    assert "--chown=10001:10001 /data /data" in " ".join(arguments("COPY", "runtime"))
    assert arguments("VOLUME") == ['["/data"]']


def test_a_change_of_code_reinstalls_no_dependency():
    """The layers of the dependencies depend only on the lock files and the script that installs them."""
    copied = arguments("COPY", "builder", "dependencies-cpu", "dependencies-gpu")

    assert copied == ["deploy/image/ /opt/tools/", "requirements requirements/"]


def test_the_health_check_runs_the_probe():
    (check,) = arguments("HEALTHCHECK")

    assert "python -m service.web.probe" in check
    assert "$AKIN_PORT/livez" in check


def test_stops_on_the_signal_that_servers_handle():
    assert arguments("STOPSIGNAL") == ["SIGTERM"]
    assert arguments("ENTRYPOINT") == ['["akin"]']  # a shell in between would not pass the signal on


def test_sets_only_existing_settings():
    named = set(re.findall(r"\b(AKIN_[A-Z_]+)=", " ".join(arguments("ENV"))))

    assert named == {"AKIN_HOME", "AKIN_HOST", "AKIN_PORT"}
    assert {name.removeprefix("AKIN_").lower() for name in named} <= set(Settings.model_fields)


def test_everything_is_installed_from_the_lock_files():
    script = (ROOT / "deploy" / "image" / "install-dependencies.sh").read_text()
    commands = re.findall(r"pip install ([^&;\n]*)", "\n".join([*arguments("RUN"), script]))
    unlocked = [command for command in commands if "--require-hashes" not in command]

    assert len(commands) == 6
    assert [command.strip() for command in unlocked] == [
        "--no-deps --no-build-isolation --target /opt/akin .",
        '--no-deps --index-url "$TORCH_INDEX_URL" $versions',
        "$EXTRA_PACKAGES",
    ]


@pytest.mark.parametrize("secret", ["pip_conf", "ca_bundle"])
def test_build_secrets_are_mounted_and_never_copied(secret):
    installing = [argument for argument in arguments("RUN") if "--mount=type=cache" in argument]

    assert len(installing) == 3
    assert all(f"--mount=type=secret,id={secret}" in argument for argument in installing)
    assert not any(secret in argument for argument in arguments("COPY") + arguments("ENV") + arguments("ARG"))


def test_has_the_version_of_the_project():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert set(re.findall(r"VERSION=([\d.]+)$", TEXT, re.MULTILINE)) == {version}
    assert f"akin:{version}-cpu" in TEXT


def test_the_build_context_is_exactly_what_is_copied():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        source.rstrip("/")
        for argument in arguments("COPY")
        if not argument.startswith("--from=")
        for source in argument.split()[:-1]
    }

    assert lines[1] == "*"  # everything else is excluded: secrets, data, history
    assert sent == copied
    assert all((ROOT / name).exists() for name in sent)
