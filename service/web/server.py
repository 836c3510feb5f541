"""Run the application: bind the socket first, so that a port in use is reported at once, and shut down in steps.

On a signal, the server first becomes not ready (`ProcessState.is_draining`), then stops accepting connections, then
waits for the requests in progress. Requests that take too long are cancelled, with a 503 response if none has begun.
"""

import asyncio
import contextlib
import errno
import gc
import ipaddress
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from types import FrameType
from typing import cast

import structlog
import uvicorn
from fastapi import FastAPI

from service.errors import ServiceError
from service.installation.errors import PortInUse
from service.installation.metrics import metrics_port
from service.installation.settings import Settings
from service.serving.loading import is_loading
from service.web.metrics import ServerMetrics
from service.web.readiness import ProcessState

MAX_HEAD_BYTES = 64 * 1024
_START_SECONDS = 60
_BACKLOG = 2048
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# After the listener is closed, requests on connections that were accepted last arrive within this time.
_LAST_REQUESTS_SECONDS = 0.2
# Time to send the responses of cancelled requests.
_CUT_OFF_SECONDS = 1
# Time for the rest of the shutdown, beyond the limit for requests: the last heartbeat, threads that still run.
_OVERTIME_SECONDS = 10.0
# Longer than nginx keeps an idle connection to a server (60 s). The gateway is then the one that closes, and never
# sends a request on a connection that the server is closing.
_KEEP_ALIVE_SECONDS = 75

