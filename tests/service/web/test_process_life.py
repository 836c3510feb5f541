"""Real servers that are asked to end, while requests are on their way."""

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest

from service.catalogue.importing import import_catalogue
from service.catalogue.sources import read_import_source
from service.installation.errors import PortInUse
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.releases.build import build_release
from service.web.app import create_app
from service.web.server import listen
from service.web.server import serve as serve_app
from tests.images import encode
from tests.service.conftest import product_image, write_shop
from tests.service.fixtures.server_process import ROOT, Line, started
from tests.service.fixtures.tiny_model import save_tiny_checkpoint
from tests.service.web.test_metrics import samples

IMAGE = encode(product_image("birch"))
AS_IMAGE = {"content_type": "image/png"}
LIVENESS: tuple[str, str, Any, dict[str, str]] = ("GET", "/livez", None, {})
SEARCH = ("POST", "/search", IMAGE, {"Content-Type": "image/png"})
# A machine that does other things as well.
SLACK_SECONDS = 10.0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Home of a shop whose searches cost next to nothing."""
    root = tmp_path_factory.mktemp("life")
    checkpoint = save_tiny_checkpoint(root / "tiny")
    with open_installation(Settings(home=root / "home")) as opened:
        import_catalogue(read_import_source(write_shop(root / "shop")), opened.database, opened.media_store)
        build_release(opened, checkpoint=checkpoint)
    return root / "home"


@pytest.fixture
def serve(home, tmp_path):
    """Start a server with a log of its own: a context that gives the server and its process."""
    return lambda **variables: started(home, tmp_path / "log", **variables)


class Clients:
    """Clients that never pause until nobody listens, each on one connection for all or on one for each request.

    Half of them search; the others ask for what costs nothing, so that connections wait in the listener's queue.
    """

    def __init__(self, port, count):
        self._port = port
        self._threads = [
            threading.Thread(target=self._ask, args=(asked, keeps_connection))
            for asked in (SEARCH, LIVENESS)
            for keeps_connection in (True, False)
            for _ in range(count // 4)
        ]
        self.answers: list[tuple[int, str | None]] = []
        self.failures: list[str] = []

    def _ask(self, asked, keeps_connection):
        connection = None
        while True:
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
                    connection.connect()
            except ConnectionRefusedError:
                return
            try:
                connection.request(*asked)
                response = connection.getresponse()
                response.read()
            except OSError as error:
                self.failures.append(repr(error))
                return
            told = response.getheader("Connection")
            self.answers.append((response.status, told))
            if not keeps_connection or told == "close":
                connection.close()
                connection = None

    @contextmanager
    def at_work(self):
        """Ask from here on; at the end of the block the server has to be one that ends."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            for thread in self._threads:
                thread.join()


def wait_until_refused(port):
    """Wait until nobody listens any more."""
    deadline = time.monotonic() + SLACK_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    raise AssertionError("the server still listens")


def test_a_server_under_load_ends_without_a_request_that_fails(serve):
    """Clients go on until they are refused a connection, which a gateway then asks of another replica."""
    with serve(AKIN_DRAIN_SECONDS="1", AKIN_METRICS_PORT="0") as (server, process):
        (start,) = server.events("server_starts")
        with Clients(server.port, 16).at_work() as clients:
            while len(clients.answers) < 200:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            asked_at = time.monotonic()
            while (ready := server.get("/readyz")).status == 200:
                assert time.monotonic() - asked_at < 1
            before = len(clients.answers)
            metrics = samples(httpx.get(start["metrics"]).text)
        status = process.wait(SLACK_SECONDS)

    assert ready.told == (503, "not-ready")
    assert metrics["akin_draining", ()] == 1
    assert clients.failures == []
    assert {answered for answered, _ in clients.answers} == {200}
    # Draining, it goes on answering, and lets go of each connection.
    assert len(clients.answers) > before + 16
    assert [told for _, told in clients.answers[-16:]] == 16 * ["close"]
    assert status == 0
    assert [server.events(name)[0]["event"] for name in ("server_drains", "server_stops", "server_stopped")]


