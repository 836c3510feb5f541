"""Problem documents for JSON bodies that a route rejects."""

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.installation.settings import Settings
from service.web.app import create_app

KEY = "test-key-0123456789abcdef"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    settings = Settings(home=tmp_path_factory.mktemp("problems") / "home", admin_key=SecretStr(KEY))
    with TestClient(create_app(settings), headers={"X-API-Key": KEY}) as opened:
        yield opened


def post(client, content, content_type="application/json"):
    headers = {"Content-Type": content_type} if content_type else {}
    return client.post("/v1/admin/keys", content=content, headers=headers)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/zip"])
def test_a_body_of_another_type_is_rejected_with_the_right_one(client, content_type):
    response = post(client, b'{"name": "x", "scopes": ["search"]}', content_type)

    assert (response.status_code, response.json()["code"]) == (415, "unsupported-content-type")
    assert "send application/json" in response.json()["detail"]


@pytest.mark.parametrize("body", [b"[[[[", b"[" * 200_000, b"1" * 10_000, b'{"name":"\xff"}', b"{'name': 1}", b"nul"])
def test_bodies_that_are_not_json_share_one_code(client, body):
    response = post(client, body)

    assert (response.status_code, response.json()["code"]) == (422, "invalid-request")
    assert "JSON" in response.json()["detail"]


def test_names_the_fields_that_do_not_match_the_schema(client):
    response = post(client, b'{"name": "x", "scopes": "search", "colour": 1}')

    assert (response.status_code, response.json()["code"]) == (422, "invalid-request")
    assert {error["parameter"] for error in response.json()["errors"]} == {"scopes", "colour"}
