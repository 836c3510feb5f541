"""Who may use which route: the whole table, and each route over HTTP with every kind of key."""

import re

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import BaseModel, SecretStr
from starlette.routing import Mount, Route

from service.web.app import create_app
from service.web.authorization import AdminDep, SearchDep
from service.web.routes import search
from service.web.scope_checks import PUBLIC, KeyFirstRoute, declared_scopes
from tests.service.fixtures.access import bearer

SCOPES = {
    "POST /search": "search",
    "POST /v1/search": "search",
    "GET /": PUBLIC,
    "HEAD /": PUBLIC,
    "GET /docs": PUBLIC,
    "GET /docs/oauth2-redirect": PUBLIC,
    "GET /livez": PUBLIC,
    "HEAD /livez": PUBLIC,
    "GET /media/{name}": PUBLIC,
    "HEAD /media/{name}": PUBLIC,
    "GET /openapi.json": PUBLIC,
    "GET /readyz": PUBLIC,
    "HEAD /readyz": PUBLIC,
    "GET /redoc": PUBLIC,
    "GET /static": PUBLIC,
    "GET /version": PUBLIC,
    "HEAD /version": PUBLIC,
    "GET /v1/admin/catalogue": "catalogue:write",
    "POST /v1/admin/catalogue": "catalogue:write",
    "DELETE /v1/admin/catalogue/{product_id:path}": "catalogue:write",
    "POST /v1/imports": "catalogue:write",
    "GET /v1/admin/labels": "catalogue:write",
    "POST /v1/admin/labels": "catalogue:write",
    "GET /v1/admin/labels/counts": "catalogue:write",
    "GET /v1/admin/labels/{image_id}": "catalogue:write",
    "GET /v1/admin/media/{name}": "catalogue:write",
    "HEAD /v1/admin/media/{name}": "catalogue:write",
    "POST /admin/retrain": "admin",
    "GET /metrics": "admin",
    "GET /v1/admin/activations": "admin",
    "GET /v1/admin/audit": "admin",
    "GET /v1/admin/evaluations": "admin",
    "GET /v1/admin/evaluations/compare": "admin",
    "GET /v1/admin/evaluations/{name}": "admin",
    "GET /v1/admin/keys": "admin",
    "POST /v1/admin/keys": "admin",
    "GET /v1/admin/keys/{name}": "admin",
    "POST /v1/admin/keys/{name}:revoke": "admin",
    "POST /v1/admin/keys/{name}:rotate": "admin",
    "GET /v1/admin/processes": "admin",
    "GET /v1/admin/releases": "admin",
    "POST /v1/admin/releases": "admin",
    "POST /v1/admin/releases:rollback": "admin",
    "GET /v1/admin/releases/{release_id}": "admin",
    "POST /v1/admin/releases/{release_id}:activate": "admin",
    "POST /v1/admin/releases/{release_id}:rollback": "admin",
    "POST /v1/admin/retrain": "admin",
    "GET /v1/operations": "admin",
    "GET /v1/operations/{operation_id}": "catalogue:write",
    "GET /v1/operations/{operation_id}/errors": "catalogue:write",
    "POST /v1/operations/{operation_id}:cancel": "catalogue:write",
    "GET /v1/operations/{operation_id}/report": "admin",
}
GUARDED = sorted(route for route, scope in SCOPES.items() if scope != PUBLIC)
# Without the routes of the framework, which contain nothing of an installation and do not check URLs.
OWN = sorted(set(SCOPES) - {"GET /docs", "GET /docs/oauth2-redirect", "GET /openapi.json", "GET /redoc", "GET /static"})
# For each scope, a key that has just this scope, and one that lacks it.
GOOD = {"search": "searcher", "catalogue:write": "writer", "admin": "boss"}
TOO_LITTLE = {"search": "writer", "catalogue:write": "searcher", "admin": "writer"}


def table_of(app):
    """Return the declared scope of each method and path of an application."""
    table: dict[str, str | None] = {}
    for route, scope in declared_scopes(app.routes):
        assert isinstance(route, Route | Mount)
        methods = (route.methods or set()) if isinstance(route, APIRoute) else {"GET"}
        table |= {f"{method} {route.path}": scope for method in methods}
    return table