def test_a_request_in_progress_is_finished_and_no_other_is_taken(serve):
    """An upload that has half arrived when somebody presses Ctrl+C, which waits for no gateway."""
    with serve(AKIN_DRAIN_SECONDS="60") as (server, process), server.line() as slow, server.line() as idle:
        idle.send_head("/livez", method="GET")
        assert idle.answer().status == 200
        slow.send_head("/search", content_length=str(len(IMAGE)), **AS_IMAGE)
        slow.send(IMAGE[:1000])
        time.sleep(0.2)

        process.send_signal(signal.SIGINT)
        wait_until_refused(server.port)
        is_idle_closed = idle.is_closed_within(SLACK_SECONDS)
        is_running = process.poll() is None
        slow.send(IMAGE[1000:])
        answer = slow.answer()
        status = process.wait(SLACK_SECONDS)

    assert (is_idle_closed, is_running) == (True, True)
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert answer.json["hits"][0]["product_id"] == "birch"
    assert status == 0


def test_a_request_that_does_not_end_in_time_is_told_so(serve):
    with serve(AKIN_SHUTDOWN_SECONDS="1") as (server, process), server.line() as stuck:
        stuck.send_head("/search", content_length=str(len(IMAGE)), x_request_id="stuck-1", **AS_IMAGE)
        stuck.send(IMAGE[:1000])
        time.sleep(0.2)

        process.send_signal(signal.SIGTERM)
        answer = stuck.answer()
        status = process.wait(SLACK_SECONDS)

    assert answer.told == (503, "not-ready")
    assert (answer.headers["connection"], "retry-after" in answer.headers) == ("close", True)
    assert status == 1
    (cut_off,) = server.events("requests_cut_off")
    assert (cut_off["level"], cut_off["requests"]) == ("error", 1)
    (line,) = [line for line in server.events("request") if line["request_id"] == "stuck-1"]
    assert line["status"] == 503
    assert "Traceback" not in server.log.read_text()


def test_a_second_signal_ends_the_process_at_once(serve):
    with serve(AKIN_DRAIN_SECONDS="60") as (server, process):
        process.send_signal(signal.SIGTERM)
        while server.get("/readyz").status == 200:
            time.sleep(0.01)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        status = process.wait(SLACK_SECONDS)

    assert status == -signal.SIGINT


def test_a_port_of_the_metrics_that_is_taken_ends_the_start(home):
    with listen("127.0.0.1", 0) as taken, listen("127.0.0.1", 0) as listener:
        port = taken.getsockname()[1]
        app = create_app(Settings(home=home, metrics_port=port))
        with pytest.raises(PortInUse, match=f"port {port} of 127.0.0.1, for the metrics, is in use"):
            serve_app(app, listener)


STUCK = """
import sys, time
from pathlib import Path
from service import server
from service.app import create_app
from service.observability import configure_logging
from service.settings import Settings

configure_logging("info")
server._OVERTIME_SECONDS = 1.0
app = create_app(Settings(home=Path(sys.argv[1]), shutdown_seconds=0.5))
app.add_api_route("/stuck", lambda: time.sleep(600))
listener = server.listen("127.0.0.1", 0)
print(listener.getsockname()[1], flush=True)
server.serve(app, listener)
"""


def test_a_thread_that_never_ends_does_not_keep_the_process(tmp_path):
    command = [sys.executable, "-c", STUCK, str(tmp_path / "home")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with closing(Line(port)) as first, closing(Line(port)) as line:
                first.send_head("/livez", method="GET")
                assert first.answer().status == 200
                line.send_head("/stuck", method="GET")
                time.sleep(0.5)
                process.send_signal(signal.SIGTERM)
                _, log = process.communicate(timeout=30)
        finally:
            process.kill()

    assert process.returncode == 1
    assert "server_killed_itself" in log