log = structlog.get_logger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket and listen; port 0 chooses a free one. Raises PortInUse, which names the port and the remedy."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's algorithm only on sockets whose protocol is TCP. Otherwise responses wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Listen here rather than when the server starts: with SO_REUSEADDR, only this fails if the port is in use.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} of {host} is in use; choose another with --port or AKIN_PORT") from error
        raise PortInUse(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the address of a bound socket as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can reach a bound socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def serve(app: FastAPI, listener: socket.socket) -> int:
    """Serve until SIGINT or SIGTERM; return the number of requests that took too long and were cancelled.

    After SIGTERM, /readyz responds 503, new requests are accepted for `drain_seconds`, and requests in progress then
    have `shutdown_seconds`. SIGINT skips `drain_seconds`. A second signal ends the process at once. Raises PortInUse
    if the port of the metrics is in use.
    """
    settings = _settings(app)
    metrics = cast(ServerMetrics, app.state.metrics)
    with metrics_port(metrics.registry, settings.metrics_host, settings.metrics_port) as metrics_address:
        # A full garbage collection visits all modules and models: 0.1 s and more, in which no request is served.
        gc.collect()
        gc.freeze()
        log.info("server_starts", address=address_of(listener), metrics=metrics_address, version=version("akin"))
        server = _Server(app, is_whole_process=True)
        server.run(sockets=[listener])
    if not server.num_cut_off:
        # After a cancellation a thread may still run, and Python would wait for it at exit.
        server.overtime.cancel()
    log.info("server_stopped", cut_off=server.num_cut_off)
    if is_loading():
        # A release on a disk that hangs. At exit, Python would end the thread within native code, which aborts.
        _end_process(status=1 if server.num_cut_off else 0)
    return server.num_cut_off


@contextlib.contextmanager
def running(app: FastAPI, listener: socket.socket) -> Iterator[str]:
    """Serve in a thread until the block ends; yields the address."""
    server = _Server(app, is_whole_process=False)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server", daemon=True)
    thread.start()
    deadline = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise ServiceError("the server did not start; the log has the reason")
        time.sleep(0.01)
    try:
        yield address_of(listener)
    finally:
        server.should_exit = True
        thread.join()


class _Server(uvicorn.Server):
    """uvicorn's server with a shutdown in steps, which ends with status 0 after a signal."""

    def __init__(self, app: FastAPI, *, is_whole_process: bool) -> None:
        super().__init__(_config(app))
        settings = _settings(app)
        self._process_state = cast(ProcessState, app.state.process_state)
        self._drain_seconds = settings.drain_seconds
        self._shutdown_seconds = settings.shutdown_seconds
        self._is_whole_process = is_whole_process
        self._exit_at: float | None = None  # set by a signal
        self._is_drain_logged = False
        self.num_cut_off = 0
        self.overtime = threading.Timer(settings.shutdown_seconds + _OVERTIME_SECONDS, _end_at_once)
        self.overtime.daemon = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM until the block ends; uvicorn's own version raises them again afterwards."""
        if not self._is_whole_process:
            yield
            return
        previous = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """Begin the shutdown; a second signal has its default effect and ends the process at once."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self._process_state.is_draining = True
        self._exit_at = time.monotonic() + (self._drain_seconds if sig == signal.SIGTERM else 0.0)

    async def on_tick(self, counter: int) -> bool:
        """Extend uvicorn's check, which runs every 0.1 s, by the end of the drain time."""
        if self._exit_at is not None:
            seconds_left = self._exit_at - time.monotonic()
            self.should_exit = self.should_exit or seconds_left <= 0
            if not self._is_drain_logged:  # not in the handler: the signal may interrupt logging
                self._is_drain_logged = True
                log.info("server_drains", seconds=round(max(0.0, seconds_left), 1))
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, wait for requests in progress, and cancel those that take too long."""
        self._process_state.is_draining = True
        if self._is_whole_process:
            self.overtime.start()
        log.info("server_stops", requests=self._num_requests(), connections=len(self.server_state.connections))
        await self._close_listeners(sockets or [])
        # Requests on connections that were accepted last still get a response before their connection closes.
        await asyncio.sleep(_LAST_REQUESTS_SECONDS)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        until = time.monotonic() + self._shutdown_seconds
        while self._num_requests() and time.monotonic() < until:
            await asyncio.sleep(0.05)
        self.num_cut_off = self._num_requests()
        if self.num_cut_off:
            log.error("requests_cut_off", requests=self.num_cut_off, after_seconds=self._shutdown_seconds)
            # `RequestLog` sends 503 if no response has begun.
            for task in list(self.server_state.tasks):
                task.cancel()
        await super().shutdown(sockets)

    async def _close_listeners(self, listeners: list[socket.socket]) -> None:
        """Accept the connections in the listeners' queues, which closing would reset, then close the listeners."""
        waiting = []
        for listener in listeners:
            with contextlib.suppress(OSError):  # BlockingIOError: the queue is empty
                for _ in range(_BACKLOG):
                    waiting.append(listener.accept()[0])
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            await loop.connect_accepted_socket(self._make_protocol, connection)

    def _make_protocol(self) -> asyncio.Protocol:
        # As uvicorn does for each connection that it accepts.
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _num_requests(self) -> int:
        """Count requests in progress, and responses that clients have not received completely."""
        return max(len(self.server_state.tasks), len(self.server_state.connections))


def _end_at_once() -> None:
    # Threads cannot be cancelled, and Python would wait for them at exit. All their work tolerates a kill.
    log.error("server_killed_itself", reason="a thread still ran long after the time limit")
    _end_process(status=1)


def _end_process(*, status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _settings(app: FastAPI) -> Settings:
    return cast(Settings, app.state.settings)


def _config(app: FastAPI) -> uvicorn.Config:
    settings = _settings(app)
    trusted_proxies = settings.trusted_proxies
    return uvicorn.Config(
        app,
        # The gateway strips this prefix; uvicorn restores it, so that static files and redirects have the full path.
        root_path=settings.root_path,
        # The process configures logging itself, and `RequestLog` writes one line per request.
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        backlog=_BACKLOG,
        # h11 costs 0.15 ms more per request than httptools, but limits the size of the head, of chunk sizes and of
        # trailers. The gateway limits how long they take.
        http="h11",
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ws="none",
        # Always explicit: by default, uvicorn trusts 127.0.0.1 and reads an environment variable.
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_CUT_OFF_SECONDS,
    )
