"""Keys of each kind, and commands that are run as a user runs them."""

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from service.access.keys import create_key, get_key, revoke_key
from service.cli.main import main
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.storage.database import now
from service.web.app import create_app


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def make_keys(database, settings):
    """Make a key for each scope, one that has expired and one that was revoked; return them by name."""
    scopes = {"searcher": "search", "writer": "catalogue:write", "boss": "admin", "late": "admin", "gone": "admin"}
    soon = now() + timedelta(hours=1)
    keys = {
        name: create_key(database, name, [scope], actor="test", expires_at=soon if name == "late" else None)[1]
        for name, scope in scopes.items()
    }
    let_expire(database, "late")
    revoke_key(database, "gone", settings=settings)
    return keys


def let_expire(database, name):
    with database.transaction() as session:
        get_key(session, name).expires_at = now() - timedelta(seconds=1)


@pytest.fixture(scope="module")
def served_settings(tmp_path_factory, new_address):
    """Settings of an installation that all tests of a module share."""
    return Settings(home=tmp_path_factory.mktemp("served") / "home", database_url=new_address())


@pytest.fixture(scope="module")
def served_database(served_settings):
    with open_installation(served_settings) as opened:
        yield opened.database


@pytest.fixture(scope="module")
def served_keys(served_settings, served_database):
    return make_keys(served_database, served_settings)


@pytest.fixture(scope="module")
def served(served_settings, served_keys):
    """A client of a server that everybody may reach; nothing is in its catalogue."""
    with TestClient(create_app(served_settings, is_loopback=False)) as opened:
        yield opened


@pytest.fixture
def database(installation):
    return installation.database


@pytest.fixture
def akin(settings, capsys, monkeypatch):
    """Run a command on the installation of the settings; gives what it printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, status=0):
        capsys.readouterr()  # what a server beside it has said
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert (ended.value.code or 0) == status, captured.err + captured.out
        return captured

    return run
