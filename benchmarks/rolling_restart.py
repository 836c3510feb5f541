"""Restart the servers behind the gateway one by one under load, and count failed requests.

    python -m benchmarks.rolling_restart [--clients 16] [--rounds 3] [--replicas 2] [--json FILE]

Runs nginx with the shipped configuration (deploy/nginx) in front of `akin serve` processes on one home. Each server in
turn is terminated (SIGTERM), started again on its port and awaited until it is ready. Meanwhile clients search without
a pause, and each response is checked: its status, and that the queried image is the first hit. One more client creates
keys, requests that the gateway must not retry. Prints requests, failures, latencies, the number of searches that the
gateway retried on a second server, exit statuses, and the seconds of each restart.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from benchmarks.gateway import KEY, Gateway, Replica, gateway_before, missing_programs, upstream_file
from benchmarks.swap_under_load import default_checkpoints, images, publish_releases
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.releases.records import activate_release
from service.serving.inference import run_in_own_thread

PREFIX = "/akin"
_WRITE_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Query:
    """An image, and the id of its product."""

    image: bytes
    product_id: str


@dataclass(frozen=True, slots=True)
class Restart:
    """The restart of one server, with times in seconds."""

    replica: int
    exit_status: int
    stop_seconds: float  # from the signal until the process ended
    start_seconds: float  # from the start until the server was ready


@dataclass(slots=True)
class Figures:
    """The measurements of a run."""

    clients: int
    replicas: int
    seconds: float = 0.0
    searches: int = 0
    writes: int = 0
    failures: list[str] = field(default_factory=list)
    retried: int = 0  # searches that the gateway sent to a second server
    restarts: list[Restart] = field(default_factory=list)
    latencies: dict[str, dict[str, float]] = field(default_factory=dict)  # "all", "while restarting", "otherwise"

    @property
    def exit_statuses(self) -> list[int]:
        """The exit status of each restart."""
        return [restart.exit_status for restart in self.restarts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="number of restarts of each server")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--dwell-seconds", type=float, default=3.0, help="pause between two restarts")
    parser.add_argument("--drain-seconds", type=float, default=1.0, help="AKIN_DRAIN_SECONDS of the servers")
    parser.add_argument("--num-products", type=int, default=200)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if missing := missing_programs():
        raise SystemExit(f"the gateway needs {missing}; install it")
    with tempfile.TemporaryDirectory() as folder:
        figures = _run_with_own_servers(Path(folder), arguments)
    report(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    if figures.failures or any(figures.exit_statuses):
        raise SystemExit(1)


def _run_with_own_servers(folder: Path, arguments: argparse.Namespace) -> Figures:
    encoded = images(arguments.num_products)
    settings = Settings(home=folder / "home")
    checkpoints = default_checkpoints(folder)[:1]
    with open_installation(settings) as installation:
        (release_id,) = run_in_own_thread(lambda: publish_releases(installation, checkpoints, encoded))
        with installation.database.transaction() as session:
            activate_release(session, release_id)
    queries = [Query(image, f"{number}-of-{release_id}") for number, image in enumerate(encoded)]
    environment = {"AKIN_ROOT_PATH": PREFIX, "AKIN_DRAIN_SECONDS": str(arguments.drain_seconds)}
    with contextlib.ExitStack() as stack:
        replicas = []
        for number in range(arguments.replicas):
            replicas.append(Replica(settings.home, folder / f"server-{number}.log", **environment))
            stack.callback(replicas[-1].kill)
        for replica in replicas:
            replica.wait_until_ready()
        upstream = upstream_file([replica.port for replica in replicas])
        gateway = stack.enter_context(gateway_before(upstream, AKIN_ROOT_PATH=PREFIX))
        return run(gateway, replicas, queries, arguments.clients, arguments.rounds, arguments.dwell_seconds)


def run(
    gateway: Gateway,
    replicas: Sequence[Replica],
    queries: Sequence[Query],
    clients: int,
    rounds: int,
    dwell_seconds: float,
    pause_seconds: float = 0.0,
) -> Figures:
    """Restart each server `rounds` times under load, `dwell_seconds` apart; clients pause between searches."""
    figures = Figures(clients, len(replicas))
    num_lines = len(gateway.lines())
    asyncio.run(_load_and_restart(gateway, replicas, queries, rounds, dwell_seconds, pause_seconds, figures))
    lines = [line for line in gateway.lines()[num_lines:] if str(line["path"]).endswith("/search")]
    figures.retried = sum("," in str(line["upstream_status"]) for line in lines)
    return figures


async def _load_and_restart(
    gateway: Gateway,
    replicas: Sequence[Replica],
    queries: Sequence[Query],
    rounds: int,
    dwell_seconds: float,
    pause_seconds: float,
    figures: Figures,
) -> None:
    is_over = asyncio.Event()
    searches: list[tuple[float, float]] = []
    restarting: list[tuple[float, float]] = []
    base = gateway.address + PREFIX
    began = time.monotonic()
    load = [
        asyncio.create_task(search_until(is_over, base, number, queries, searches, figures.failures, pause_seconds))
        for number in range(figures.clients)
    ]
    load.append(asyncio.create_task(write_until(is_over, base, figures)))
    for _ in range(rounds):
        for number, replica in enumerate(replicas):
            await asyncio.sleep(dwell_seconds)
            started = time.monotonic()
            figures.restarts.append(await asyncio.to_thread(_restart, number, replica))
            restarting.append((started, time.monotonic()))
    await asyncio.sleep(dwell_seconds)
    is_over.set()
    await asyncio.gather(*load)
    figures.seconds = time.monotonic() - began
    figures.searches = len(searches)
    _summarise(searches, restarting, figures)


def _restart(number: int, replica: Replica) -> Restart:
    started = time.monotonic()
    exit_status = replica.stop()
    stopped = time.monotonic()
    replica.start_again()
    return Restart(number, exit_status, round(stopped - started, 2), round(time.monotonic() - stopped, 2))


async def search_until(
    is_over: asyncio.Event,
    base: str,
    number: int,
    queries: Sequence[Query],
    searches: list[tuple[float, float]],
    failures: list[str],
    pause_seconds: float = 0.0,
) -> None:
    """Search one image after the other and check each response; append its start and end to `searches`."""
    async with httpx.AsyncClient(base_url=base, timeout=60, verify=False) as client:
        while not is_over.is_set():
            number += 1
            query = queries[number % len(queries)]
            started = time.monotonic()
            try:
                response = await client.post("/search", params={"k": 5}, files={"image": query.image})
            except httpx.HTTPError as error:
                failures.append(f"search: {error!r}")
                continue
            searches.append((started, time.monotonic()))
            if response.status_code != 200:
                failures.append(f"search: {response.status_code}: {response.text[:300]}")
            elif (found := response.json()["hits"][0]["product_id"]) != query.product_id:
                failures.append(f"search: expected {query.product_id} as the first hit, got {found}")
            if pause_seconds:
                await asyncio.sleep(pause_seconds)


async def write_until(is_over: asyncio.Event, base: str, figures: Figures) -> None:
    """Create keys one after the other; a conflict of names would reveal a request that was sent twice."""
    async with httpx.AsyncClient(base_url=base, timeout=60, verify=False, headers={"X-API-Key": KEY}) as client:
        while not is_over.is_set():
            name = f"rolling-{time.monotonic_ns()}"
            try:
                response = await client.post("/v1/admin/keys", json={"name": name, "scopes": ["search"]})
            except httpx.HTTPError as error:
                figures.failures.append(f"write: {error!r}")
                continue
            figures.writes += 1
            if response.status_code != 201:
                figures.failures.append(f"write: {response.status_code}: {response.text[:300]}")
            await asyncio.sleep(_WRITE_PAUSE_SECONDS)


def _summarise(
    searches: Sequence[tuple[float, float]], restarting: Sequence[tuple[float, float]], figures: Figures
) -> None:
    # Classified by its start: otherwise slow searches would be more likely to count as overlapping a restart.
    during = [any(began <= started < ended for began, ended in restarting) for started, _ in searches]
    chosen = {
        "all": [True] * len(searches),
        "while restarting": during,
        "otherwise": [not is_during for is_during in during],
    }
    for name, mask in chosen.items():
        times = sorted(ended - started for (started, ended), is_chosen in zip(searches, mask, strict=True) if is_chosen)
        if times:
            figures.latencies[name] = {
                "searches": len(times),
                "p50_ms": round(1000 * statistics.median(times), 1),
                "p99_ms": round(1000 * times[int(0.99 * (len(times) - 1))], 1),
                "longest_ms": round(1000 * times[-1], 1),
            }


def report(figures: Figures) -> None:
    """Print the figures."""
    print(f"{figures.clients} clients, {figures.replicas} servers, {len(figures.restarts)} restarts")
    print(f"searches          {figures.searches} in {figures.seconds:.1f} s, {figures.retried} retried by the gateway")
    print(f"writes            {figures.writes}")
    print(f"failures          {len(figures.failures)}")
    for name, values in figures.latencies.items():
        print(
            f"{name:17s} {values['searches']:6.0f} searches, p50 {values['p50_ms']:.0f} ms, "
            f"p99 {values['p99_ms']:.0f} ms, longest {values['longest_ms']:.0f} ms"
        )
    for restart in figures.restarts:
        seconds = f"ended in {restart.stop_seconds:.1f} s, ready after {restart.start_seconds:.1f} s more"
        print(f"restart of {restart.replica}      exit status {restart.exit_status}, {seconds}")
    for failure in figures.failures[:10]:
        print(f"failure           {failure}")


if __name__ == "__main__":
    main()
