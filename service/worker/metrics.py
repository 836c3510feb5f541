"""Metrics of a worker: its steps, whether it is up, and the operations of the installation."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from embedding.stages import STAGES, StageReport
from service.installation.installation import Installation
from service.installation.metrics import new_registry
from service.operations.metrics import InstallationMetrics
from service.storage.disk import DiskWatch

# From a step that only reads a row to a training run of hours.
_STEP_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
# A worker makes a round every few seconds, whatever it works on.
_SILENT_SECONDS = 30.0


class WorkerMetrics:
    """Counts and durations of one worker's steps, in a registry of its own."""

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
        self._stage_images = Counter(
            "akin_embedding_stage_images", "Images that left a stage of bulk embedding.", ["stage"],
            registry=self.registry,
        )  # fmt: skip
        self._stage_seconds = Counter(
            "akin_embedding_stage_busy_seconds",
            "Seconds that a stage of bulk embedding was busy, the mean over its threads.",
            ["stage"],
            registry=self.registry,
        )
        for stage in STAGES:
            # Exposed from the start: a rate needs a first value.
            self._stage_images.labels(stage)
            self._stage_seconds.labels(stage)
        self._rounds = _Rounds()
        self.registry.register(self._rounds)

    def record_step(self, step: str, outcome: str, seconds: float) -> None:
        """Record a step: its outcome is done, rejected, failed or cancelled."""
        self._steps.labels(step, outcome).inc()
        self._step_seconds.labels(step).observe(seconds)

    def record_stages(self, stages: StageReport) -> None:
        """Add what the stages of bulk embedding did."""
        for stage in STAGES:
            self._stage_images.labels(stage).inc(stages[stage].num_images)
            self._stage_seconds.labels(stage).inc(stages[stage].busy_seconds)

    def note_round(self) -> None:
        """Record that the worker runs and reaches the database."""
        self._rounds.last_at = time.monotonic()

    @contextmanager
    def observing(self, installation: Installation) -> Iterator[None]:
        """Expose the metrics of the installation as well, for the block."""
        settings = installation.settings
        with closing(DiskWatch(settings.home, min_free_bytes=settings.min_free_bytes)) as disk:
            collector = InstallationMetrics(installation, disk)
            self.registry.register(collector)
            try:
                yield
            finally:
                self.registry.unregister(collector)


class _Rounds(Collector):
    def __init__(self) -> None:
        self.last_at: float | None = None

    def collect(self) -> Iterator[Metric]:
        is_up = self.last_at is not None and time.monotonic() - self.last_at < _SILENT_SECONDS
        yield GaugeMetricFamily("akin_worker_up", "1 while the worker polls for work, idle or busy.", value=is_up)
