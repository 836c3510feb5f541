"""/readyz says which of release, database and disk is not ready, and is quick whatever hangs."""

import errno
import os
import shutil
import threading
import time
from contextlib import contextmanager

import pytest
from fastapi.testclient import TestClient

from service.errors import is_disk_full
from service.installation.settings import Settings
from service.releases.build import build_release
from service.releases.records import activate_release
from service.storage import disk as disk_module
from service.storage.disk import DiskWatch
from service.storage.errors import DatabaseUnavailable, MediaError
from service.web.app import create_app
from tests.service.conftest import wait_for
from tests.service.fixtures.tiny_model import save_tiny_checkpoint

WELL = {"ok": True, "reason": None}


@contextmanager
def serving(settings):
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        yield client


@pytest.fixture
def served_settings(served_home):
    return Settings(home=served_home, release_poll_seconds=0.05)


@pytest.fixture
def client(served_settings):
    with serving(served_settings) as opened:
        yield opened


def checks_of(client):
    """Return the checks that are not ok, and what status the answer has."""
    response = client.get("/readyz")
    answer = response.json()
    assert set(answer["checks"]) == {"release", "database", "disk"}
    wrong = {name: check["reason"] for name, check in answer["checks"].items() if not check["ok"]}
    return response.status_code, answer["status"] if response.status_code == 200 else answer["code"], wrong


def test_all_is_well(client):
    release_id = client.get("/version").json()["release_id"]
    assert client.get("/readyz").json() == {
        "status": "ready",
        "release_id": release_id,
        "warning": None,
        "checks": {"release": {**WELL, "release_id": release_id}, "database": WELL, "disk": WELL},
    }


def test_without_a_release_the_answer_is_503_with_all_checks(settings, shop):
    with TestClient(create_app(settings)) as client:
        wait_for(lambda: checks_of(client)[2].keys() == {"release"})
        response = client.get("/readyz")

    status, code, wrong = response.status_code, response.json()["code"], response.json()["checks"]["release"]
    assert (status, code) == (503, "not-ready")
    assert "akin index build" in wrong["reason"]
    assert wrong["release_id"] is None
    assert "akin index build" in response.json()["detail"]
    assert response.headers["retry-after"]


def test_a_process_that_drains_is_not_ready_at_once_and_answers_all_the_same(client):
    client.app.state.process_state.is_draining = True

    status, code, wrong = checks_of(client)

    assert (status, code, wrong) == (503, "not-ready", {})
    assert "about to end" in client.get("/readyz").json()["detail"]
    assert client.get("/livez").status_code == 200


def test_a_refused_release_is_told_while_the_previous_one_serves(settings, shop, tmp_path):
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny")
    first = build_release(shop, checkpoint=checkpoint).release_id
    second = build_release(shop, checkpoint=checkpoint, activate=False).release_id
    (shop.settings.releases_dir / second / "rows.arrow").write_bytes(b"damaged")
    with serving(settings) as client:
        with shop.database.transaction() as session:
            activate_release(session, second)
        wait_for(lambda: checks_of(client)[1] == "degraded")

        status, _, wrong = checks_of(client)
        assert (status, wrong.keys()) == (200, {"release"})
        assert f"{second} is refused" in wrong["release"]
        assert "rows.arrow" in wrong["release"]
        assert client.get("/readyz").json()["checks"]["release"]["release_id"] == first


def test_a_database_that_is_away_is_told_without_its_address(client, monkeypatch):
    def away(_):
        raise DatabaseUnavailable("connection to server at 10.1.2.3, port 5432 failed for user akin")

    with monkeypatch.context() as context:
        context.setattr("service.serving.watcher.active_release", away)
        wait_for(lambda: checks_of(client)[1] == "degraded")
        status, _, wrong = checks_of(client)
        assert (status, wrong.keys()) == (200, {"database"})
        assert "10.1.2.3" not in client.get("/readyz").text
    wait_for(lambda: checks_of(client)[1] == "ready")


def test_a_database_that_hangs_is_told_and_holds_up_no_answer(client, monkeypatch):
    monkeypatch.setattr("service.serving.database_state._SILENT_SECONDS", 0.2)
    hanging = threading.Event()
    with monkeypatch.context() as context:
        context.setattr("service.serving.watcher.active_release", lambda _: hanging.wait(20) and 1 / 0)
        wait_for(lambda: checks_of(client)[1] == "degraded")
        seconds = min(_seconds_of(lambda: client.get("/readyz")) for _ in range(5))
        reason = checks_of(client)[2]["database"]
        hanging.set()

    assert "has not answered for" in reason
    assert seconds < 0.2  # and not the time that the database takes
    wait_for(lambda: checks_of(client)[1] == "ready")


def test_a_disk_with_little_room_is_told(served_settings, monkeypatch):
    monkeypatch.setattr(disk_module, "_LOOK_SECONDS", 0.02)
    free_bytes = shutil.disk_usage(served_settings.home).free
    with serving(served_settings.model_copy(update={"min_free_bytes": 2 * free_bytes})) as client:
        status, code, wrong = checks_of(client)
        assert (status, code, wrong.keys()) == (200, "degraded", {"disk"})
        assert f"less than {2 * free_bytes:,} bytes" in wrong["disk"]

        monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3 * free_bytes}))
        wait_for(lambda: checks_of(client)[1] == "ready")


def test_a_home_that_is_gone_or_may_not_be_written_to_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_module, "_LOOK_SECONDS", 0.02)
    home = tmp_path / "home"
    home.mkdir()
    disk = DiskWatch(home, min_free_bytes=0)
    try:
        assert disk.problem() is None
        home.rmdir()
        wait_for(lambda: "No such file" in (disk.problem() or ""))
        home.mkdir()
        wait_for(lambda: disk.problem() is None)
        # The owner of all files may write anywhere, so it is the system's answer that is changed.
        monkeypatch.setattr(os, "access", lambda *_: False)
        wait_for(lambda: disk.problem() == "the home folder cannot be written to")
    finally:
        disk.close()


def test_a_disk_that_hangs_is_told_and_holds_up_neither_an_answer_nor_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_module, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(disk_module, "_SILENT_SECONDS", 0.1)
    hanging = threading.Event()
    disk = DiskWatch(tmp_path, min_free_bytes=0)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: hanging.wait(20) and usage)

    wait_for(lambda: "has not answered" in (disk.problem() or ""))

    assert _seconds_of(disk.problem) < 0.1
    assert _seconds_of(disk.close) < 10
    hanging.set()


def _seconds_of(function):
    start = time.monotonic()
    function()
    return time.monotonic() - start


def test_knows_a_full_disk_by_its_error_and_by_what_the_error_came_of():
    wrapped = MediaError("the image cannot be stored")
    wrapped.__cause__ = OSError(errno.ENOSPC, "full")

    assert is_disk_full(OSError(errno.ENOSPC, "full"))
    assert is_disk_full(OSError(errno.EDQUOT, "over the quota"))
    assert is_disk_full(wrapped)
    assert not is_disk_full(OSError(errno.EIO, "broken"))
    assert not is_disk_full(MediaError("the image cannot be stored"))
    # numpy and safetensors tell of it in words only.
    assert is_disk_full(OSError("cannot be written: IoError: No space left on device (os error 28)"))
