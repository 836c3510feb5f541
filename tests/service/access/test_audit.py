"""The audit log: one row for each change and each refusal; recording never fails or delays a request."""

import asyncio
import threading
from datetime import timedelta
from urllib.parse import unquote

import pytest
import structlog
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import SecretStr
from structlog.testing import capture_logs

from service.access import audit_writer
from service.access.audit import AuditEntry, AuditFilter, list_events, prune_events, record_event
from service.access.audit_writer import LIMITED_PER_MINUTE, AuditWriter
from service.storage.database import in_utc, now
from service.storage.errors import DatabaseUnavailable
from service.web.app import create_app
from service.web.middleware.audit import AuditRecorder
from service.web.routes import keys as key_routes
from tests.service.conftest import wait_for
from tests.service.fixtures.access import bearer, make_keys

KEYS, AUDIT = "/v1/admin/keys", "/v1/admin/audit"
ENTRY = AuditEntry("boss", "POST /x", "/x", "127.0.0.1", "succeeded", status=200)


@pytest.fixture
def keys(database, settings):
    return make_keys(database, settings)


@pytest.fixture
def app(settings):
    return create_app(settings, is_loopback=False)


@pytest.fixture
def client(app, keys):
    """A client with an admin key."""
    with TestClient(
        app, headers=bearer(keys["boss"]), client=("203.0.113.7", 50000), raise_server_exceptions=False
    ) as opened:
        yield opened


def events(database, **wanted):
    return list_events(database, AuditFilter(**wanted), limit=1000)


def only(database, **wanted):
    (event,) = events(database, **wanted)
    return event


def test_a_change_is_recorded_with_who_what_when_from_where_and_outcome(client, database):
    began = now()

    response = client.post(
        f"{KEYS}?x=hidden", json={"name": "shop", "scopes": ["search"]}, headers={"X-Request-ID": "r-1"}
    )

    assert response.status_code == 201
    event = only(database)
    assert (event.actor, event.action) == ("boss", "POST /v1/admin/keys")
    assert event.target == "/v1/admin/keys shop (search)"
    assert timedelta(0) <= in_utc(event.at) - began < timedelta(minutes=1)
    assert (event.address, event.request_id, event.status, event.outcome) == ("203.0.113.7", "r-1", 201, "succeeded")
    assert event.key_id == client.get(f"{KEYS}/boss").json()["id"]


def test_a_row_is_written_before_the_response(client, database):
    for number in range(1, 6):
        client.post(f"{KEYS}/searcher:rotate")

        assert len(events(database)) == number


@pytest.mark.parametrize(
    ("method", "path", "body", "action", "outcome"),
    [
        ("POST", f"{KEYS}/nobody:revoke", {}, "POST /v1/admin/keys/{name}:revoke", "key-not-found"),
        ("POST", KEYS, {"json": {"name": "x y"}}, "POST /v1/admin/keys", "invalid-request"),
        ("POST", KEYS, {"content": b"{"}, "POST /v1/admin/keys", "invalid-request"),
        ("DELETE", "/v1/admin/catalogue/a/b", {}, "DELETE /v1/admin/catalogue/{product_id:path}", "product-not-found"),
        ("POST", "/v1/admin/releases:rollback", {}, "POST /v1/admin/releases:rollback", "no-previous-release"),
        ("POST", "/v1/admin/labels", {}, "POST /v1/admin/labels", "empty-body"),
        ("POST", "/v1/operations/x:cancel", {}, "POST /v1/operations/{operation_id}:cancel", "operation-not-found"),
        ("POST", "/v1/admin/releases", {"content": b"x" * 3 * 2**20}, "POST /v1/admin/releases", "body-too-large"),
    ],
)
def test_a_failed_request_is_recorded_with_its_code(
    served, served_keys, served_database, method, path, body, action, outcome
):
    headers = {"Content-Type": "application/json", **bearer(served_keys["boss"])}
    response = served.request(method, path, headers=headers, **body)

    event = events(served_database)[0]
    assert (event.actor, event.action, event.target) == ("boss", action, path)
    assert (event.status, event.outcome) == (response.status_code, outcome)
    assert response.json()["code"] == outcome


