"""POST /admin/retrain and /v1/operations over HTTP, without a worker."""

import io
import zipfile

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.installation.settings import Settings
from service.operations.claims import claim_operation, end_operation
from service.web.app import create_app
from tests.images import encode, scene

KEY = "test-key-0123456789abcdef"


@pytest.fixture
def admin(installation_on_both):
    given = installation_on_both.settings
    settings = Settings(
        home=given.home, database_url=given.database_url, admin_key=SecretStr(KEY), max_upload_bytes=200_000
    )
    headers = {"Authorization": f"Bearer {KEY}"}
    with TestClient(create_app(settings), headers=headers, raise_server_exceptions=False) as client:
        client.database = installation_on_both.database  # type: ignore[attr-defined]
        client.home = given.home  # type: ignore[attr-defined]
        yield client


def archive_of(names=("amber/1.png",)) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(name, encode(scene(number)))
    return buffer.getvalue()


@pytest.mark.parametrize("path", ["/admin/retrain", "/v1/admin/retrain"])
def test_an_accepted_request_is_shown_at_its_location(admin, path):
    response = admin.post(path, json={"note": "spring", "overrides": ["steps=10"]})

    assert response.status_code == 202
    body = response.json()
    assert response.headers["location"] == f"/v1/operations/{body['operation_id']}"
    shown = admin.get(response.headers["location"]).json()
    assert shown == body
    assert (shown["state"], shown["kind"], shown["request"]["note"]) == ("queued", "retrain", "spring")
    assert shown["links"]["cancel"] == f"/v1/operations/{body['operation_id']}:cancel"


def test_accepts_an_empty_body(admin):
    assert admin.post("/admin/retrain").status_code == 202


def test_every_route_requires_the_key(admin):
    routes = [
        ("POST", "/admin/retrain"), ("POST", "/v1/admin/retrain"), ("POST", "/v1/admin/releases"),
        ("GET", "/v1/operations"), ("GET", "/v1/operations/x"), ("POST", "/v1/operations/x:cancel"),
        ("GET", "/v1/operations/x/report"),
    ]  # fmt: skip
    headers = {"": "missing-key", "Bearer wrong": "invalid-key", f"Basic {KEY}": "missing-key"}

    for method, path in routes:
        for header, code in headers.items():
            response = admin.request(method, path, headers={"Authorization": header})

            assert (response.status_code, response.json()["code"]) == (401, code), (method, path, header)
            assert response.headers["www-authenticate"] == "Bearer"
    assert admin.get("/v1/operations").json()["operations"] == []


def test_a_second_request_names_the_active_operation(admin):
    first = admin.post("/admin/retrain").json()["operation_id"]

    response = admin.post("/admin/retrain")

    assert response.status_code == 409
    assert (response.json()["code"], response.json()["operation_id"]) == ("operation-active", first)


def test_the_same_key_returns_the_same_operation(admin):
    headers = {"Idempotency-Key": "nightly-7"}
    first = admin.post("/admin/retrain", json={"note": "a"}, headers=headers)
    again = admin.post("/admin/retrain", json={"note": "a"}, headers=headers)
    other = admin.post("/admin/retrain", json={"note": "b"}, headers=headers)

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["operation_id"] == first.json()["operation_id"]
    assert again.headers["location"] == first.headers["location"]
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{", "Invalid JSON"),
        (b"[]", "object"),
        (b'{"presets": 1}', "presets"),
        (b'{"gate": {"force": true}}', "force_reason"),
    ],
)
def test_names_the_invalid_value(admin, body, detail):
    response = admin.post("/admin/retrain", content=body, headers={"Content-Type": "application/json"})

    assert (response.status_code, response.json()["code"]) == (422, "invalid-operation")
    assert detail in response.json()["detail"]
    assert admin.get("/v1/operations").json()["operations"] == []


def test_an_archive_is_kept_in_the_operations_folder(admin):
    content = archive_of()
    files = {"archive": ("new.zip", content, "application/zip")}
    headers = {"Idempotency-Key": "with-archive"}

    first = admin.post("/admin/retrain", files=files, data={"request": '{"note": "new"}'}, headers=headers)
    again = admin.post("/admin/retrain", files=files, data={"request": '{"note": "new"}'}, headers=headers)

    assert first.status_code == 202, first.text
    assert first.json()["request"]["note"] == "new"
    assert again.json()["operation_id"] == first.json()["operation_id"]
    folders = sorted((admin.home / "operations").iterdir())
    assert [folder.name for folder in folders] == [first.json()["operation_id"]]
    assert (folders[0] / "upload" / "labels.zip").read_bytes() == content


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"no zip at all", 422, "invalid-archive"),
        (archive_of(["../../evil.png"]), 422, "invalid-archive"),
        (b"x" * 900_000, 413, "body-too-large"),
    ],
)
def test_an_invalid_archive_is_refused_and_leaves_no_files(admin, content, status, code):
    response = admin.post("/admin/retrain", files={"archive": ("new.zip", content, "application/zip")})

    assert (response.status_code, response.json()["code"]) == (status, code)
    assert admin.get("/v1/operations").json()["operations"] == []
    assert not (admin.home / "operations").exists()
    assert list((admin.home / "uploads").iterdir()) == []


def test_refuses_another_content_type(admin):
    response = admin.post("/admin/retrain", content=b"x", headers={"Content-Type": "text/plain"})

    assert (response.status_code, response.json()["code"]) == (415, "unsupported-content-type")


def test_lists_cancelled_operations_in_pages(admin):
    ids = []
    for _ in range(3):
        ids.append(admin.post("/admin/retrain").json()["operation_id"])
        cancelled = admin.post(f"/v1/operations/{ids[-1]}:cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")

    first = admin.get("/v1/operations", params={"limit": 2, "kind": "retrain", "state": "cancelled"}).json()
    second = admin.get(first["next"]).json()

    listed = [operation["operation_id"] for page in (first, second) for operation in page["operations"]]
    assert listed == list(reversed(ids))
    assert second["next"] is None


def test_an_ended_or_unknown_operation_cannot_be_cancelled(admin):
    operation_id = admin.post("/v1/admin/releases", json={"note": "x"}).json()["operation_id"]
    claim_operation(admin.database, operation_id, "w")
    end_operation(admin.database, operation_id, "w", "failed", {"code": "c", "detail": "d"})

    ended = admin.post(f"/v1/operations/{operation_id}:cancel")
    unknown = admin.post("/v1/operations/nothing:cancel")

    assert (ended.status_code, ended.json()["code"]) == (409, "operation-ended")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "operation-not-found")
    assert admin.get(f"/v1/operations/{operation_id}").json()["error"] == {"code": "c", "detail": "d"}
    assert admin.get(f"/v1/operations/{operation_id}/report").json()["code"] == "operation-not-found"
