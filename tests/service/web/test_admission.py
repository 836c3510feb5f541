"""Places for searches: how many, and how one that is given up makes room; with real connections to a real server."""

import asyncio
import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi import Request
from pydantic import SecretStr

from service.installation.settings import Settings
from service.serving import engine, inference
from service.serving.engine import SearchEngine
from service.web.admission import Admission, unless_client_leaves
from service.web.app import create_app
from service.web.errors import ClientLeft, Overloaded
from service.web.server import listen, running
from tests.images import encode
from tests.service.conftest import product_image, wait_for
from tests.service.fixtures.server_process import KEY, Line

IMAGE = encode(product_image("birch"))


class Server:
    """A server in this process, whose parts can be looked into."""

    def __init__(self, app, port):
        self.port = port
        self.app = app

    @property
    def admission(self):
        return self.app.state.akin.admission

    @contextlib.contextmanager
    def line(self):
        with contextlib.closing(Line(self.port)) as line:
            yield line

    def begin_search(self, stack):
        """Send a whole search; who wants the answer asks for it."""
        line = stack.enter_context(self.line())
        line.send_head("/search", content_length=str(len(IMAGE)), content_type="image/png")
        line.send(IMAGE)
        return line

    def get(self, path):
        with self.line() as line:
            line.send_head(path, method="GET")
            return line.answer()


@pytest.fixture
def server(served_home, caplog):
    """Three places, one thread that decodes; nothing may be logged as an error."""
    settings = Settings(
        home=served_home, release_poll_seconds=0.05, max_searches=3, decode_workers=1, admin_key=SecretStr(KEY)
    )
    with listen("127.0.0.1", 0) as listener:
        app = create_app(settings)
        with running(app, listener):
            opened = Server(app, listener.getsockname()[1])
            wait_for(lambda: opened.get("/readyz").status == 200)
            yield opened
    gc.collect()
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


@pytest.fixture
def stack():
    with contextlib.ExitStack() as opened:
        yield opened


