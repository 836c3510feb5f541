"""Shutdown of real server processes while requests are in progress."""

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
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.releases.build import build_release
from tests.images import encode
from tests.service.conftest import product_image, write_shop
from tests.service.fixtures.server_process import ROOT, Connection, started
from tests.service.fixtures.tiny_model import save_tiny_checkpoint
from tests.service.web.test_limits import wait_until_arriving
from tests.service.web.test_metrics import samples

IMAGE = encode(product_image("birch"))
AS_IMAGE = {"content_type": "image/png"}
LIVENESS: tuple[str, str, Any, dict[str, str]] = ("GET", "/livez", None, {})
SEARCH = ("POST", "/search", IMAGE, {"Content-Type": "image/png"})
# Long enough for a busy machine.
MAX_WAIT_SECONDS = 60.0

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Home of a shop with a tiny model, whose searches are fast."""
    root = tmp_path_factory.mktemp("life")
    checkpoint = save_tiny_checkpoint(root / "tiny")
    with open_installation(Settings(home=root / "home")) as opened:
        import_catalogue(read_import_source(write_shop(root / "shop")), opened.database, opened.media_store)
        build_release(opened, checkpoint=checkpoint)
    return root / "home"


@pytest.fixture
def serve(home, tmp_path):
    """Start a server with a log of its own; a context manager that yields the server and its process."""
    return lambda **variables: started(home, tmp_path / "log", **variables)


class Clients:
    """Clients that send requests without pause until connections are refused.

    Half of them keep their connection, the others open one per request. Half of them search, the others request
    /livez, which is so fast that connections wait in the listener's queue.
    """

    def __init__(self, port, count):
        self._port = port
        self._threads = [
            threading.Thread(target=self._send_requests, args=(request, keeps_connection))
            for request in (SEARCH, LIVENESS)
            for keeps_connection in (True, False)
            for _ in range(count // 4)
        ]
        self.responses: list[tuple[int, str | None]] = []
        self.failures: list[str] = []

    def _send_requests(self, request, keeps_connection):
        connection = None
        while True:
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
                    connection.connect()
            except ConnectionRefusedError:
                return
            try:
                connection.request(*request)
                response = connection.getresponse()
                response.read()
            except OSError as error:
                self.failures.append(repr(error))
                return
            announced = response.getheader("Connection")
            self.responses.append((response.status, announced))
            if not keeps_connection or announced == "close":
                connection.close()
                connection = None

    @contextmanager
    def running(self):
        """Send requests; at the end of the block, wait until the server refuses connections."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            for thread in self._threads:
                thread.join()


def wait_until_refused(port):
    """Wait until connections are refused."""
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    raise AssertionError("the server still listens")


def test_a_server_under_load_shuts_down_without_a_failed_request(serve):
    """Clients see only refused connections, for which a gateway tries another replica."""
    with serve(AKIN_DRAIN_SECONDS="3", AKIN_METRICS_PORT="0") as (server, process):
        (start,) = server.events("server_starts")
        with Clients(server.port, 16).running() as clients:
            while len(clients.responses) < 200:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            while (ready := server.get("/readyz")).status == 200:
                time.sleep(0.01)
            num_before = len(clients.responses)
            metrics = samples(httpx.get(start["metrics"]).text)
        status = process.wait(MAX_WAIT_SECONDS)

    assert ready.problem_code == (503, "not-ready")
    assert metrics["akin_draining", ()] == 1
    assert clients.failures == []
    assert {status for status, _ in clients.responses} == {200}
    # A draining server still responds, and closes each connection.
    assert len(clients.responses) > num_before + 16
    assert [announced for _, announced in clients.responses[-16:]] == 16 * ["close"]
    assert status == 0
    assert [server.events(name)[0]["event"] for name in ("server_drains", "server_stops", "server_stopped")]


