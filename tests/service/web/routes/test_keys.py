"""/v1/admin/keys: create, list, rotate and revoke keys over HTTP."""

from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from service.access.keys import FIRST_KEY, create_key, ensure_admin_key, list_keys
from service.storage.database import in_utc, now
from service.web.app import create_app
from tests.service.fixtures.access import bearer, let_expire

KEYS = "/v1/admin/keys"
DAY = timedelta(days=1)


@pytest.fixture
def first(database, settings):
    """The key of the first start."""
    return ensure_admin_key(database, settings)


@pytest.fixture
def client(settings, first):
    with TestClient(create_app(settings, is_loopback=False), headers=bearer(first)) as opened:
        yield opened


def moment(text):
    return datetime.fromisoformat(text)


def is_good(client, key, path=KEYS):
    return client.get(path, headers=bearer(key)).status_code == 200


def test_a_new_key_is_shown_once_and_accepted_at_once(client):
    response = client.post(KEYS, json={"name": "shop", "scopes": ["catalogue:write", "search"]})

    made = response.json()
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["location"] == f"{KEYS}/shop"
    assert (made["name"], made["scopes"], made["state"]) == ("shop", ["search", "catalogue:write"], "active")
    assert (made["created_by"], made["expires_at"], made["revoked_at"]) == (FIRST_KEY, None, None)
    assert is_good(client, made["key"], "/v1/admin/catalogue")
    shown = client.get(response.headers["location"]).json()
    assert shown == {name: value for name, value in made.items() if name != "key"}


def test_lists_every_key_without_secrets_or_hashes(client, database):
    made = client.post(KEYS, json={"name": "shop", "scopes": ["search"]}).json()
    client.post(KEYS, json={"name": "old", "scopes": ["search"], "expires_in_days": 1})
    client.post(f"{KEYS}/shop:rotate")
    client.post(f"{KEYS}/shop:revoke")
    let_expire(database, "old")

    response = client.get(KEYS)

    listed = {key["name"]: key for key in response.json()["keys"]}
    assert {name: key["state"] for name, key in listed.items()} == {
        FIRST_KEY: "active",
        "shop": "revoked",
        "old": "expired",
    }
    assert listed[FIRST_KEY]["created_by"] is None
    assert set(listed["shop"]) == {
        "name", "id", "scopes", "state", "created_at", "created_by", "expires_at", "revoked_at", "last_used_at",
        "old_secret_until",
    }  # fmt: skip
    rows = list_keys(database)
    for secret in (made["key"], *(row.sha256 for row in rows), *(row.previous_sha256 or "-" * 9 for row in rows)):
        assert secret not in response.text


@pytest.mark.parametrize(
    ("asked", "end"),
    [
        ({"expires_in_days": 90}, None),
        ({"expires_at": "2100-06-01T12:00:00+02:00"}, datetime(2100, 6, 1, 10, tzinfo=UTC)),
        ({"expires_at": "2100-06-01T12:00:00"}, datetime(2100, 6, 1, 12, tzinfo=UTC)),
    ],
)
def test_a_key_may_expire(client, asked, end):
    made = client.post(KEYS, json={"name": "shop", "scopes": ["search"], **asked}).json()

    expected = end or now() + 90 * DAY
    assert abs(moment(made["expires_at"]) - expected) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({}, "invalid-request"),
        ({"name": "shop"}, "invalid-request"),
        ({"name": "shop", "scopes": "search"}, "invalid-request"),
        ({"name": "shop", "scopes": ["search"], "expires": "2100-01-01"}, "invalid-request"),
        ({"name": "shop", "scopes": ["search"], "expires_in_days": 0}, "invalid-request"),
        ({"name": "shop", "scopes": ["search"], "expires_in_days": 10**9}, "invalid-request"),
        ({"name": "shop", "scopes": ["search"], "expires_at": "soon"}, "invalid-request"),
        ({"name": "shop", "scopes": ["search"], "expires_at": "9999-12-31T23:59:59-12:00"}, "invalid-request"),
        ({"name": "shop", "scopes": ["search"], "expires_at": "2000-01-01"}, "invalid-key-request"),
        (
            {"name": "shop", "scopes": ["search"], "expires_at": "2100-01-01", "expires_in_days": 1},
            "invalid-key-request",
        ),
        ({"name": "shop", "scopes": []}, "invalid-key-request"),
        ({"name": "shop", "scopes": ["everything"]}, "invalid-key-request"),
        ({"name": "the shop", "scopes": ["search"]}, "invalid-key-request"),
        ({"name": FIRST_KEY, "scopes": ["search"]}, "invalid-key-request"),
    ],
)
def test_an_invalid_request_creates_no_key(served, served_keys, asked, code):
    boss = bearer(served_keys["boss"])

    response = served.post(KEYS, json=asked, headers=boss)

    assert (response.status_code, response.json()["code"]) == (422, code)
    assert len(served.get(KEYS, headers=boss).json()["keys"]) == len(served_keys)


