"""A registry of metrics, the port it is served on, and readings that may hang, for every kind of process."""

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


# Scraped more often than this, the tables are not read again.
_FRESH_SECONDS = 5.0


# A scrape waits no longer for the database; Prometheus itself waits for ten seconds.
_PATIENCE_SECONDS = 2.0


def new_registry() -> CollectorRegistry:
    """Return a registry with what is known of any process: version, Python, memory, open files, processor time."""
    # Else each count has a second line with the time of its making, which nobody asks for.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library gives it no types
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(_Build())
    return registry


@contextmanager
def metrics_port(registry: CollectorRegistry, host: str, port: int | None) -> Iterator[str | None]:
    """Serve a registry at /metrics on a port of its own for as long as the block runs; gives its address.

    Nothing is served for the port None; 0 takes a free one. Raises PortInUse, also for a host that is none.
    """
    if port is None:
        yield None
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} of {host}, for the metrics, is in use; choose another") from error
        if isinstance(error, (socket.gaierror, UnicodeError)):
            raise PortInUse(
                f"AKIN_METRICS_HOST={host}: no address of this name is known here; correct it, or leave it out"
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
    """Looks at something when it is asked for, at most every few seconds, in a thread of its own.

    A database or a disk that hangs then holds up that one thread, and neither a scrape nor the end of the process.
    """

    def __init__(self, look: Callable[[], T]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._looking: threading.Thread | None = None
        self._begun_at = 0.0
        self._found: T | None = None
        self._found_at: float | None = None

    def latest(self) -> T | None:
        """Return what there was to see a few seconds ago at most; None while nothing can be seen."""
        with self._lock:
            is_stale = self._found_at is None or time.monotonic() - self._found_at > _FRESH_SECONDS
            if is_stale and self._looking is None:
                self._begun_at = time.monotonic()
                self._looking = threading.Thread(target=self._run, name="metrics", daemon=True)
                self._looking.start()
            looking = self._looking
        if looking is not None:
            looking.join(max(0.0, self._begun_at + _PATIENCE_SECONDS - time.monotonic()))
            if looking.is_alive():
                return None
        return self._found

    def _run(self) -> None:
        found = None
        try:
            found = self._look()
        except (ServiceError, OSError):
            pass  # said by the metric that is missing; the log has it from whoever needs the thing
        finally:
            with self._lock:
                self._found, self._found_at, self._looking = found, time.monotonic(), None


class _Build(Collector):
    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("akin_build_info", "The version of Akin that runs; always 1.", labels=["version"])
        build.add_metric([version("akin")], 1)
        yield build
