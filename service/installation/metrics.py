"""Metrics of any process: a registry, a port that serves it, and readings that may hang."""

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.errors import ServiceError
from service.installation.errors import PortInUse

T = TypeVar("T")

# A reading is repeated at most this often, however often metrics are scraped.
_FRESH_SECONDS = 5.0
# How long a scrape waits for a reading; Prometheus waits ten seconds for a scrape.
_PATIENCE_SECONDS = 2.0


def new_registry() -> CollectorRegistry:
    """Return a registry with metrics of any process: version, Python, memory, open files, processor time."""
    # Otherwise each counter has a second line with the time of its creation.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped in the library
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(_Build())
    return registry


@contextmanager
def metrics_port(registry: CollectorRegistry, host: str, port: int | None) -> Iterator[str | None]:
    """Serve a registry at /metrics on a separate port during the block; yields the URL.

    Port None serves nothing, port 0 selects a free one. Raises PortInUse, also for an invalid host.
    """
    if port is None:
        yield None
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, UnicodeError) as error:  # UnicodeError: an invalid host name
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} of {host}, for the metrics, is in use; choose another one") from error
        if isinstance(error, (socket.gaierror, UnicodeError)):
            raise PortInUse(
                f"AKIN_METRICS_HOST={host}: no address of this name is known; correct or unset it"
            ) from error
        raise PortInUse(
            f"the metrics cannot be served on {host} port {port}: {error.strerror}; "
            "see AKIN_METRICS_HOST and AKIN_METRICS_PORT"
        ) from error
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class BackgroundReading(Generic[T]):
    """Reads a value on demand, at most every few seconds, in a thread of its own.

    If the read hangs, only that thread does, not the scrape or the end of the process.
    """

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._started_at = 0.0
        self._value: T | None = None
        self._value_at: float | None = None

    def latest(self) -> T | None:
        """Return a value at most a few seconds old; None if it cannot be read at present."""
        with self._lock:
            is_stale = self._value_at is None or time.monotonic() - self._value_at > _FRESH_SECONDS
            if is_stale and self._thread is None:
                self._started_at = time.monotonic()
                self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
                self._thread.start()
            thread = self._thread
        if thread is not None:
            thread.join(max(0.0, self._started_at + _PATIENCE_SECONDS - time.monotonic()))
            if thread.is_alive():
                return None
        return self._value

    def _run(self) -> None:
        value = None
        try:
            value = self._read()
        except (ServiceError, OSError):
            pass  # the metric is missing, and those who need the value log the error
        finally:
            with self._lock:
                self._value, self._value_at, self._thread = value, time.monotonic(), None


class _Build(Collector):
    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("akin_build_info", "The version of Akin that runs; always 1.", labels=["version"])
        build.add_metric([version("akin")], 1)
        yield build
