"""Health, version, media and the OpenAPI document."""

import hashlib
import json
from pathlib import Path

from fastapi.testclient import TestClient

from service.installation.settings import Settings
from service.web.app import create_app
from tests.images import encode
from tests.service.conftest import product_image, wait_for

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"


def image_url(client, product_id="birch"):
    result = client.post("/search", files={"image": encode(product_image(product_id))}).json()
    return result["hits"][0]["image_url"]


def test_health_routes(client):
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json()["status"] == "ready"
    version = client.get("/version").json()
    assert version["akin"] == "0.1.0"
    assert (version["num_products"], version["num_images"]) == (3, 6)


def test_head_is_supported_with_get(client):
    for path in ("/", "/livez", "/readyz", "/version", image_url(client)):
        response = client.head(path)
        assert (response.status_code, response.content) == (200, b"")


def test_images_are_served_with_safe_headers(client):
    response = client.get(image_url(client))

    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]
    assert "immutable" in response.headers["cache-control"]
    again = client.get(image_url(client), headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_examples_are_not_served(client):
    digest = hashlib.sha256(encode(product_image("birch", 2))).hexdigest()

    assert client.get(f"/media/{digest}.png").status_code == 404


def test_a_missing_file_does_not_disclose_its_location(client, served_home):
    url = image_url(client, "cedar")
    (path,) = (served_home / "media").rglob(url.rpartition("/")[2])
    hidden = path.rename(path.with_suffix(".hidden"))

    response = client.get(url)

    hidden.rename(path)
    assert (response.status_code, response.json()["code"]) == (503, "media-unavailable")
    assert str(served_home) not in response.text
    assert client.get(url).status_code == 200


def test_other_names_are_not_found(client):
    for name in ("0" * 64 + ".png", "x", "..%2f..%2fakin.db", "%2e%2e/akin.db", "a" * 5000):
        response = client.get(f"/media/{name}")
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"


def test_the_committed_openapi_document_is_current():
    """Update it with: make openapi"""
    assert json.loads(DOCUMENT.read_text()) == create_app(Settings()).openapi()


def test_search_routes_document_their_problems():
    paths = create_app(Settings()).openapi()["paths"]

    is_public = {
        path
        for path in paths
        if not path.startswith(("/v1/admin", "/v1/operations", "/v1/imports", "/admin", "/metrics"))
    }
    assert is_public == {"/search", "/v1/search", "/media/{name}", "/livez", "/readyz", "/version"}
    for path in ("/search", "/v1/search"):
        operation = paths[path]["post"]
        assert set(operation["responses"]) == {"200", "401", "403", "408", "413", "415", "422", "503"}
        assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/json"}


def test_urls_carry_the_path_prefix_of_a_gateway(served_home):
    app = create_app(Settings(home=served_home))
    with TestClient(app, root_path="/shop") as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        assert image_url(client).startswith("/shop/media/")
        assert 'src="/shop/static/page.js"' in client.get("/").text
