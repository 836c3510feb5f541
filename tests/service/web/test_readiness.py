"""/readyz reports the release, the database and the disk, and does not wait for either."""

import errno
import os
import shutil
import threading
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

OK = {"ok": True, "reason": None}


@contextmanager
def serving(settings):
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        yield client


@pytest.fixture(scope="module")
def served_settings(served_home):
    return Settings(home=served_home, release_poll_seconds=0.05)


@pytest.fixture(scope="module")
def client(served_settings):
    with serving(served_settings) as opened:
        yield opened


def checks_of(client):
    """Return the HTTP status, the status or error code in the body, and the reasons of failed checks."""
    response = client.get("/readyz")
    body = response.json()
    assert set(body["checks"]) == {"release", "network", "index", "database", "disk"}
    failed = {name: check["reason"] for name, check in body["checks"].items() if not check["ok"]}
    return response.status_code, body["status"] if response.status_code == 200 else body["code"], failed


def test_ready_if_all_checks_are_ok(client):
    release_id = client.get("/version").json()["release_id"]
    assert client.get("/readyz").json() == {
        "status": "ready",
        "release_id": release_id,
        "warning": None,
        "checks": {
            "release": {**OK, "release_id": release_id},
            "network": OK,
            "index": OK,
            "database": OK,
            "disk": OK,
        },
    }


def test_without_a_release_the_response_is_503_with_all_checks(settings, installation):
    with TestClient(create_app(settings)) as client:
        wait_for(lambda: checks_of(client)[2].keys() == {"release"})
        response = client.get("/readyz")

    check = response.json()["checks"]["release"]
    assert (response.status_code, response.json()["code"]) == (503, "not-ready")
    assert "akin index build" in check["reason"]
    assert check["release_id"] is None
    assert "akin index build" in response.json()["detail"]
    assert response.headers["retry-after"]


def test_a_draining_process_is_not_ready_but_serves_requests(client, monkeypatch):
    monkeypatch.setattr(client.app.state.process_state, "is_draining", True)

    status, code, failed = checks_of(client)

    assert (status, code, failed) == (503, "not-ready", {})
    assert "shutting down" in client.get("/readyz").json()["detail"]
    assert client.get("/livez").status_code == 200


def test_a_release_that_cannot_be_loaded_is_reported_while_the_previous_one_serves(settings, shop, tmp_path):
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny")
    first = build_release(shop, checkpoint=checkpoint).release_id
    second = build_release(shop, checkpoint=checkpoint, activate=False).release_id
    (shop.settings.releases_dir / second / "rows.arrow").write_bytes(b"damaged")
    with serving(settings) as client:
        with shop.database.transaction() as session:
            activate_release(session, second)
        wait_for(lambda: checks_of(client)[1] == "degraded")

        status, _, failed = checks_of(client)
        assert (status, failed.keys()) == (200, {"release"})
        assert f"{second} is refused" in failed["release"]
        assert "rows.arrow" in failed["release"]
        assert client.get("/readyz").json()["checks"]["release"]["release_id"] == first


def test_an_unavailable_database_is_reported_without_its_address(client, monkeypatch):
    def away(_):
        raise DatabaseUnavailable("connection to server at 10.1.2.3, port 5432 failed for user akin")

    with monkeypatch.context() as context:
        context.setattr("service.serving.watcher.active_release", away)
        wait_for(lambda: checks_of(client)[1] == "degraded")
        status, _, failed = checks_of(client)
        assert (status, failed.keys()) == (200, {"database"})
        assert "10.1.2.3" not in client.get("/readyz").text
    wait_for(lambda: checks_of(client)[1] == "ready")


def test_a_hanging_database_is_reported_without_waiting_for_it(client, monkeypatch):
    monkeypatch.setattr("service.serving.database_state._SILENT_SECONDS", 0.2)
    hanging = threading.Event()
    with monkeypatch.context() as context:
        context.setattr("service.serving.watcher.active_release", lambda _: hanging.wait(20) and 1 / 0)
        wait_for(lambda: checks_of(client)[1] == "degraded")
        reason = checks_of(client)[2]["database"]  # while the database hangs
        hanging.set()

    assert "has not answered for" in reason
    wait_for(lambda: checks_of(client)[1] == "ready")


def test_a_disk_with_little_space_is_reported(served_settings, monkeypatch):
    monkeypatch.setattr(disk_module, "_LOOK_SECONDS", 0.02)
    free_bytes = shutil.disk_usage(served_settings.home).free
    with serving(served_settings.model_copy(update={"min_free_bytes": 2 * free_bytes})) as client:
        status, code, failed = checks_of(client)
        assert (status, code, failed.keys()) == (200, "degraded", {"disk"})
        assert f"less than {2 * free_bytes:,} bytes" in failed["disk"]

        monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3 * free_bytes}))
        wait_for(lambda: checks_of(client)[1] == "ready")


def test_a_missing_or_read_only_home_is_reported(tmp_path, monkeypatch):
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
        # Root may write anywhere, so the system call is replaced.
        monkeypatch.setattr(os, "access", lambda *_: False)
        wait_for(lambda: disk.problem() == "the home folder cannot be written to")
    finally:
        disk.close()


def test_a_hanging_disk_is_reported_and_delays_neither_the_check_nor_the_shutdown(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_module, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(disk_module, "_SILENT_SECONDS", 0.1)
    is_over, num_returned = threading.Event(), []
    disk = DiskWatch(tmp_path, min_free_bytes=0)
    usage = shutil.disk_usage(tmp_path)

    def hang(_):
        is_over.wait(60)
        num_returned.append(1)
        return usage

    monkeypatch.setattr(shutil, "disk_usage", hang)

    wait_for(lambda: "has not answered" in (disk.problem() or ""))
    disk.close()

    assert num_returned == []
    is_over.set()
    wait_for(lambda: num_returned)


def test_recognises_a_full_disk_by_the_error_or_its_cause():
    wrapped = MediaError("the image cannot be stored")
    wrapped.__cause__ = OSError(errno.ENOSPC, "full")

    assert is_disk_full(OSError(errno.ENOSPC, "full"))
    assert is_disk_full(OSError(errno.EDQUOT, "over the quota"))
    assert is_disk_full(wrapped)
    assert not is_disk_full(OSError(errno.EIO, "broken"))
    assert not is_disk_full(MediaError("the image cannot be stored"))
    # numpy and safetensors report it only in the message.
    assert is_disk_full(OSError("cannot be written: IoError: No space left on device (os error 28)"))
