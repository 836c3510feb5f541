"""deploy/make-secrets.sh: files that containers can read and other users of the host cannot."""

import stat
import subprocess

import pytest
from sqlalchemy.engine import make_url

from service.installation.settings import load_settings
from tests.deploy.conftest import ROOT

NAMES = {"akin_admin_key", "akin_database_url", "postgres_password"}


def make_secrets(folder):
    return subprocess.run(["sh", "deploy/make-secrets.sh", str(folder)], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def secrets(tmp_path):
    done = make_secrets(tmp_path / "secrets")
    assert done.returncode == 0, done.stderr
    return tmp_path / "secrets"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_creates_the_files_that_compose_mounts(secrets):
    assert {path.name for path in secrets.iterdir()} == NAMES


def test_only_the_owner_enters_the_folder_and_every_container_user_reads_the_files(secrets):
    assert mode(secrets) == 0o700
    assert {mode(path) for path in secrets.iterdir()} == {0o444}


def test_akin_reads_the_files(monkeypatch, secrets, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AKIN_SECRETS_DIR", str(secrets))
    monkeypatch.delenv("AKIN_ADMIN_KEY", raising=False)

    settings = load_settings()

    assert settings.admin_key is not None
    assert settings.admin_key.get_secret_value() == (secrets / "akin_admin_key").read_text()
    address = make_url(settings.database_url)
    assert (address.host, address.database, address.username) == ("postgres", "akin", "akin")
    assert address.password == (secrets / "postgres_password").read_text()


def test_values_are_random_and_never_printed(tmp_path):
    first, second = make_secrets(tmp_path / "first"), make_secrets(tmp_path / "second")

    values = [(tmp_path / folder / name).read_text() for folder in ("first", "second") for name in sorted(NAMES)]
    assert len(set(values)) == len(values)
    assert not any(value in first.stdout + second.stdout for value in values)
    assert all(len(value) >= 64 for value in values)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_existing_files_are_never_replaced(tmp_path, name):
    (tmp_path / name).write_text("kept")

    done = make_secrets(tmp_path)

    assert done.returncode == 1
    assert f"{name} already exists" in done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "kept"}


def test_git_and_builds_ignore_the_files():
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    assert "!deploy" not in (ROOT / ".dockerignore").read_text().splitlines()