class Hold:
    """Holds every call of a function until it is let go."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch
        self._letting_go = threading.Event()

    def calls_of(self, module, name):
        """Hold the calls of a function of a module; gives the arguments of those that have begun."""
        function, begun = getattr(module, name), []

        def held_function(*arguments):
            begun.append(arguments)
            assert self._letting_go.wait(20)
            return function(*arguments)

        self._monkeypatch.setattr(module, name, held_function)
        return begun

    def let_go(self):
        """Let them go on."""
        self._letting_go.set()


@pytest.fixture
def held(monkeypatch):
    hold = Hold(monkeypatch)
    yield hold
    hold.let_go()


def test_a_place_is_given_back_however_its_block_ends():
    admission = Admission(1)

    for error in (None, ValueError, asyncio.CancelledError):
        with contextlib.suppress(ValueError, asyncio.CancelledError), admission.place():
            assert admission.num_in_progress == 1
            with pytest.raises(Overloaded, match="1 searches are in progress"), admission.place():
                pass
            assert admission.num_in_progress == 1
            if error is not None:
                raise error
        assert admission.num_in_progress == 0

    assert (admission.limit, admission.num_refused) == (1, 3)


def test_past_the_places_the_answer_comes_while_all_are_held(server, stack, held):
    held.calls_of(engine, "decode_image")
    lines = [server.begin_search(stack) for _ in range(3)]
    wait_for(lambda: server.admission.num_in_progress == 3)

    with server.line() as line:
        line.send_head("/search", content_length=str(10**6), content_type="image/png")
        answer = line.answer()  # and not a byte of the body was sent

    assert answer.told == (503, "overloaded")
    assert answer.headers["retry-after"] == "1"
    assert server.admission.num_refused == 1
    held.let_go()
    assert [line.answer().status for line in lines] == [200] * 3
    assert server.admission.num_in_progress == 0


def test_a_client_that_leaves_takes_its_image_out_of_the_queue(server, stack, held):
    """One decodes, two wait for the thread; of those that leave, nothing is ever decoded."""
    begun = held.calls_of(engine, "decode_image")
    first = server.begin_search(stack)
    wait_for(lambda: len(begun) == 1)
    leaving = [server.begin_search(stack) for _ in range(2)]
    wait_for(lambda: server.admission.num_in_progress == 3)

    for line in leaving:
        line.close()

    wait_for(lambda: server.admission.num_in_progress == 1)
    held.let_go()
    assert first.answer().status == 200
    assert server.begin_search(stack).answer().status == 200
    assert len(begun) == 2


def test_a_client_that_leaves_while_its_image_is_decoded_frees_its_place_at_once(server, stack, held):
    begun = held.calls_of(engine, "decode_image")
    leaving = server.begin_search(stack)
    wait_for(lambda: len(begun) == 1)

    leaving.close()

    wait_for(lambda: server.admission.num_in_progress == 0)
    held.let_go()
    assert server.begin_search(stack).answer().status == 200


def test_a_client_that_leaves_while_its_image_waits_for_the_network_is_not_embedded(server, stack, held):
    batches = held.calls_of(inference, "_embed_batch")
    first = server.begin_search(stack)
    wait_for(lambda: len(batches) == 1)
    leaving = server.begin_search(stack)
    wait_for(lambda: server.admission.num_in_progress == 2)

    leaving.close()

    wait_for(lambda: server.admission.num_in_progress == 1)
    held.let_go()
    assert first.answer().status == 200
    assert server.begin_search(stack).answer().status == 200
    assert [len(batch) for (batch,) in batches] == [1, 1]


def test_answers_wait_for_no_route_that_waits_for_the_database(server, stack, monkeypatch):
    """More requests hang at the database than the framework has threads; whatever needs none is answered."""
    hanging = threading.Event()
    monkeypatch.setattr("service.web.routes.evaluations.list_evaluations", lambda *_, **__: hanging.wait(20) and [])
    try:
        for _ in range(60):
            line = stack.enter_context(server.line())
            line.send_head("/v1/admin/evaluations", method="GET", authorization=f"Bearer {KEY}")
        wait_for(lambda: sum("AnyIO" in thread.name for thread in threading.enumerate()) == 40)

        assert server.begin_search(stack).answer().status == 200
        assert server.get("/readyz").status == 200
        assert server.get("/nowhere").told == (404, "not-found")
        with server.line() as line:
            line.send_head("/search", content_length=str(2**30), content_type="image/png")
            assert line.answer().told == (413, "body-too-large")
    finally:
        hanging.set()


def test_what_was_cancelled_waits_without_its_image():
    """The pool keeps the place of cancelled work in its queue; the image must not be kept with it."""

    async def cancel_in_queue(pool):
        search_engine = SearchEngine.__new__(SearchEngine)
        image = np.zeros(10)
        seen = weakref.ref(image)
        task = asyncio.create_task(search_engine._run_in(pool, len, image))
        del image
        await asyncio.sleep(0)
        assert seen() is not None
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        del task
        gc.collect()
        return seen() is None

    hanging = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hanging.wait, 20)
        try:
            assert asyncio.run(cancel_in_queue(pool))
        finally:
            hanging.set()


def request_of_a_client(*, leaves=False):
    """Return a request whose body has been read."""
    messages = [{"type": "http.disconnect"}] if leaves else []

    async def receive():
        return messages.pop() if messages else await asyncio.Event().wait()

    return Request({"type": "http", "headers": []}, receive)


async def long_work(ended):
    """Work for longer than any test, and note the end of it."""
    try:
        await asyncio.sleep(20)
    finally:
        ended.append(True)


def test_work_ends_before_the_leaving_is_told():
    ended: list[bool] = []

    async def leave():
        with pytest.raises(ClientLeft):
            await unless_client_leaves(request_of_a_client(leaves=True), long_work(ended))
        assert ended == [True]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(leave())


def test_an_error_of_the_work_is_raised_as_it_is():
    async def fail():
        raise ValueError("3")

    async def run():
        with pytest.raises(ValueError, match="3"):
            await unless_client_leaves(request_of_a_client(), fail())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_a_request_that_is_cancelled_cancels_its_work():
    ended: list[bool] = []

    async def run():
        task = asyncio.create_task(unless_client_leaves(request_of_a_client(), long_work(ended)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