def test_a_requested_operation_is_recorded_with_its_id(client, database):
    operation_id = client.post("/admin/retrain").json()["operation_id"]

    assert only(database).target == f"/admin/retrain {operation_id}"


def test_a_dry_run_is_recorded_as_one(client, database):
    rows = {"labels": [{"image_id": "x", "label": "y"}]}

    client.post("/v1/admin/labels?dry_run=true", json=rows)
    client.post("/v1/admin/labels?dry_run=true", content=b"", headers={"Content-Type": "application/zip"})

    assert "succeeded" not in {event.outcome for event in events(database)}


def test_reading_writes_no_row(client, database):
    for path in (KEYS, f"{KEYS}/boss", AUDIT, "/v1/admin/catalogue", "/v1/operations", "/metrics", f"{KEYS}/nobody"):
        client.get(path)
    client.head("/v1/admin/media/x")
    client.post("/search")
    client.put(KEYS)
    client.post("/nowhere")

    assert events(database) == []


@pytest.mark.parametrize(
    ("who", "actor", "outcome"),
    [
        (None, None, "missing-key"),
        ("unknown", None, "invalid-key"),
        ("late", "late", "expired-key"),
        ("gone", "gone", "revoked-key"),
        ("searcher", "searcher", "insufficient-scope"),
    ],
)
def test_a_refused_key_is_recorded_with_its_holder_if_known(served, served_keys, served_database, who, actor, outcome):
    headers = {"Authorization": f"Bearer {served_keys.get(who, 'x' * 43)}" if who else ""}

    served.post(f"{KEYS}/boss:revoke", headers=headers)
    served.get("/v1/admin/catalogue", headers=headers)

    recorded = events(served_database)[:2]
    assert [(event.actor, event.outcome) for event in recorded] == [(actor, outcome)] * 2
    assert [event.action for event in recorded] == ["GET /v1/admin/catalogue", "POST /v1/admin/keys/{name}:revoke"]
    assert all((event.key_id is None) == (actor is None) for event in recorded)


def test_a_key_is_never_recorded(client, database, keys):
    key = keys["searcher"]
    client.get(f"{KEYS}/{key}")
    client.post(f"{KEYS}/{key}:revoke")
    client.post(f"{KEYS}/{key.replace('_', '%255F', 1)}:revoke")  # encoded twice
    client.get(f"{KEYS}?key={key}")
    client.get(KEYS, headers={"Authorization": f"Bearer {key}"})
    client.post(KEYS, json={"name": key, "scopes": ["search"]})

    recorded = events(database)

    assert [event.outcome for event in recorded] == [
        "invalid-key-request", "insufficient-scope", "key-in-address", "key-in-address", "key-in-address",
        "key-in-address",
    ]  # fmt: skip
    assert recorded[4].target == f"{KEYS}/akin_***:revoke"
    for event in recorded:
        assert key.removeprefix("akin_") not in str(vars(event))


@pytest.mark.parametrize("admin_key", ["akin_" + "0123456789abcdef" * 4, "0123456789abcdef" * 3])
def test_the_key_of_the_settings_is_in_no_row_and_no_log_line(settings, database, admin_key):
    settings = settings.model_copy(update={"admin_key": SecretStr(admin_key)})
    answers = []
    with TestClient(create_app(settings), headers=bearer(admin_key)) as client, capture_logs() as logs:
        for sent in (admin_key, f"x={admin_key}", f"{admin_key}:rotate"):
            for _ in range(2):
                answers += [client.get(f"{KEYS}/{sent}"), client.post(f"{KEYS}/{sent}:revoke")]
                answers += [client.get(f"{KEYS}?x={sent}")]
                client.get(f"/nowhere/{sent}")
                # Every character, so that none of the key is left as it is.
                sent = "".join(f"%{ord(letter):02X}" for letter in sent)

    assert [answer.json()["code"] for answer in answers] == ["key-in-address"] * 18
    rows = [str(vars(event)) for event in events(database)]
    assert len(rows) == 18
    assert len([line for line in logs if line["event"] == "request"]) == 24
    for text in (*rows, *map(str, logs), *(answer.text for answer in answers)):
        assert admin_key not in unquote(text)


