"""Prometheus metrics of one server: its searches, its requests and its state.

Each application has its own registry, so two applications in one process do not share metrics.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.installation.installation import Installation
from service.installation.metrics import new_registry
from service.operations.metrics import InstallationMetrics
from service.serving.engine import LiveEngine, Timing
from service.serving.inference import RunFacts
from service.storage.disk import DiskWatch
from service.web.admission import Admission
from service.web.readiness import ProcessState

_STAGES = ("decode", "wait", "embed", "search", "group")
_STAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RUN_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
# Uploads may take minutes.
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
# Clients may send any word as a method; all others share one label.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER_METHOD = "other"


class ServerMetrics:
    """Counters and histograms of a server, and gauges that are read from its parts at each scrape."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self._scraper: ThreadPoolExecutor | None = None
        self._stage_seconds = Histogram(
            "akin_search_stage_seconds",
            "Seconds that each stage of a successful search took.",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        self._requests = Counter(
            "akin_http_requests", "Completed requests.", ["method", "route", "status"], registry=self.registry
        )
        self._request_seconds = Histogram(
            "akin_http_request_seconds",
            "Seconds from the head of a request to the end of its response.",
            ["route"],
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._run_images = Histogram(
            "akin_network_run_images",
            "Images that each run of the network embedded together, for searches.",
            buckets=_RUN_BUCKETS,
            registry=self.registry,
        )
        self._held_seconds = Counter(
            "akin_network_held_seconds",
            "Seconds for which runs of the network waited for images that were being decoded.",
            registry=self.registry,
        )

        for stage in _STAGES:
            self._stage_seconds.labels(stage)  # creates the series at 0

    def record_search(self, timing: Timing) -> None:
        """Record the durations of the stages of a search."""
        seconds = (
            timing.decode_seconds,
            timing.wait_seconds,
            timing.embed_seconds,
            timing.search_seconds,
            timing.group_seconds,
        )
        for stage, spent in zip(_STAGES, seconds, strict=True):
            self._stage_seconds.labels(stage).observe(spent)

    def record_run(self, run: RunFacts) -> None:
        """Record a run of the network; any thread may call this."""
        self._run_images.observe(run.num_images)
        self._held_seconds.inc(run.held_seconds)

    def record_request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Record a request; `route` is the path template of its route, never the path."""
        known = method if method in _METHODS else _OTHER_METHOD
        self._requests.labels(known, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that the header `Accept` selects, and its content type."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # its version is not a number
            encode, content_type = choose_encoder("")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._scraper, encode, self.registry), content_type

    @contextmanager
    def observing(
        self,
        installation: Installation,
        disk: DiskWatch,
        live: LiveEngine,
        admission: Admission,
        process_state: ProcessState,
    ) -> Iterator[None]:
        """Expose the state of these parts until the block ends."""
        collectors = (InstallationMetrics(installation, disk), _ServerState(live, admission, process_state))
        for collector in collectors:
            self.registry.register(collector)
        try:
            # A thread of its own, so that a scrape does not wait for routes that wait for the database.
            with ThreadPoolExecutor(1, thread_name_prefix="scrape") as self._scraper:
                yield
        finally:
            for collector in collectors:
                self.registry.unregister(collector)


@dataclass(frozen=True, slots=True, eq=False)
class _ServerState(Collector):
    """Reads the state of the server's parts at each scrape."""

    live: LiveEngine
    admission: Admission
    process_state: ProcessState

    def collect(self) -> Iterator[Metric]:
        release = GaugeMetricFamily("akin_active_release_info", "The release in use; always 1.", labels=["release_id"])
        if self.live.release_id is not None:
            release.add_metric([self.live.release_id], 1)
        yield release
        yield GaugeMetricFamily(
            "akin_release_refused",
            "1 while the active release cannot be loaded and the previous one is in use.",
            value=self.live.refusal is not None,
        )
        runtime = GaugeMetricFamily(
            "akin_network_runtime_info", "The library that runs the network; always 1.", labels=["runtime"]
        )
        if (served := self.live.current_release()) is not None:
            runtime.add_metric([served.embedder.runtime], 1)
        yield runtime
        yield GaugeMetricFamily(
            "akin_network_up",
            "1 while the network answers its regular checks.",
            value=self.process_state.network.problem() is None,
        )
        engine = self.live.current()
        yield GaugeMetricFamily(
            "akin_network_best_images",
            "The most images that a run of the network embeds together; 0 without a release.",
            value=0 if engine is None else engine.costs.best,
        )
        yield CounterMetricFamily(
            "akin_network_checks_failed",
            "Regular checks in which the network failed.",
            value=self.process_state.network.num_failed_checks,
        )
        yield GaugeMetricFamily(
            "akin_index_fallback",
            "1 while the index is on the CPU because it does not fit on the GPU.",
            value=self.live.index_fallback is not None,
        )
        yield GaugeMetricFamily(
            "akin_searches_in_progress", "Searches that hold a slot.", value=self.admission.num_in_progress
        )
        yield GaugeMetricFamily(
            "akin_search_bodies_arriving",
            "Bodies of searches that are arriving.",
            value=self.admission.arrivals.num_bodies,
        )
        yield GaugeMetricFamily("akin_searches_limit", "Slots for searches.", value=self.admission.limit)
        yield CounterMetricFamily(
            "akin_searches_refused",
            "Searches that were refused because all slots were in use.",
            value=self.admission.num_refused,
        )
        yield GaugeMetricFamily(
            "akin_draining", "1 after the signal to shut down.", value=self.process_state.is_draining
        )