@pytest.fixture
def ask(served):
    """Send a request to a route of the table; returns status and code."""

    def send(route, headers=(), query="", **body):
        method, _, path = route.partition(" ")
        filled = re.sub(r"\{[^}]*\}", "x", path)
        response = served.request(method, filled + query, headers=dict(headers), **body)
        is_problem = response.headers.get("content-type") == "application/problem+json" and method != "HEAD"
        return response.status_code, response.json()["code"] if is_problem else None

    return send


def refused(route, status, code):
    """Return what `ask` returns for a refusal; the response to HEAD has no body, and so no code."""
    return status, None if route.startswith("HEAD ") else code


def test_every_route_declares_the_scope_in_the_table(served_settings):
    table = table_of(create_app(served_settings))

    assert table == SCOPES
    assert len(table) >= 50, "the number of routes checked"


def test_a_route_without_a_scope_stops_the_application(served_settings, monkeypatch):
    router = APIRouter()

    @router.get("/forgotten")
    def forgotten() -> None:
        """Declare no scope."""

    monkeypatch.setattr(search, "router", router)

    with pytest.raises(AssertionError, match="declare no scope, or more than one: /forgotten"):
        create_app(served_settings)


def test_a_route_with_two_scopes_stops_the_application(served_settings, monkeypatch):
    router = APIRouter()

    @router.get("/torn")
    def torn(_: SearchDep, __: AdminDep) -> None:
        """Declare two scopes."""

    monkeypatch.setattr(search, "router", router)

    with pytest.raises(AssertionError, match="/torn"):
        create_app(served_settings)


class Body(BaseModel):
    """A body that the framework parses."""

    name: str


def test_a_body_that_is_read_before_the_key_stops_the_application(served_settings, monkeypatch):
    def read_body(_: AdminDep, body: Body) -> None:
        """Read a body."""

    body_first, key_first = APIRouter(), APIRouter(route_class=KeyFirstRoute)
    for router in (body_first, key_first):
        router.add_api_route("/taken", read_body, methods=["POST"])
    monkeypatch.setattr(search, "router", key_first)
    create_app(served_settings)
    monkeypatch.setattr(search, "router", body_first)

    with pytest.raises(AssertionError, match="KeyFirstRoute: /taken"):
        create_app(served_settings)


@pytest.mark.parametrize("route", GUARDED)
def test_a_guarded_route_refuses_requests_without_a_valid_key(route, ask, served_keys):
    assert ask(route) == refused(route, 401, "missing-key")
    assert ask(route, bearer("akin_" + "x" * 43)) == refused(route, 401, "invalid-key")
    assert ask(route, {"X-API-Key": "x"}) == refused(route, 401, "invalid-key")
    assert ask(route, {"Authorization": f"Basic {served_keys['boss']}"}) == refused(route, 401, "missing-key")
    assert ask(route, bearer(served_keys["late"])) == refused(route, 401, "expired-key")
    assert ask(route, bearer(served_keys["gone"])) == refused(route, 401, "revoked-key")


@pytest.mark.parametrize("route", GUARDED)
def test_a_guarded_route_refuses_a_key_without_its_scope(route, ask, served_keys):
    key = served_keys[TOO_LITTLE[SCOPES[route]]]

    assert ask(route, bearer(key)) == refused(route, 403, "insufficient-scope")
    assert ask(route, {"X-API-Key": key}) == refused(route, 403, "insufficient-scope")


@pytest.mark.parametrize("route", GUARDED)
def test_a_guarded_route_accepts_its_key_in_either_header(route, ask, served_keys):
    good = served_keys[GOOD[SCOPES[route]]]

    for headers in (
        bearer(good),
        {"X-API-Key": good},
        {**bearer(good), "X-API-Key": good},
        bearer(served_keys["boss"]),
    ):
        status, code = ask(route, headers)

        assert status not in (401, 403, 500), (status, code)


