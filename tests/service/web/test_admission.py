"""Slots for searches: their limit, and their release when a client disconnects, over real connections."""

import asyncio
import contextlib
import gc
import threading

import pytest
from fastapi import Request
from pydantic import SecretStr

from service.installation.settings import Settings
from service.serving import engine, inference
from service.web.admission import Admission, unless_client_leaves
from service.web.app import create_app
from service.web.errors import ClientLeft, Overloaded
from service.web.server import listen, running
from tests.images import encode
from tests.service.conftest import product_image, wait_for
from tests.service.fixtures.server_process import KEY, Connection

IMAGE = encode(product_image("birch"))
FRAMEWORK_THREADS = 40  # the limit of AnyIO's thread pool


class Server:
    """A server in this process, whose parts tests can inspect."""

    def __init__(self, app, port):
        self.port = port
        self.app = app

    @property
    def admission(self):
        return self.app.state.akin.admission

    @contextlib.contextmanager
    def connect(self):
        with contextlib.closing(Connection(self.port)) as line:
            yield line

    def begin_search(self, stack):
        """Send a complete search without waiting for the response."""
        line = stack.enter_context(self.connect())
        line.send_head("/search", content_length=str(len(IMAGE)), content_type="image/png")
        line.send(IMAGE)
        return line

    def get(self, path):
        with self.connect() as line:
            line.send_head(path, method="GET")
            return line.response()


@pytest.fixture(scope="module")
def running_server(served_home):
    """Three slots and one thread that decodes."""
    settings = Settings(
        home=served_home, release_poll_seconds=0.05, max_searches=3, decode_workers=1, admin_key=SecretStr(KEY)
    )
    with listen("127.0.0.1", 0) as listener:
        app = create_app(settings)
        with running(app, listener):
            opened = Server(app, listener.getsockname()[1])
            wait_for(lambda: opened.get("/readyz").status == 200)
            yield opened


@pytest.fixture
def server(running_server, caplog):
    """The server without searches in progress; nothing may be logged as an error."""
    yield running_server
    wait_for(lambda: running_server.admission.num_in_progress == 0)
    gc.collect()
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


@pytest.fixture
def stack():
    with contextlib.ExitStack() as opened:
        yield opened


class Hold:
    """Blocks calls of functions until they are released."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch
        self._is_released = threading.Event()

    def calls_of(self, module, name):
        """Block the calls of a function of a module; return the list of the arguments of each call."""
        function, begun = getattr(module, name), []

        def held_function(*arguments):
            begun.append(arguments)
            assert self._is_released.wait(20)
            return function(*arguments)

        self._monkeypatch.setattr(module, name, held_function)
        return begun

    def release(self):
        """Let the calls continue."""
        self._is_released.set()


@pytest.fixture
def held(monkeypatch):
    hold = Hold(monkeypatch)
    yield hold
    hold.release()


def test_a_slot_is_released_however_its_block_ends():
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


def test_beyond_the_slots_a_search_is_refused_while_all_are_in_use(server, stack, held):
    num_refused = server.admission.num_refused
    held.calls_of(engine, "decode_image")
    lines = [server.begin_search(stack) for _ in range(3)]
    wait_for(lambda: server.admission.num_in_progress == 3)

    with server.connect() as line:
        line.send_head("/search", content_length=str(10**6), content_type="image/png")
        response = line.response()  # nothing of the body was sent

    assert response.problem_code == (503, "overloaded")
    assert response.headers["retry-after"] == "1"
    assert server.admission.num_refused == num_refused + 1
    held.release()
    assert [line.response().status for line in lines] == [200] * 3


def test_the_image_of_a_disconnected_client_is_not_decoded(server, stack, held):
    """One search is decoded, and two wait for the thread when their clients disconnect."""
    begun = held.calls_of(engine, "decode_image")
    first = server.begin_search(stack)
    wait_for(lambda: len(begun) == 1)
    leaving = [server.begin_search(stack) for _ in range(2)]
    wait_for(lambda: server.admission.num_in_progress == 3)

    for line in leaving:
        line.close()

    wait_for(lambda: server.admission.num_in_progress == 1)
    held.release()
    assert first.response().status == 200
    assert server.begin_search(stack).response().status == 200
    assert len(begun) == 2


def test_a_client_that_disconnects_during_decoding_releases_its_slot_at_once(server, stack, held):
    begun = held.calls_of(engine, "decode_image")
    leaving = server.begin_search(stack)
    wait_for(lambda: len(begun) == 1)

    leaving.close()

    wait_for(lambda: server.admission.num_in_progress == 0)
    held.release()
    assert server.begin_search(stack).response().status == 200


def test_the_image_of_a_client_that_disconnects_before_embedding_is_not_embedded(server, stack, held):
    batches = held.calls_of(inference, "_embed_batch")
    first = server.begin_search(stack)
    wait_for(lambda: len(batches) == 1)
    leaving = server.begin_search(stack)
    wait_for(lambda: server.admission.num_in_progress == 2)

    leaving.close()

    wait_for(lambda: server.admission.num_in_progress == 1)
    held.release()
    assert first.response().status == 200
    assert server.begin_search(stack).response().status == 200
    assert [len(images) for images, _ in batches] == [1, 1]


def test_searches_do_not_wait_for_routes_that_block_a_thread(server, stack):
    """More requests than the framework has threads block, as they do while the database hangs."""
    may_end, begun = threading.Event(), []

    def block():
        begun.append(True)
        may_end.wait(60)

    server.app.add_api_route("/blocking", block)
    try:
        for _ in range(FRAMEWORK_THREADS + 20):
            line = stack.enter_context(server.connect())
            line.send_head("/blocking", method="GET")
        wait_for(lambda: len(begun) == FRAMEWORK_THREADS)

        assert server.begin_search(stack).response().status == 200
        assert server.get("/readyz").status == 200
        assert server.get("/nowhere").problem_code == (404, "not-found")
        with server.connect() as line:
            line.send_head("/search", content_length=str(2**30), content_type="image/png")
            assert line.response().problem_code == (413, "body-too-large")
    finally:
        may_end.set()


def request_of_a_client(*, disconnects=False):
    """Return a request whose body has been read."""
    messages = [{"type": "http.disconnect"}] if disconnects else []

    async def receive():
        return messages.pop() if messages else await asyncio.Event().wait()

    return Request({"type": "http", "headers": []}, receive)


async def endless_work(ended):
    """Work without end, and record when it is cancelled."""
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(True)


def test_work_ends_before_the_disconnect_is_raised():
    ended: list[bool] = []

    async def run():
        with pytest.raises(ClientLeft):
            await unless_client_leaves(request_of_a_client(disconnects=True), endless_work(ended))
        assert ended == [True]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_errors_of_the_work_are_raised_unchanged():
    async def fail():
        raise ValueError("3")

    async def run():
        with pytest.raises(ValueError, match="3"):
            await unless_client_leaves(request_of_a_client(), fail())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_cancelling_the_request_cancels_its_work():
    ended: list[bool] = []

    async def run():
        task = asyncio.create_task(unless_client_leaves(request_of_a_client(), endless_work(ended)))
        for _ in range(3):  # until the work has started
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
