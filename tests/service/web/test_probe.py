"""The health check of containers, against real servers and against ports without one."""

import http.server
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.web.probe import complaint, main

ROOT = Path(__file__).parents[3]


class StatusOfPath(http.server.BaseHTTPRequestHandler):
    """Responds with the status that the path names."""

    def do_GET(self):
        status = int(self.path.rsplit("/", 1)[-1].partition("?")[0])
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/status/200")
        self.end_headers()
        self.wfile.write(f"this is {self.path}".encode())

    def log_message(self, format, *arguments):
        """Log nothing."""


@pytest.fixture(scope="module")
def address():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), StatusOfPath) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def silent_port():
    """A port that accepts connections and never responds."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("status", [200, 204])
def test_accepts_a_successful_response(address, status):
    assert complaint(f"{address}/status/{status}") == ""


@pytest.mark.parametrize("status", [302, 404, 500, 503])
def test_reports_any_other_response_with_its_status_and_text(address, status):
    reported = complaint(f"{address}/status/{status}")

    assert reported == f"{address}/status/{status} responds {status}: this is /status/{status}"


def test_sends_the_query(address):
    assert complaint(f"{address}/status/200?deep=yes", "?deep=yes") == ""


def test_reports_a_missing_text(address):
    assert complaint(f"{address}/status/200", "this is") == ""
    assert complaint(f"{address}/status/200", "akin_worker_up 1.0").endswith("does not contain 'akin_worker_up 1.0'")


def test_reports_a_port_without_a_server():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, so that no other process uses it, but not listening
        port = listener.getsockname()[1]

        assert "no response from" in complaint(f"http://127.0.0.1:{port}/livez")


def test_gives_up_on_a_silent_server(silent_port):
    reported = complaint(f"http://127.0.0.1:{silent_port}/livez", timeout_seconds=0.05)

    assert reported == f"no response from http://127.0.0.1:{silent_port}/livez: timed out"


@pytest.mark.parametrize("url", ["", "livez", "https://127.0.0.1/livez", "file:///etc/passwd", "http://"])
def test_rejects_other_urls(url):
    assert "is not a URL such as http://127.0.0.1:8000/livez" in complaint(url)


def test_rejects_a_port_that_is_not_a_number():
    assert "no response from" in complaint("http://127.0.0.1:port/livez")


def test_too_many_arguments_print_the_usage():
    assert (main(["a", "b", "c"]) or "").startswith("usage: python -m service.web.probe")


@pytest.mark.long
@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1)])
def test_the_exit_status_tells_docker_the_health(address, status, expected):
    command = [sys.executable, "-m", "service.web.probe", f"{address}/status/{status}"]
    # With a proxy, the request would not reach the server beside the probe.
    environment = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}

    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert done.returncode == expected
    assert done.stderr == ("" if expected == 0 else f"{address}/status/503 responds 503: this is /status/503\n")


def test_loads_only_the_standard_library():
    program = (
        "import sys, service.web.probe\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names\n"
        "    - {'__main__', 'service'}))"
    )

    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
