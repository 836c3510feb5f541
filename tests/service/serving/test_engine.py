"""The deadline of a search, and large results."""

import json
import threading

import pytest
from fastapi.testclient import TestClient

from index.vector_index import VectorIndex
from service.installation.settings import Settings
from service.releases.files import ReleaseRow
from service.serving.engine import Hit, SearchResult, Timing
from service.serving.limits import MAX_K
from service.web.app import create_app
from service.web.routes import search as search_route
from service.web.schemas.search import SearchResponse, encode_response
from tests.images import encode
from tests.service.conftest import product_image, wait_for

IMAGE = encode(product_image("birch"))


@pytest.fixture
def client(served_home):
    """A server with one thread that searches, and a deadline of a fifth of a second."""
    settings = Settings(home=served_home, release_poll_seconds=0.05, search_workers=1, search_timeout_seconds=0.2)
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        wait_for(lambda: opened.get("/readyz").status_code == 200)
        yield opened


def test_a_search_that_takes_too_long_is_refused_and_its_thread_stops(client, monkeypatch):
    searching, ended = threading.Event(), threading.Event()

    def search_without_end(*_, check, **__):
        searching.set()
        try:
            while True:
                check()
        finally:
            ended.set()

    with monkeypatch.context() as slow:
        slow.setattr(VectorIndex, "timed_search_products", search_without_end)
        response = client.post("/search", files={"image": IMAGE})

    assert (response.status_code, response.json()["code"]) == (503, "search-timed-out")
    assert response.headers["Retry-After"]
    assert "longer than 0.2 s" in response.json()["detail"]
    assert searching.is_set()
    assert ended.wait(20)
    wait_for(lambda: client.post("/search", files={"image": IMAGE}).status_code == 200)


def test_a_k_of_thousands_is_accepted_everywhere_and_returns_all_products(client):
    response = client.post(f"/search?k={MAX_K}", files={"image": IMAGE})

    assert sorted(hit["product_id"] for hit in response.json()["hits"]) == ["amber", "birch", "cedar"]
    assert client.post(f"/search?k={MAX_K + 1}", files={"image": IMAGE}).status_code == 422


def test_a_large_response_is_encoded_outside_the_event_loop(client, monkeypatch):
    threads = []

    def encode_and_note(*arguments):
        threads.append(threading.current_thread().name)
        return encode_response(*arguments)

    monkeypatch.setattr(search_route, "encode_response", encode_and_note)
    small = client.post("/search", files={"image": IMAGE}).json()
    monkeypatch.setattr(search_route, "_MAX_HITS_IN_LOOP", 2)
    large = client.post("/search", files={"image": IMAGE}).json()

    assert large["hits"] == small["hits"]
    assert not threads[0].startswith("response")
    assert threads[1].startswith("response")


def test_a_response_is_what_its_schema_says():
    row = ReleaseRow("i1", 'p"1"', "Käse \u200d 🧀", {"n": [1, 2.5], "x": None, "ü": {"y": True}}, "abc.png")
    timing = Timing(0.0011, 0.002, 0.003, 0.004, 0.005, 0.0151239)
    result = SearchResult("r1", [Hit(row, 0.98765432), Hit(row, -1.0)], timing)

    body = encode_response(result, "/shop/media")

    expected = {
        "release_id": "r1",
        "hits": [
            {
                "product_id": 'p"1"',
                "title": "Käse \u200d 🧀",
                "score": score,
                "image_id": "i1",
                "image_url": "/shop/media/abc.png",
                "attributes": {"n": [1, 2.5], "x": None, "ü": {"y": True}},
            }
            for score in (0.987654, -1.0)
        ],
        "timing": {"decode": 1.1, "wait": 2.0, "embed": 3.0, "search": 4.0, "group": 5.0, "total": 15.124},
    }
    assert json.loads(body) == expected
    assert SearchResponse.model_validate_json(body).model_dump() == expected
    assert json.loads(encode_response(SearchResult("r1", [], timing), ""))["hits"] == []
