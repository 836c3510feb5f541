"""What a container's health check asks, of real servers and of ports where nothing answers."""

import http.server
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from service.web.probe import complaint, main

ROOT = Path(__file__).parents[3]


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self):
        status = int(self.path.rsplit("/", 1)[-1].partition("?")[0])
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/status/200")
        self.end_headers()
        self.wfile.write(f"this is {self.path}".encode())

    def log_message(self, format, *arguments):
        """Stay silent."""


@pytest.fixture(scope="module")
def address():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def silent_port():
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("status", [200, 204])
def test_an_answer_that_is_well_is_no_complaint(address, status):
    assert complaint(f"{address}/status/{status}") == ""


@pytest.mark.parametrize("status", [302, 404, 500, 503])
def test_any_other_answer_is_told_with_its_status_and_text(address, status):
    said = complaint(f"{address}/status/{status}")

    assert said == f"{address}/status/{status} answers {status}: this is /status/{status}"


def test_the_query_is_asked_too(address):
    assert complaint(f"{address}/status/200?deep=yes", "?deep=yes") == ""


def test_a_text_that_the_answer_lacks_is_a_complaint(address):
    assert complaint(f"{address}/status/200", "this is") == ""
    assert complaint(f"{address}/status/200", "akin_worker_up 1.0").endswith("answers without 'akin_worker_up 1.0'")


def test_a_port_where_nothing_listens_is_a_complaint():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, so that nobody takes it, but not listening
        port = listener.getsockname()[1]

        assert "does not answer" in complaint(f"http://127.0.0.1:{port}/livez")


def test_a_server_that_says_nothing_is_given_up(silent_port):
    started = time.monotonic()

    said = complaint(f"http://127.0.0.1:{silent_port}/livez", timeout_seconds=0.2)

    assert "does not answer: timed out" in said
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("url", ["", "livez", "https://127.0.0.1/livez", "file:///etc/passwd", "http://"])
def test_what_is_no_plain_address_is_said(url):
    assert "is not an address such as http://127.0.0.1:8000/livez" in complaint(url)


def test_a_port_that_is_no_number_is_said():
    assert "does not answer" in complaint("http://127.0.0.1:port/livez")


def test_too_many_arguments_are_told_how_it_is_used():
    assert (main(["a", "b", "c"]) or "").startswith("usage: python -m service.web.probe")


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1)])
def test_the_exit_status_is_what_docker_reads(address, status, expected):
    command = [sys.executable, "-m", "service.web.probe", f"{address}/status/{status}"]
    # A proxy would be asked instead of the server beside it.
    environment = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}

    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert done.returncode == expected
    assert done.stderr == ("" if expected == 0 else f"{address}/status/503 answers 503: this is /status/503\n")


def test_the_probe_loads_nothing_but_the_standard_library():
    program = (
        "import sys, service.web.probe\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names\n"
        "    - {'__main__', 'service'}))"
    )

    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