def test_after_sigint_requests_in_progress_are_completed_and_connections_refused(serve):
    """SIGINT skips the drain time."""
    with serve(AKIN_DRAIN_SECONDS="60") as (server, process), server.connect() as slow, server.connect() as idle:
        idle.send_head("/livez", method="GET")
        assert idle.response().status == 200
        slow.send_head("/search", content_length=str(len(IMAGE)), **AS_IMAGE)
        slow.send(IMAGE[:1000])
        wait_until_arriving(server, 1)

        process.send_signal(signal.SIGINT)
        wait_until_refused(server.port)
        is_idle_closed = idle.is_closed_within(MAX_WAIT_SECONDS)
        is_running = process.poll() is None
        slow.send(IMAGE[1000:])
        response = slow.response()
        status = process.wait(MAX_WAIT_SECONDS)

    assert (is_idle_closed, is_running) == (True, True)
    assert (response.status, response.headers["connection"]) == (200, "close")
    assert response.json["hits"][0]["product_id"] == "birch"
    assert status == 0


def test_a_request_that_outlasts_the_shutdown_gets_503_and_the_exit_status_is_1(serve):
    with serve(AKIN_SHUTDOWN_SECONDS="1") as (server, process), server.connect() as stuck:
        stuck.send_head("/search", content_length=str(len(IMAGE)), x_request_id="stuck-1", **AS_IMAGE)
        stuck.send(IMAGE[:1000])
        wait_until_arriving(server, 1)

        process.send_signal(signal.SIGTERM)
        response = stuck.response()
        status = process.wait(MAX_WAIT_SECONDS)

    assert response.problem_code == (503, "not-ready")
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
        status = process.wait(MAX_WAIT_SECONDS)

    assert status == -signal.SIGINT


STUCK = """
import sys, time
from pathlib import Path
from service.installation.logs import configure_logging
from service.installation.settings import Settings
from service.web import server
from service.web.app import create_app

def stuck():
    print("stuck", flush=True)
    time.sleep(600)

configure_logging("info")
server._OVERTIME_SECONDS = 1.0
app = create_app(Settings(home=Path(sys.argv[1]), shutdown_seconds=0.5))
app.add_api_route("/stuck", stuck)
listener = server.listen("127.0.0.1", 0)
print(listener.getsockname()[1], flush=True)
server.serve(app, listener)
"""


def test_a_thread_that_never_ends_does_not_keep_the_process_alive(tmp_path):
    command = [sys.executable, "-c", STUCK, str(tmp_path / "home")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with closing(Connection(port)) as line:
                line.send_head("/stuck", method="GET")
                assert process.stdout.readline() == "stuck\n"
                process.send_signal(signal.SIGTERM)
                _, log = process.communicate(timeout=MAX_WAIT_SECONDS)
        finally:
            process.kill()

    assert process.returncode == 1
    assert "server_killed_itself" in log


LOADING = """
import sys, time
from pathlib import Path
from service.installation.logs import configure_logging
from service.installation.settings import Settings
from service.serving import following, loading
from service.web import server
from service.web.app import create_app

def load_slowly(*_, check, **__):
    print("loading", flush=True)
    while True:
        time.sleep(0.01)
        if sys.argv[2] == "checks":
            check()

configure_logging("info")
loading._STOP_SECONDS = 1.0 if sys.argv[2] == "hangs" else 60.0
following.load_release = load_slowly
listener = server.listen("127.0.0.1", 0)
sys.exit(server.serve(create_app(Settings(home=Path(sys.argv[1]))), listener))
"""


@pytest.mark.parametrize("behaviour", ["checks", "hangs"])
def test_a_server_that_loads_a_release_stops_with_status_0(home, behaviour):
    command = [sys.executable, "-c", LOADING, str(home), behaviour]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "loading\n"
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=MAX_WAIT_SECONDS)
        finally:
            process.kill()

    assert process.returncode == 0
    assert "server_stopped" in log
    assert ("release_load_abandoned" in log) == (behaviour == "hangs")
    assert "Traceback" not in log
    assert "server_killed_itself" not in log