def test_a_path_with_an_encoded_key_is_replaced_by_the_route(client, database, keys):
    client.post(f"{KEYS}/{keys['searcher'].replace('_', '%5F')}:revoke")

    assert only(database).target == f"{KEYS}/{{name}}:revoke (with a key)"


def test_stored_refusals_are_limited_and_other_rows_are_not(client, database, monkeypatch):
    monkeypatch.setattr(audit_writer, "LIMITED_PER_MINUTE", 3)
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            client.get(KEYS, headers={"Authorization": ""})
        for _ in range(5):
            client.post(f"{KEYS}/searcher:rotate")

    assert len(events(database, outcome="missing-key")) == 3
    assert len(events(database, outcome="succeeded")) == 5
    assert len([line for line in logs if line["event"] == "audit"]) == 10, "all are logged"
    assert len([line for line in logs if line["event"] == "audit_rows_limited"]) == 1


def test_the_limit_starts_again_every_minute(database):
    seconds = [0.0]

    async def refuse_many():
        writer = AuditWriter(database, 0, clock=lambda: seconds[0])
        for _ in range(LIMITED_PER_MINUTE + 1):
            await writer.write(ENTRY, is_limited=True)
        seconds[0] = 60.0
        await writer.write(ENTRY, is_limited=True)
        writer.close()

    asyncio.run(refuse_many())

    assert len(events(database)) == LIMITED_PER_MINUTE + 1


def test_a_row_that_cannot_be_written_is_logged_and_does_not_change_the_response(client, database, monkeypatch):
    def fail(*_):
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr(audit_writer, "record_event", fail)

    with structlog.testing.capture_logs() as logs:
        response = client.post(f"{KEYS}/searcher:rotate", headers={"X-Request-ID": "r-9"})

    assert response.status_code == 200
    assert "key" in response.json()
    (line,) = [line for line in logs if line["event"] == "audit_not_written"]
    assert line["log_level"] == "error"
    assert (line["reason"], line["actor"], line["outcome"]) == ("gone", "boss", "succeeded")
    assert (line["target"], line["request_id"]) == (f"{KEYS}/searcher:rotate", "r-9")


def test_a_slow_database_does_not_hold_up_the_response_and_gets_the_row_later(client, database, monkeypatch):
    go_on = threading.Event()

    def slowly(*arguments):
        assert go_on.wait(60)
        record_event(*arguments)

    monkeypatch.setattr(audit_writer, "record_event", slowly)
    monkeypatch.setattr(audit_writer, "_PATIENCE_SECONDS", 0.1)

    response = client.post(f"{KEYS}/searcher:rotate")
    num_before = len(events(database))
    go_on.set()

    assert (response.status_code, num_before) == (200, 0)
    client.__exit__()  # the server stops, and writes the waiting rows
    assert only(database).outcome == "succeeded"


def test_an_event_after_the_server_has_stopped_is_logged(database):
    writer = AuditWriter(database, 0)
    writer.close()

    with structlog.testing.capture_logs() as logs:
        asyncio.run(writer.write(ENTRY))

    assert [line["event"] for line in logs] == ["audit", "audit_not_written"]


