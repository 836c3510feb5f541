"""akin doctor on an installation that serves: who may search, which proxies are trusted, whether workers run."""

import pytest

from service.cli.doctor import Status, examine
from service.installation.processes import register_process
from service.operations.records import create_operation
from service.storage.migration import migrate


def findings(settings, **changes):
    return {finding.name: finding for finding in examine(settings.model_copy(update=changes))}


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({}, "everybody who can reach the server (AKIN_PUBLIC_SEARCH=auto, AKIN_HOST=127.0.0.1)"),
        ({"host": "0.0.0.0"}, "keys with the scope search (AKIN_PUBLIC_SEARCH=auto, AKIN_HOST=0.0.0.0)"),
        ({"host": "localhost", "public_search": False}, "keys with the scope search (AKIN_PUBLIC_SEARCH=false, "),
        ({"host": "::", "public_search": True}, "everybody who can reach the server (AKIN_PUBLIC_SEARCH=true, "),
    ],
)
def test_shows_who_may_search(settings, changes, detail):
    assert findings(settings, **changes)["who may search"].detail.startswith(detail)


def test_shows_which_proxies_are_trusted(settings):
    assert findings(settings)["forwarded addresses"].detail.startswith("no proxy is trusted")
    found = findings(settings, trusted_proxies="172.16.0.0/12")
    assert found["forwarded addresses"].detail.startswith("trusted from 172.16.0.0/12")


def test_shows_where_the_metrics_are_and_notes_an_open_port(settings):
    closed, local, opened = (
        findings(settings, metrics_port=port, metrics_host=host)["metrics"]
        for port, host in ((None, "0.0.0.0"), (9100, "127.0.0.1"), (9100, "0.0.0.0"))
    )

    assert (closed.status, closed.detail) == (Status.OK, "at /metrics of the server, for keys with the scope admin")
    assert (local.status, local.detail) == (Status.OK, "port 9100 of 127.0.0.1, without a key")
    assert (opened.status, "internal network" in opened.remedy) == (Status.NOTE, True)


def test_too_little_disk_is_a_problem(settings):
    found = findings(settings, min_free_bytes=2**60)["disk"]

    assert (found.status, "AKIN_MIN_FREE_BYTES" in found.remedy) == (Status.PROBLEM, True)


def test_an_operation_without_a_worker_is_noted(installation, settings):
    idle = findings(settings)["workers"]
    create_operation(installation.database, "retrain", {}, actor="test")
    waiting = findings(settings)["workers"]
    register_process(installation.database, "worker")
    served = findings(settings)["workers"]

    assert (idle.status, idle.detail) == (Status.OK, "0 running, 0 operations queued or running")
    assert (waiting.status, waiting.remedy) == (Status.NOTE, "start one: akin worker")
    assert (served.status, served.detail.startswith("1 running (")) == (Status.OK, True)


def test_tables_of_an_older_version_are_a_problem_without_auto_migration(settings, installation):
    migrate(settings.database_address, "0002", may_lose_data=True)

    found = findings(settings, auto_migrate=False)["state"]

    assert (found.status, "akin migrate" in found.detail) == (Status.PROBLEM, True)


def test_shows_where_images_are_without_credentials(settings):
    known = findings(settings, media_url="memory://user:s3cret@bucket/images?token=t0ken")["images"]
    unknown = findings(settings, media_url="gopher3://user:s3cret@bucket")["images"]

    assert (known.status, known.detail) == (Status.OK, "memory://***@bucket/images?token=***")
    assert unknown.status == Status.PROBLEM
    assert "s3cret" not in unknown.detail + unknown.remedy
