"""URLs below a path prefix that the gateway strips, and without a prefix."""

import re
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.gateway import Gateway, ask, gateway_before, upstream_file
from service.installation.settings import Settings
from service.web.app import create_app
from service.web.server import listen, running
from tests.gateway.conftest import ADMIN, PREFIX
from tests.service.conftest import wait_for


def image_url(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["hits"][0]["image_url"])


def files_of(page: httpx.Response) -> list[str]:
    assert page.status_code == 200
    files = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert len(files) >= 4
    return files


@pytest.mark.parametrize("path", ["/search", "/v1/search"])
def test_images_of_hits_load_from_the_urls_in_the_response(client, gateway, image, path):
    address = image_url(client.post(path, files={"image": image}))

    assert address.startswith(f"{PREFIX}/media/")
    loaded = ask("GET", gateway.address + address)
    assert (loaded.status_code, loaded.headers["content-type"]) == (200, "image/png")


def test_the_start_page_and_its_files_load(client, gateway):
    files = files_of(client.get("/"))

    assert all(file.startswith(f"{PREFIX}/") for file in files)
    assert [ask("GET", gateway.address + file).status_code for file in files] == [200] * len(files)


def test_the_pages_of_the_api_load(client, gateway):
    page = client.get("/docs")

    assert page.status_code == 200
    assert f"'{PREFIX}/openapi.json'" in page.text
    assert ask("GET", f"{gateway.address}{PREFIX}/openapi.json").json()["info"]["title"] == "Akin"


def test_the_urls_of_an_operation_are_below_the_prefix(client, gateway):
    """Location, the link that cancels it, and the next page of the list."""
    for _ in range(2):
        queued = client.post("/v1/admin/releases", headers=ADMIN)
        assert queued.status_code == 202, queued.text
        shown = ask("GET", gateway.address + queued.headers["location"], headers=ADMIN).json()
        assert shown["operation_id"] == queued.json()["operation_id"]
        assert ask("POST", gateway.address + shown["links"]["cancel"], headers=ADMIN).status_code == 202

    page = client.get("/v1/operations", params={"limit": 1}, headers=ADMIN).json()
    following = ask("GET", gateway.address + page["next"], headers=ADMIN).json()

    assert page["next"].startswith(f"{PREFIX}/v1/operations?")
    assert following["operations"][0]["operation_id"] != page["operations"][0]["operation_id"]


def test_no_redirect_names_a_host_that_the_client_sent(client):
    headers = {"Host": "shop.example:8443", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}

    answer = client.get("/docs/", headers=headers)

    assert (answer.status_code, "location" in answer.headers) == (404, False)


@pytest.mark.parametrize("query", ["", "?a=1&b=%2F"])
def test_the_bare_prefix_redirects_to_the_start_page(gateway, query):
    answer = ask("GET", f"{gateway.address}{PREFIX}{query}")

    assert (answer.status_code, answer.headers["location"]) == (307, f"{PREFIX}/{query}")


@pytest.mark.parametrize("path", ["/", "/search", "/livez", "/akinlivez", "/akin.livez", "/other/akin/livez"])
def test_paths_outside_the_prefix_are_not_found(gateway, path):
    answer = ask("GET", gateway.address + path)

    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert gateway.line_of(answer.headers["x-request-id"])["upstream"] == ""


def test_the_path_below_the_prefix_reaches_the_server_unchanged(client):
    """An id may contain slashes and percent signs, which a gateway that normalises paths would change."""
    answer = client.delete("/v1/admin/catalogue/a%2F%2Fb%25%2E%2E%2Fc%3Fd", headers=ADMIN)

    assert (answer.status_code, answer.json()["code"]) == (404, "product-not-found")
    assert "'a//b%../c?d'" in answer.json()["detail"]


def test_the_prefix_may_end_with_a_slash(gateways, image):
    gateway = gateways(AKIN_ROOT_PATH=f"{PREFIX}/")

    with httpx.Client(verify=False, base_url=gateway.address + PREFIX) as client:
        assert image_url(client.post("/search", files={"image": image})).startswith(f"{PREFIX}/media/")
        assert client.get("/docs").status_code == 200
    assert ask("GET", gateway.address + PREFIX).headers["location"] == f"{PREFIX}/"
    assert ask("GET", f"{gateway.address}/livez").status_code == 404


@pytest.fixture(scope="module", params=["", "/"])
def bare_gateway(request: pytest.FixtureRequest, home) -> Iterator[Gateway]:
    """A gateway in front of a server without a prefix."""
    app = create_app(Settings(home=home, release_poll_seconds=0.05))
    with listen("127.0.0.1", 0) as listener, running(app, listener) as address:
        wait_for(lambda: ask("GET", f"{address}/readyz").status_code == 200)
        with gateway_before(upstream_file([listener.getsockname()[1]]), AKIN_ROOT_PATH=request.param) as gateway:
            yield gateway


@pytest.mark.shares("sockets")  # the gateway keeps its connections to the shared server
def test_without_a_prefix_all_urls_are_at_the_root(bare_gateway, image):
    with httpx.Client(verify=False, base_url=bare_gateway.address) as client:
        address = image_url(client.post("/search", files={"image": image}))
        assert address.startswith("/media/")
        loaded = [client.get(path).status_code for path in (address, *files_of(client.get("/")))]
        assert loaded == [200] * len(loaded)
        assert client.get("/gateway-health").json() == {"status": "alive"}
        assert client.get("/metrics").json()["code"] == "not-found"
