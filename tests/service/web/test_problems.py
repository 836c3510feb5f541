"""How refused bodies of JSON are told, on a route whose body the framework reads."""

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.web.app import create_app

KEY = "test-key-0123456789abcdef"


@pytest.fixture
def client(settings):
    chosen = settings.model_copy(update={"admin_key": SecretStr(KEY)})
    with TestClient(create_app(chosen), headers={"X-API-Key": KEY}) as opened:
        yield opened


def post(client, content, content_type="application/json"):
    headers = {"Content-Type": content_type} if content_type else {}
    return client.post("/v1/admin/keys", content=content, headers=headers)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/zip"])
def test_a_body_of_another_type_is_told_what_to_send(client, content_type):
    response = post(client, b'{"name": "x", "scopes": ["search"]}', content_type)

    assert (response.status_code, response.json()["code"]) == (415, "unsupported-content-type")
    assert "send application/json" in response.json()["detail"]


@pytest.mark.parametrize("body", [b"[[[[", b"[" * 200_000, b"1" * 10_000, b'{"name":"\xff"}', b"{'name': 1}", b"nul"])
def test_a_body_that_is_no_json_has_one_code(client, body):
    response = post(client, body)

    assert (response.status_code, response.json()["code"]) == (422, "invalid-request")
    assert "JSON" in response.json()["detail"]


def test_fields_that_do_not_fit_are_named_with_their_value(client):
    response = post(client, b'{"name": "x", "scopes": "search", "colour": 1}')

    assert (response.status_code, response.json()["code"]) == (422, "invalid-request")
    assert {error["parameter"] for error in response.json()["errors"]} == {"scopes", "colour"}
