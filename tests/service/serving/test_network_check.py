"""The network of a server is run now and then; readiness says so when it does not run."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from embedding.embedder import Embedder
from service.installation.settings import Settings
from service.serving import network_check
from service.serving.engine import LiveEngine
from service.serving.network_check import NetworkCheck, NetworkState
from service.web.app import create_app
from tests.images import encode
from tests.service.conftest import product_image, wait_for
from tests.service.web.test_metrics import samples

IMAGE = encode(product_image("birch"))


class Engine:
    """An engine whose network fails while `error` is set, and answers when `may_answer` is set."""

    release_id = "r1"

    def __init__(self):
        self.num_runs = 0
        self.error = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def embed_plain_image(self):
        self.num_runs += 1
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
def state():
    return NetworkState()


def check_of(engine, state, interval_seconds=3600.0):
    live = cast(LiveEngine, SimpleNamespace(current=lambda: engine))
    return NetworkCheck(live, state, interval_seconds=interval_seconds)


def test_a_failing_network_is_a_problem_until_it_runs_again(state):
    async def run():
        engine = Engine()
        check = check_of(engine, state)
        problems = []
        for error in (None, RuntimeError("CUDA error: device-side assert at 0x7f"), None):
            engine.error = error
            await check.check()
            problems.append(state.problem())
        return problems

    with capture_logs() as logs:
        first, second, third = asyncio.run(run())

    assert (first, third) == (None, None)
    assert "failed on a test image" in second
    assert "restart the server" in second
    assert "CUDA" not in second
    assert [line["event"] for line in logs] == ["network_failed", "network_is_back"]
    assert state.num_failed_checks == 1


def test_a_network_that_does_not_answer_is_a_problem_until_it_does(state, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(network_check, "time", SimpleNamespace(monotonic=lambda: clock.now))

    async def run():
        engine = Engine()
        engine.may_answer.clear()
        checking = asyncio.create_task(check_of(engine, state).check())
        await asyncio.sleep(0)
        clock.now += 10
        problems = [state.problem()]
        clock.now += 15
        problems.append(state.problem())
        engine.may_answer.set()
        await checking
        return [*problems, state.problem()]

    assert asyncio.run(run()) == [
        None,
        "the network has not answered for 25 s; restart the server if it does not recover",
        None,
    ]


def test_without_a_release_there_is_nothing_to_check(state):
    asyncio.run(check_of(None, state).check())

    assert state.problem() is None


def test_the_network_runs_at_intervals_and_at_once_on_request(state, monkeypatch):
    monkeypatch.setattr(network_check, "_LEAST_SECONDS", 0.0)

    async def runs_of(interval_seconds, *, requests):
        engine = Engine()
        check = check_of(engine, state, interval_seconds)
        running = asyncio.create_task(check.run())
        async with asyncio.timeout(20):
            while engine.num_runs < 3:
                await asyncio.sleep(0.001)
                if requests:
                    check.request()
        running.cancel()
        await asyncio.wait({running})
        return running.cancelled()

    assert asyncio.run(runs_of(0.001, requests=False))
    assert asyncio.run(runs_of(3600.0, requests=True))


def test_a_server_whose_network_fails_is_not_ready_until_it_runs_again(served_home, monkeypatch):
    monkeypatch.setattr(network_check, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(network_check, "_RETRY_SECONDS", 0.01)
    app = create_app(Settings(home=served_home, release_poll_seconds=0.05, network_check_seconds=3600.0))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        portal, metrics = client.portal, app.state.akin.metrics
        assert portal is not None

        def network_up():
            return samples(portal.call(metrics.scrape, "")[0].decode())["akin_network_up", ()]

        with monkeypatch.context() as broken:
            broken.setattr(Embedder, "embed_pixels", lambda *_: 1 / 0)
            assert client.get("/readyz").status_code == 200
            assert client.post("/search", files={"image": IMAGE}).status_code == 500
            wait_for(lambda: client.get("/readyz").status_code == 503)
            body = client.get("/readyz").json()
            assert body["checks"]["network"]["ok"] is False
            assert "failed on a test image" in body["detail"]
            assert network_up() == 0
        wait_for(lambda: client.get("/readyz").status_code == 200)
        assert network_up() == 1
