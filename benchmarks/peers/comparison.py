"""Whether two servers give the same answer, and the measurement of all of them in interleaved rounds."""

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.contenders import ROOT, Contender
from benchmarks.peers.load import Load, connect, multipart_body, post, read_images

SCORE_TOLERANCE = 1e-3
CLIENTS = 16
_WARMING_REQUESTS = CLIENTS
# BentoML plans batches by the last 50 of them.
_ADAPTING_REQUESTS = 64
_LOAD_SECONDS = 300

Hits = list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Round:
    """What one server did in one round."""

    alone: Load
    busy: Load
    server_cpu_seconds: float

    @property
    def p50_ms(self) -> float:
        """The median latency with one client."""
        return 1000 * statistics.median(self.alone.durations)

    @property
    def per_second(self) -> float:
        """The throughput with all clients."""
        return len(self.busy.durations) / self.busy.wall_seconds

    @property
    def num_requests(self) -> int:
        """The requests of both loads."""
        return len(self.alone.durations) + len(self.busy.durations)


@dataclass(frozen=True, slots=True)
class Measurement:
    """All rounds of one server."""

    name: str
    versions: str
    rounds: list[Round]


def find_hits(contender: Contender, images: Sequence[bytes]) -> list[Hits]:
    """Return the product ids and scores that a server finds for each image."""
    with contextlib.closing(connect(contender.server.port)) as connection:
        return [
            hits_of(post(connection, "/search", multipart_body(contender.field, image_bytes))) for image_bytes in images
        ]


def hits_of(response: Any) -> Hits:  # decoded JSON
    """Read the hits of a response; BentoML returns one list per image."""
    hits = response["hits"] if isinstance(response, dict) else response[0]
    return [(hit["product_id"], hit["score"]) for hit in hits]


def difference(expected: Hits, found: Hits, tolerance: float = SCORE_TOLERANCE) -> str | None:
    """Describe how two rankings differ; None if ids are equal and scores are within the tolerance.

    Products whose expected scores are closer than the tolerance may change places, also with one beyond the last hit.
    """
    if len(expected) != len(found):
        return f"{len(found)} hits instead of {len(expected)}"
    scores = dict(expected)
    for rank, ((_, expected_score), (product_id, score)) in enumerate(zip(expected, found, strict=True), start=1):
        if abs(score - expected_score) > tolerance:
            return f"hit {rank} has score {score:.5f} instead of {expected_score:.5f}"
        # A product that is not expected can only have displaced one that scores about as much as the last.
        own_score = scores.get(product_id, expected[-1][1])
        if abs(score - own_score) > tolerance:
            return f"hit {rank} is {product_id} with score {score:.5f}, whose expected score is {own_score:.5f}"
    return None


def require_same_hits(contenders: Sequence[Contender], queries: Path) -> None:
    """Raise SystemExit unless all servers find what the first one finds."""
    images = read_images(queries)
    first, *others = contenders
    expected = find_hits(first, images)
    for other in others:
        for number, pair in enumerate(zip(expected, find_hits(other, images), strict=True)):
            if reason := difference(*pair):
                raise SystemExit(f"{other.name} differs from {first.name} for image {number}: {reason}")


def measure(
    contenders: Sequence[Contender], queries: Path, *, rounds: int, alone_requests: int, busy_requests: int
) -> list[Measurement]:
    """Measure all servers with one client, then all with many; servers that are not measured are suspended.

    The two loads do not alternate, since servers that adapt their batches to the load would adapt to the other one.
    """
    for contender in contenders:
        contender.server.suspend()
    alone = _measure_load(contenders, queries, 1, alone_requests, rounds)
    busy = _measure_load(contenders, queries, CLIENTS, busy_requests, rounds)
    return [
        Measurement(
            contender.name,
            contender.versions,
            [
                Round(alone_load, busy_load, alone_cpu_seconds + busy_cpu_seconds)
                for (alone_load, alone_cpu_seconds), (busy_load, busy_cpu_seconds) in zip(
                    alone[contender.name], busy[contender.name], strict=True
                )
            ],
        )
        for contender in contenders
    ]


def _measure_load(
    contenders: Sequence[Contender], queries: Path, clients: int, requests: int, rounds: int
) -> dict[str, list[tuple[Load, float]]]:
    """Return the load and the server's CPU time of each round by the server's name; the order rotates."""
    measured: dict[str, list[tuple[Load, float]]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        shift = number % len(contenders)
        for contender in (*contenders[shift:], *contenders[:shift]):
            server = contender.server
            server.resume()
            # At first batching adapts to the load; later only the caches of a suspended server are cold.
            _run_load(contender, queries, clients, _WARMING_REQUESTS if number else _ADAPTING_REQUESTS)
            cpu_seconds = server.cpu_seconds()
            load = _run_load(contender, queries, clients, requests)
            measured[contender.name].append((load, server.cpu_seconds() - cpu_seconds))
            server.suspend()
            print(
                f"round {number + 1} of {rounds}, clients: {clients}, {contender.name}: "
                f"p50 {1000 * statistics.median(load.durations):.1f} ms, "
                f"{len(load.durations) / load.wall_seconds:.1f} requests/s",
                file=sys.stderr,
                flush=True,
            )
    return measured


def _run_load(contender: Contender, queries: Path, clients: int, requests: int) -> Load:
    command = [
        sys.executable, "-m", "benchmarks.peers.load", "--port", str(contender.server.port),
        "--field", contender.field, "--images", str(queries), "--clients", str(clients), "--requests", str(requests),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_LOAD_SECONDS)
    if done.returncode:
        raise SystemExit(f"the load on {contender.name} failed:\n{done.stderr}\n{contender.server.log_tail()}")
    return Load(**json.loads(done.stdout))
