"""Metrics of the whole installation, which every process exposes: operations, processes, database, disk."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.installation.installation import Installation
from service.installation.metrics import BackgroundReading
from service.installation.processes import KINDS as PROCESS_KINDS
from service.installation.processes import living_processes
from service.operations.kinds import KINDS as OPERATION_KINDS
from service.operations.records import count_operations
from service.storage.disk import DiskWatch
from service.storage.tables.operations import OPERATION_STATES


class InstallationMetrics(Collector):
    """Operations by kind and state, living processes, database availability, and free disk space."""

    def __init__(self, installation: Installation, disk: DiskWatch) -> None:
        self._counts = BackgroundReading(partial(_count, installation))
        self._disk = disk

    def collect(self) -> Iterator[Metric]:
        """Yield the current values; those that cannot be read at the moment are omitted."""
        counts, free_bytes = self._counts.latest(), self._disk.free_bytes
        yield GaugeMetricFamily("akin_database_up", "1 where the database answers.", value=counts is not None)
        operations = GaugeMetricFamily("akin_operations", "Jobs in the table of operations.", labels=["kind", "state"])
        processes = GaugeMetricFamily("akin_processes", "Living processes that share the database.", labels=["kind"])
        if counts is not None:
            # Zeros are exposed as well: an alert rule needs a series to compare with.
            for kind in OPERATION_KINDS:
                for state in OPERATION_STATES:
                    operations.add_metric([kind, state], counts.operations.get((kind, state), 0))
            for process_kind in PROCESS_KINDS:
                processes.add_metric([process_kind], counts.processes.get(process_kind, 0))
        yield from (operations, processes)
        free = GaugeMetricFamily("akin_disk_free_bytes", "Free space where the home folder lies.")
        if free_bytes is not None:
            free.add_metric([], free_bytes)
        yield free


@dataclass(frozen=True, slots=True)
class _Counts:
    operations: Mapping[tuple[str, str], int]
    processes: Mapping[str, int]


def _count(installation: Installation) -> _Counts:
    with installation.database.reading() as session:
        operations = count_operations(session)
        processes = Counter(process.kind for process in living_processes(session, None))
    return _Counts(operations, processes)