def test_a_taken_name_is_refused(client):
    client.post(KEYS, json={"name": "shop", "scopes": ["search"]})

    response = client.post(KEYS, json={"name": "shop", "scopes": ["admin"]})

    assert (response.status_code, response.json()["code"]) == (409, "key-name-taken")


def test_after_a_rotation_both_secrets_are_accepted(client):
    made = client.post(KEYS, json={"name": "boss", "scopes": ["admin"]}).json()

    response = client.post(f"{KEYS}/boss:rotate")

    rotated = response.json()
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
    assert rotated["id"] == made["id"]
    assert abs(moment(rotated["old_secret_until"]) - now() - DAY) < timedelta(minutes=1)
    assert is_good(client, made["key"])
    assert is_good(client, rotated["key"])


def test_rotating_without_grace_ends_the_old_secret_at_once(client):
    made = client.post(KEYS, json={"name": "boss", "scopes": ["admin"]}).json()

    rotated = client.post(f"{KEYS}/boss:rotate", json={"grace_seconds": 0, "expires_at": "2100-01-01"}).json()

    assert (rotated["old_secret_until"], moment(rotated["expires_at"]).year) == (None, 2100)
    assert is_good(client, rotated["key"])
    assert client.get(KEYS, headers=bearer(made["key"])).json()["code"] == "invalid-key"


@pytest.mark.parametrize("asked", [{"grace_seconds": -1}, {"grace_seconds": 10**8}, {"grace": 0}, {"expires_at": 1}])
def test_an_invalid_rotation_is_refused(served, served_keys, asked):
    boss = bearer(served_keys["boss"])

    assert served.post(f"{KEYS}/writer:rotate", json=asked, headers=boss).status_code == 422
    assert is_good(served, served_keys["writer"], "/v1/admin/catalogue")


def test_a_revoked_key_is_refused_at_once_and_permanently(client):
    made = client.post(KEYS, json={"name": "boss", "scopes": ["admin"]}).json()
    assert is_good(client, made["key"])

    revoked = client.post(f"{KEYS}/boss:revoke").json()

    assert revoked["state"] == "revoked"
    assert client.get(KEYS, headers=bearer(made["key"])).json()["code"] == "revoked-key"
    assert client.post(f"{KEYS}/boss:revoke").json()["revoked_at"] == revoked["revoked_at"]
    response = client.post(f"{KEYS}/boss:rotate")
    assert (response.status_code, response.json()["code"]) == (422, "invalid-key-request")


def test_the_last_admin_key_cannot_revoke_itself(client, first):
    response = client.post(f"{KEYS}/{FIRST_KEY}:revoke")

    assert (response.status_code, response.json()["code"]) == (409, "last-admin-key")
    assert is_good(client, first)


@pytest.mark.parametrize("name", ["nobody", "a%00b", "%F0%9F%94%91", "x" * 3000])
def test_an_unknown_key_is_not_found(served, served_keys, name):
    for method, action in (("GET", ""), ("POST", ":rotate"), ("POST", ":revoke")):
        response = served.request(method, f"{KEYS}/{name}{action}", headers=bearer(served_keys["boss"]))

        assert (response.status_code, response.json()["code"]) == (404, "key-not-found")


def test_a_server_that_stops_stores_the_time_of_last_use(client, database, settings):
    _, made = create_key(database, "boss", ["admin"], actor="test")
    with TestClient(create_app(settings)) as other:
        assert is_good(other, made)

    used = client.get(f"{KEYS}/boss").json()["last_used_at"]

    assert abs(in_utc(moment(used)) - now()) < timedelta(minutes=1)
