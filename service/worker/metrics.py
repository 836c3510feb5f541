"""What a worker tells Prometheus: the steps that it did, whether it gets on, and the jobs of the installation."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.installation.installation import Installation
from service.installation.metrics import new_registry
from service.operations.metrics import InstallationMetrics
from service.storage.disk import DiskWatch

# From a step that only looks to a training run of hours.
_STEP_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
# A worker makes its round every few seconds, whatever it works on.
_SILENT_SECONDS = 30.0


class WorkerMetrics:
    """Counts and measures what one worker does, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self._steps = Counter(
            "akin_operation_steps", "Steps of jobs that this worker did.", ["step", "outcome"], registry=self.registry
        )
        self._step_seconds = Histogram(
            "akin_operation_step_seconds",
            "Seconds that a step took.",
            ["step"],
            buckets=_STEP_BUCKETS,
            registry=self.registry,
        )
        self._worker = _Worker()
        self.registry.register(self._worker)

    def record_step(self, step: str, outcome: str, seconds: float) -> None:
        """Note a step that was done, rejected, failed or cancelled, and how long it took."""
        self._steps.labels(step, outcome).inc()
        self._step_seconds.labels(step).observe(seconds)

    def note_round(self) -> None:
        """Note that the worker lives and reaches the database."""
        self._worker.round_at = time.monotonic()

    @contextmanager
    def telling_of(self, installation: Installation) -> Iterator[None]:
        """Tell of the installation's jobs for as long as the block runs."""
        settings = installation.settings
        with closing(DiskWatch(settings.home, min_free_bytes=settings.min_free_bytes)) as disk:
            collector = InstallationMetrics(installation, disk)
            self.registry.register(collector)
            try:
                yield
            finally:
                self.registry.unregister(collector)


class _Worker(Collector):
    def __init__(self) -> None:
        self.round_at: float | None = None

    def collect(self) -> Iterator[Metric]:
        is_up = self.round_at is not None and time.monotonic() - self.round_at < _SILENT_SECONDS
        yield GaugeMetricFamily("akin_worker_up", "1 while the worker makes its rounds, at work or not.", value=is_up)
