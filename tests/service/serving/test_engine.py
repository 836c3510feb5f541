"""The deadline of a search, and large results."""

import asyncio
import gc
import json
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace
from typing import cast

import pytest
from fastapi.testclient import TestClient

from embedding.decoding import DecodingLimits
from index.product_search import TimedHits
from index.vector_index import VectorIndex
from service.installation.settings import Settings
from service.releases.files import LoadedRelease, ReleaseRow
from service.serving.engine import Hit, SearchEngine, SearchResult, Timing
from service.serving.inference import InferenceThread
from service.serving.limits import MAX_K
from service.web.app import create_app
from service.web.routes import search as search_route
from service.web.schemas.search import SearchResponse, encode_response
from tests.fakes import MeanColourEmbedder
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


@pytest.mark.parametrize("stage", ["decode", "embed", "search"])
def test_a_cancelled_search_does_not_keep_its_engine(stage):
    """The files of a release that is no longer served would stay mapped until the next garbage collection."""
    is_reached, may_end = threading.Event(), threading.Event()

    def wait(*_, **__):
        is_reached.set()
        may_end.wait(20)
        return TimedHits([], 0.0, 0.0)

    class WaitingEmbedder(MeanColourEmbedder):
        def to_pixels(self, image):
            if stage == "decode":
                wait()
            return super().to_pixels(image)

        def embed_pixels(self, pixels_NHWC):
            if stage == "embed":
                wait()
            return super().embed_pixels(pixels_NHWC)

    async def cancel_a_search(inference, pool):
        rows = SimpleNamespace(read=lambda _: [])
        index = SimpleNamespace(timed_search_products=wait)
        release = SimpleNamespace(release_id="r1", embedder=WaitingEmbedder(), index=index, rows=rows)
        engine = SearchEngine(
            cast(LoadedRelease, release),
            inference,
            decoders=pool,
            searchers=pool,
            limits=DecodingLimits(),
            timeout_seconds=20,
        )
        seen = weakref.ref(engine)
        task = asyncio.create_task(engine.search(IMAGE, 3, None))
        del engine
        while not is_reached.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        may_end.set()
        del task
        while seen() is not None:  # the thread that waited holds the engine until it ends
            await asyncio.sleep(0.001)

    gc.disable()
    try:
        with closing(InferenceThread()) as inference, ThreadPoolExecutor(1) as pool:
            asyncio.run(asyncio.wait_for(cancel_a_search(inference, pool), 20))
    finally:
        gc.enable()


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