def test_an_unexpected_error_is_recorded(client, database, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(key_routes, "rotate_key", fail)

    with structlog.testing.capture_logs():  # with its traceback
        response = client.post(f"{KEYS}/searcher:rotate")

    event = only(database)
    assert response.status_code == event.status == 500
    assert (event.actor, event.outcome) == ("boss", "internal-error")


def test_a_request_cut_off_by_the_end_of_the_server_is_recorded(client, app, database):
    routes = [route for route in key_routes.router.routes if isinstance(route, APIRoute)]

    async def cut_off(scope, receive, send):
        scope["route"] = next(route for route in routes if "POST" in (route.methods or ()))
        raise asyncio.CancelledError

    async def unused(*_):
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": KEYS, "raw_path": KEYS.encode(), "app": app, "state": {}}
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(AuditRecorder(cut_off)(scope, unused, unused))

    event = only(database)
    assert (event.status, event.outcome, event.address) == (None, "broken-off", "unknown")


def test_arbitrary_text_of_a_client_is_stored_as_far_as_possible(client, database):
    """A path may contain any bytes and have any length."""
    client.post(f"{KEYS}/a%00b%F0:revoke")
    client.post(f"{KEYS}/{'x' * 5000}:revoke")
    record_event(database, AuditEntry("\ud800", "a\0", "t" * 501, "h" * 201, "o" * 101, request_id="r" * 65))

    third, second, first = events(database)

    assert first.target == f"{KEYS}/a%00b%F0:revoke"
    assert len(second.target) == 500
    assert (third.actor, third.action) == ("?", "a\N{REPLACEMENT CHARACTER}")


def test_lists_matching_events_newest_first(client, database):
    moment = now() - timedelta(days=10)
    for number, (actor, action, outcome) in enumerate(
        [
            ("boss", "POST /a", "succeeded"),
            ("boss", "POST /ab", "missing-key"),
            ("writer", "akin keys create", "succeeded"),
            ("writer", "DELETE /100%", "succeeded"),
        ]
    ):
        entry = AuditEntry(actor, action, "t", "h", outcome)
        record_event(database, entry, at=moment + timedelta(days=number))

    def actions(**query):
        response = client.get(AUDIT, params=query)
        assert response.status_code == 200, response.text
        return [event["action"] for event in response.json()["events"]]

    assert actions() == ["DELETE /100%", "akin keys create", "POST /ab", "POST /a"]
    assert actions(actor="writer") == ["DELETE /100%", "akin keys create"]
    assert actions(action="POST /a") == ["POST /ab", "POST /a"]
    assert actions(action="DELETE /1%%") == []
    assert actions(outcome="missing-key") == ["POST /ab"]
    assert actions(since=(moment + timedelta(days=2)).isoformat()) == ["DELETE /100%", "akin keys create"]
    assert actions(until=(moment + timedelta(days=1)).isoformat()) == ["POST /a"]
    in_zone = (moment + timedelta(days=2, hours=5)).replace(tzinfo=None).isoformat() + "+05:00"
    assert actions(since=in_zone) == ["DELETE /100%", "akin keys create"]
    assert actions(actor="nobody") == actions(actor="\0") == []


def test_pages_contain_each_event_once(client, database):
    for number in range(7):
        record_event(database, AuditEntry("boss", f"{number}", "t", "h", "succeeded"))

    seen, before = [], None
    while True:
        page = client.get(AUDIT, params={"limit": 3, **({"before": before} if before else {})}).json()
        seen.append([event["action"] for event in page["events"]])
        before = page["next"]
        if before is None:
            break

    assert seen == [["6", "5", "4"], ["3", "2", "1"], ["0"]]


@pytest.mark.parametrize(
    "query",
    [
        "acter=x",
        "limit=0",
        "limit=1001",
        "before=0",
        "before=99999999999",
        "since=soon",
        "since=0001-01-01T00:00:00%2B12:00",
    ],
)
def test_an_invalid_query_is_refused(served, served_keys, query):
    response = served.get(f"{AUDIT}?{query}", headers=bearer(served_keys["boss"]))

    assert (response.status_code, response.json()["code"]) == (422, "invalid-request")


def test_deletes_old_events_unless_all_are_kept(database):
    for days in (0, 29, 31, 400):
        record_event(database, ENTRY, at=now() - timedelta(days=days))

    assert prune_events(database, 0) == 0
    assert prune_events(database, 30) == 2
    assert len(events(database)) == 2


def test_a_server_deletes_old_events(settings, database, keys):
    record_event(database, ENTRY, at=now() - timedelta(days=366))
    record_event(database, ENTRY)

    with TestClient(create_app(settings)) as client:
        wait_for(lambda: len(client.get(AUDIT, headers=bearer(keys["boss"])).json()["events"]) == 1, seconds=60)
