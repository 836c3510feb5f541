"""Run the application: the socket first, so that a port in use is told at once; and its end, in steps.

Asked to end, a server is first not ready (`ProcessState.is_draining`), then takes no more connections, then waits for
the requests in progress; what takes too long is told so where it can be, and cut off.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import signal
import socket
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
from service.web.metrics import ServerMetrics
from service.web.readiness import ProcessState

MAX_HEAD_BYTES = 64 * 1024
_START_SECONDS = 60
_BACKLOG = 2048
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# After the listener is closed: requests in connections that were taken a moment ago arrive within this.
_LAST_REQUESTS_SECONDS = 0.2
# For those that were cut off to be told so.
_CUT_OFF_SECONDS = 1
# Past the limit for requests, for the rest: the last heartbeat, threads that are at work yet.
_OVERTIME_SECONDS = 10.0
# Longer than nginx keeps a connection to a server that it does not use (60 s): so it is the gateway that closes, and
# never sends a request into a connection that is just being closed here.
_KEEP_ALIVE_SECONDS = 75

log = structlog.get_logger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket; port 0 takes a free one. Raises PortInUse naming the port and what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where a socket says that it is TCP: else answers wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Listening now, and not when the server starts, is what fails when another listens.
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
    """Say whether only this machine can reach a bound socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def serve(app: FastAPI, listener: socket.socket) -> int:
    """Serve until SIGINT or SIGTERM; return how many requests were cut off in the end, as they took too long.

    SIGTERM: /readyz says 503 at once, requests are taken for `drain_seconds` yet, and those in progress then have
    `shutdown_seconds`. SIGINT does without the first. A second signal ends the process at once. Raises PortInUse for
    the port of the metrics.
    """
    settings = _settings(app)
    metrics = cast(ServerMetrics, app.state.metrics)
    with metrics_port(metrics.registry, settings.metrics_host, settings.metrics_port) as metrics_address:
        log.info("server_starts", address=address_of(listener), metrics=metrics_address, version=version("akin"))
        server = _Server(app, is_whole_process=True)
        server.run(sockets=[listener])
    if not server.num_cut_off:
        # Else a thread may still be at work, for which Python would wait when all else is done.
        server.overtime.cancel()
    log.info("server_stopped", cut_off=server.num_cut_off)
    return server.num_cut_off


@contextlib.contextmanager
def running(app: FastAPI, listener: socket.socket) -> Iterator[str]:
    """Serve in a thread for as long as the block runs; gives the address."""
    server = _Server(app, is_whole_process=False)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server", daemon=True)
    thread.start()
    deadline = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise ServiceError("the server did not start; its log says why")
        time.sleep(0.01)
    try:
        yield address_of(listener)
    finally:
        server.should_exit = True
        thread.join()


class _Server(uvicorn.Server):
    """uvicorn's server with an end in steps, and with status 0 when it was asked to end."""

    def __init__(self, app: FastAPI, *, is_whole_process: bool) -> None:
        super().__init__(_config(app))
        settings = _settings(app)
        self._process_state = cast(ProcessState, app.state.process_state)
        self._drain_seconds = settings.drain_seconds
        self._shutdown_seconds = settings.shutdown_seconds
        self._is_whole_process = is_whole_process
        self._exit_at: float | None = None  # since a signal came
        self._has_told = False
        self.num_cut_off = 0
        self.overtime = threading.Timer(settings.shutdown_seconds + _OVERTIME_SECONDS, _end_at_once)
        self.overtime.daemon = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM for as long as the block runs; uvicorn would raise them again after its end."""
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
        """Begin to end; a second signal has its usual effect, which is the end of the process at once."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self._process_state.is_draining = True
        self._exit_at = time.monotonic() + (self._drain_seconds if sig == signal.SIGTERM else 0.0)

    async def on_tick(self, counter: int) -> bool:
        """Do what uvicorn does each tenth of a second, and end when the time has come."""
        if self._exit_at is not None:
            seconds_left = self._exit_at - time.monotonic()
            self.should_exit = self.should_exit or seconds_left <= 0
            if not self._has_told:  # not in the handler: a signal may come while a line is being logged
                self._has_told = True
                log.info("server_drains", seconds=round(max(0.0, seconds_left), 1))
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, wait for the requests in progress, and cut off what takes too long."""
        self._process_state.is_draining = True
        if self._is_whole_process:
            self.overtime.start()
        log.info("server_stops", requests=self._num_requests(), connections=len(self.server_state.connections))
        await self._close_listeners(sockets or [])
        # A request that is on its way in a connection taken a moment ago is answered, and the connection closed.
        await asyncio.sleep(_LAST_REQUESTS_SECONDS)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        until = time.monotonic() + self._shutdown_seconds
        while self._num_requests() and time.monotonic() < until:
            await asyncio.sleep(0.05)
        self.num_cut_off = self._num_requests()
        if self.num_cut_off:
            log.error("requests_cut_off", requests=self.num_cut_off, after_seconds=self._shutdown_seconds)
            # `RequestLog` answers 503 where no answer has begun.
            for task in list(self.server_state.tasks):
                task.cancel()
        await super().shutdown(sockets)

    async def _close_listeners(self, listeners: list[socket.socket]) -> None:
        """Take the connections that wait in the listeners' queues, which closing would break off; then close."""
        waiting = []
        for listener in listeners:
            with contextlib.suppress(OSError):  # BlockingIOError where no more wait
                for _ in range(_BACKLOG):
                    waiting.append(listener.accept()[0])
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            await loop.connect_accepted_socket(self._make_protocol, connection)

    def _make_protocol(self) -> asyncio.Protocol:
        # What uvicorn makes for each connection that it accepts.
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _num_requests(self) -> int:
        """Count what is not done: requests, and answers that their clients have not taken yet."""
        return max(len(self.server_state.tasks), len(self.server_state.connections))


def _end_at_once() -> None:
    # A thread cannot be cancelled, and Python would wait for it. Whatever it does is safe to be killed.
    log.error("server_killed_itself", reason="a thread was still at work long after the limit")
    os._exit(1)


def _settings(app: FastAPI) -> Settings:
    return cast(Settings, app.state.settings)


def _config(app: FastAPI) -> uvicorn.Config:
    settings = _settings(app)
    trusted_proxies = settings.trusted_proxies
    return uvicorn.Config(
        app,
        # Put before each path again, as a gateway has cut it off: files and redirects are found under the whole path.
        root_path=settings.root_path,
        # The process has configured its logs; one line a request is ours.
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        backlog=_BACKLOG,
        # Slower than httptools by 0.15 ms a request, and bounded: a head, a chunk size or trailers that grow beyond this
        # end with an error. The gateway bounds how long they take.
        http="h11",
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ws="none",
        # Said in both cases: uvicorn by itself believes 127.0.0.1, and an environment variable.
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_CUT_OFF_SECONDS,
    )