@pytest.mark.parametrize("route", GUARDED)
def test_two_different_keys_are_refused(route, ask, served_keys):
    headers = {**bearer(served_keys["boss"]), "X-API-Key": served_keys["writer"]}

    assert ask(route, headers) == refused(route, 401, "invalid-key")


@pytest.mark.parametrize("route", OWN)
def test_a_key_in_the_url_is_refused_on_every_route(route, ask, served_keys):
    expected = refused(route, 400, "key-in-address")

    assert ask(route, bearer(served_keys["boss"]), query="?api_key=anything") == expected
    assert ask(route, bearer(served_keys["boss"]), query=f"?k=1&note={served_keys['searcher']}") == expected
    assert ask(route, query=f"?{served_keys['boss']}") == expected


def test_a_key_in_the_url_is_not_repeated(served, served_keys):
    for path in (
        f"/search?key={served_keys['boss']}",
        f"/search?{served_keys['boss']}=1",
        f"/v1/admin/keys/{served_keys['boss']}",
    ):
        response = served.post(path) if "search" in path else served.get(path, headers=bearer(served_keys["boss"]))

        assert response.json()["code"] == "key-in-address"
        assert served_keys["boss"] not in response.text


def test_the_key_is_checked_before_the_body(served, served_keys):
    """Without a key, the body is not parsed and its errors are not reported."""
    for path in ("/v1/admin/keys", "/v1/admin/keys/x:rotate", "/v1/admin/releases/x:activate"):
        headers = {"Content-Type": "application/json"}

        assert served.post(path, content=b"{", headers=headers).json()["code"] == "missing-key"
        assert served.post(path, content=b"{", headers=headers | bearer(served_keys["writer"])).status_code == 403
        assert served.post(path, content=b"{", headers=headers | bearer(served_keys["boss"])).status_code == 422


def test_two_keys_in_the_same_header_are_refused(served, served_keys):
    for name, values in (
        ("Authorization", (f"Bearer {served_keys['boss']}", "Bearer x")),
        ("X-API-Key", (served_keys["boss"], "x")),
    ):
        response = served.get("/v1/admin/keys", headers=[(name, value) for value in values])

        assert response.json()["code"] == "invalid-key"


@pytest.mark.parametrize(
    ("public_search", "is_loopback", "is_public"),
    [
        ("auto", True, True),
        ("auto", False, False),
        (True, False, True),
        (True, True, True),
        (False, True, False),
        (False, False, False),
    ],
)
def test_searching_needs_a_key_unless_it_is_public(served_settings, served_keys, public_search, is_loopback, is_public):
    settings = served_settings.model_copy(update={"public_search": public_search})

    with TestClient(create_app(settings, is_loopback=is_loopback)) as client:
        codes = {
            name: client.post("/search", headers=headers).json()["code"]
            for name, headers in {
                "none": {},
                "good": bearer(served_keys["searcher"]),
                "wrong": {"X-API-Key": "x"},
                "expired": bearer(served_keys["late"]),
                "under-scoped": bearer(served_keys["writer"]),
            }.items()
        }
        admin = client.get("/v1/admin/keys")

    # No release is active: an accepted request fails with that error.
    accepted = codes["good"]
    assert accepted not in ("missing-key", "invalid-key")
    assert codes["none"] == (accepted if is_public else "missing-key")
    # A key that is sent is checked even where none is needed.
    assert codes["wrong"] == "invalid-key"
    assert codes["expired"] == "expired-key"
    assert codes["under-scoped"] == "insufficient-scope"
    assert admin.status_code == 401


def test_the_key_of_the_settings_has_every_scope(served_settings):
    given = "0123456789abcdef-of-the-settings"
    settings = served_settings.model_copy(update={"admin_key": SecretStr(given)})

    with TestClient(create_app(settings, is_loopback=False)) as client:
        for path in ("/v1/admin/keys", "/v1/admin/catalogue"):
            assert client.get(path, headers=bearer(given)).status_code == 200
            assert client.get(path, headers=bearer(given[:-1])).status_code == 401
        assert client.post("/search", headers=bearer(given)).status_code not in (401, 403)
