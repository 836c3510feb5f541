"""The table of the comparison, and its rows for `benchmarks.table`.

Ratios are medians over the rounds: the servers of one round were measured at about the same time.
"""

import statistics
from collections.abc import Callable, Sequence

from benchmarks.peers.comparison import CLIENTS, Measurement, Round
from benchmarks.table import Row

_GOAL = "> 1"
_HEADINGS = (
    "server", "p50 ms", "p95 ms", f"req/s, {CLIENTS}", f"p95 ms, {CLIENTS}", "CPU ms/req", "p50 / Akin", "Akin / req/s",
)  # fmt: skip


def format_table(measurements: Sequence[Measurement]) -> str:
    """Return one line per server; the first one is Akin, with which the others are compared."""
    akin = measurements[0]
    lines = [_HEADINGS]
    for measurement in measurements:
        latency, throughput = ratios(akin, measurement)
        alone = [seconds for measured in measurement.rounds for seconds in measured.alone.durations]
        busy = [seconds for measured in measurement.rounds for seconds in measured.busy.durations]
        cpu_seconds = sum(measured.server_cpu_seconds for measured in measurement.rounds)
        lines.append(
            (
                measurement.name,
                f"{1000 * statistics.median(alone):.1f}",
                f"{1000 * _p95(alone):.1f}",
                f"{len(busy) / sum(measured.busy.wall_seconds for measured in measurement.rounds):.1f}",
                f"{1000 * _p95(busy):.0f}",
                f"{1000 * cpu_seconds / sum(measured.num_requests for measured in measurement.rounds):.1f}",
                f"{latency:.2f}",
                f"{throughput:.2f}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def rows_of(measurements: Sequence[Measurement]) -> list[Row]:
    """Return two rows per peer; a ratio above 1 means that Akin is ahead."""
    akin, *peers = measurements
    rows = []
    for peer in peers:
        latency, throughput = ratios(akin, peer)
        rows.append(Row(f"/search p50, 1 client: {peer.name} / Akin", latency, _GOAL))
        rows.append(Row(f"requests/s, {CLIENTS} clients: Akin / {peer.name}", throughput, _GOAL))
    return rows


def ratios(akin: Measurement, peer: Measurement) -> tuple[float, float]:
    """Return the peer's p50 over Akin's, and Akin's throughput over the peer's."""

    def median_ratio(ratio: Callable[[Round, Round], float]) -> float:
        return statistics.median(ratio(ours, theirs) for ours, theirs in zip(akin.rounds, peer.rounds, strict=True))

    return (
        median_ratio(lambda ours, theirs: theirs.p50_ms / ours.p50_ms),
        median_ratio(lambda ours, theirs: ours.per_second / theirs.per_second),
    )


def generator_cpu_share(measurements: Sequence[Measurement]) -> float:
    """Return the load generator's CPU time as a share of that of the servers."""
    rounds = [measured for measurement in measurements for measured in measurement.rounds]
    generator = sum(measured.alone.cpu_seconds + measured.busy.cpu_seconds for measured in rounds)
    return generator / sum(measured.server_cpu_seconds for measured in rounds)


def _p95(durations: Sequence[float]) -> float:
    return sorted(durations)[int(0.95 * (len(durations) - 1))]
