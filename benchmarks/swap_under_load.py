"""Swap the active release repeatedly under load, and count failed or inconsistent responses.

    python benchmarks/swap_under_load.py [--clients 32] [--swaps 20] [--processes 2] [--json FILE]

Several `akin serve` processes share one home with releases of different models, whose product titles name their
release. Each response is checked: its status, that all titles belong to the release it names, and that the queried
image is found with a cosine of 1 (which the model of another release would not give). A request that starts after its
server reports the new release must be answered from that release. Prints latencies, errors, and the seconds from each
activation until all servers report the new release.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from embedding.checkpoint import load_embedder, save_checkpoint
from embedding.decoding import decode_image
from embedding.model import Architecture, create_model
from embedding.runtimes.options import NetworkOptions
from index.structures import IndexOptions
from service.catalogue.records import CatalogueContents, CatalogueImage
from service.installation.installation import Installation, open_installation
from service.installation.processes import API, list_processes
from service.installation.settings import Settings
from service.releases.files import write_release
from service.releases.records import activate_release, record_release
from service.serving.inference import run_in_own_thread
from service.storage.database import now
from service.storage.media import MediaName
from service.web.server import address_of, listen

KEY = "swap-under-load-0123456789"
K = 5
_START_SECONDS = 120.0
_CONVERGENCE_SECONDS = 120.0


@dataclass(slots=True)
class Figures:
    """The measurements of a run; times in seconds, latencies in milliseconds."""

    clients: int
    swaps: int
    processes: int
    poll_seconds: float
    dwell_seconds: float  # pause between two swaps
    requests: int = 0
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    latencies: dict[str, dict[str, float]] = field(default_factory=dict)  # "all", "while swapping", "otherwise"
    answers_by_release: dict[str, int] = field(default_factory=dict)
    convergence_seconds: list[float] = field(default_factory=list)
    load_seconds: list[float] = field(default_factory=list)
    exit_statuses: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """One search as observed by its client."""

    server: int
    started: float
    ended: float
    release_id: str


@dataclass(frozen=True, slots=True)
class Swap:
    """One activation: the times of the request, and of all servers reporting the release."""

    release_id: str
    requested: float
    converged: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--dwell-seconds", type=float, default=2.0, help="pause between two swaps")
    parser.add_argument("--num-products", type=int, default=200)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "home")
        checkpoints = default_checkpoints(Path(folder))
        figures = run(settings, checkpoints, arguments.num_products, arguments)
    report(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    if figures.errors or any(figures.exit_statuses):
        raise SystemExit(1)


def run(settings: Settings, checkpoints: Sequence[Path], num_products: int, arguments: argparse.Namespace) -> Figures:
    """Publish a release with each checkpoint, serve, search and swap; `arguments` are those of the command line."""
    queries = images(num_products)
    with open_installation(settings) as installation:
        release_ids = run_in_own_thread(lambda: publish_releases(installation, checkpoints, queries))
        with installation.database.transaction() as session:
            activate_release(session, release_ids[0])
        with served(settings, arguments.processes) as servers:
            figures = Figures(
                clients=arguments.clients,
                swaps=arguments.swaps,
                processes=arguments.processes,
                poll_seconds=settings.release_poll_seconds,
                dwell_seconds=arguments.dwell_seconds,
            )
            wait_until_served(installation, release_ids[0], arguments.processes)
            asyncio.run(load_and_swap(installation, servers, release_ids, queries, figures))
    figures.exit_statuses = servers.exit_statuses
    figures.load_seconds = servers.load_seconds()
    return figures


def default_checkpoints(folder: Path) -> list[Path]:
    """Save two models of realistic cost: the packaged network at two resolutions."""
    found = []
    for image_size in (224, 192):
        model, preprocessing = create_model(Architecture(), pretrained=True)
        found.append(folder / f"at-{image_size}")
        save_checkpoint(found[-1], model, replace(preprocessing, image_size=image_size))
    return found


def images(count: int) -> list[bytes]:
    """Return images that every model tells apart."""
    encoded = []
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        buffer = BytesIO()
        Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded


def publish_releases(installation: Installation, checkpoints: Sequence[Path], queries: Sequence[bytes]) -> list[str]:
    """Publish a release with each model; titles and product ids name their release."""
    settings = installation.settings
    release_ids = []
    for number, checkpoint in enumerate(checkpoints):
        release_id = f"release-{number}"
        embedder = load_embedder(checkpoint, NetworkOptions("cpu"))
        embeddings_ND = embedder.embed([decode_image(image) for image in queries])
        images = [
            CatalogueImage(
                f"{n:08d}", f"{n}-of-{release_id}", f"{n} of {release_id}", {}, MediaName(f"{n:064x}", "png")
            )
            for n in range(len(queries))
        ]
        facts = write_release(
            settings.releases_dir, release_id, checkpoint, CatalogueContents(0, images), embeddings_ND,
            IndexOptions(), created_at=now().isoformat(),
        )  # fmt: skip
        with installation.database.transaction() as session:
            record_release(session, facts)
        release_ids.append(release_id)
    return release_ids


@dataclass(slots=True)
class Servers:
    """Running `akin serve` processes with their URLs and logs."""

    addresses: list[str]
    logs: list[Path]
    exit_statuses: list[int] = field(default_factory=list)

    def load_seconds(self) -> list[float]:
        """Return the seconds of each release load of each server, without its first one."""
        found: list[float] = []
        for log in self.logs:
            events = [json.loads(line) for line in log.read_text().splitlines() if '"release_loaded"' in line]
            found += [event["seconds"] for event in events[1:]]
        return found


@contextlib.contextmanager
def served(settings: Settings, count: int) -> Iterator[Servers]:
    """Run `count` servers on one home; at the end each is terminated gracefully (SIGTERM)."""
    environment = {
        **os.environ,
        "AKIN_HOME": str(settings.home),
        "AKIN_ADMIN_KEY": KEY,
        "AKIN_RELEASE_POLL_SECONDS": str(settings.release_poll_seconds),
    }
    servers = Servers([], [])
    with contextlib.ExitStack() as stack:
        processes = []
        for number in range(count):
            with listen("127.0.0.1", 0) as free:
                servers.addresses.append(address_of(free))
                port = free.getsockname()[1]
            servers.logs.append(settings.home / f"server-{number}.log")
            log = stack.enter_context(servers.logs[-1].open("wb"))
            command = [sys.executable, "-m", "service.cli.main", "serve", "--port", str(port)]
            process = subprocess.Popen(command, env=environment, stderr=log, stdout=subprocess.DEVNULL)
            processes.append(process)
            stack.callback(process.kill)
        yield servers
        for process in processes:
            process.send_signal(signal.SIGTERM)
        servers.exit_statuses = [process.wait(timeout=60) for process in processes]


def is_served(installation: Installation, release_id: str, count: int) -> bool:
    """Tell whether all servers report that they serve a release."""
    with installation.database.reading() as session:
        living = [process for process in list_processes(session, kind=API) if process.stopped_at is None]
    return len(living) == count and all(process.release_id == release_id for process in living)


def wait_until_served(installation: Installation, release_id: str, count: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_served(installation, release_id, count):
        if time.monotonic() > deadline:
            raise SystemExit(f"the servers did not become ready within {_START_SECONDS:.0f} s")
        time.sleep(0.1)


async def load_and_swap(
    installation: Installation,
    servers: Servers,
    release_ids: Sequence[str],
    queries: Sequence[bytes],
    figures: Figures,
) -> None:
    """Search with all clients while releases are swapped; the results are added to `figures`."""
    answers: list[Answer] = []
    is_over = asyncio.Event()
    start = time.monotonic()
    searching = [
        asyncio.create_task(
            search_on(servers.addresses, number, release_ids, queries, answers, figures.errors, is_over)
        )
        for number in range(figures.clients)
    ]
    swaps = await swap(installation, servers, release_ids, figures)
    is_over.set()
    await asyncio.gather(*searching)
    figures.seconds = time.monotonic() - start
    figures.errors += stale_answers(answers, swaps)
    summarise(answers, swaps, figures)


async def search_on(
    addresses: Sequence[str],
    number: int,
    release_ids: Sequence[str],
    queries: Sequence[bytes],
    answers: list[Answer],
    errors: list[str],
    is_over: asyncio.Event,
) -> None:
    """Search one image after the other without a pause, and check each response."""
    server, n = number % len(addresses), number
    async with httpx.AsyncClient(base_url=addresses[server], timeout=60) as client:
        while not is_over.is_set():
            n += 1
            query = n % len(queries)
            started = time.monotonic()
            try:
                response = await client.post("/search", params={"k": K}, files={"image": queries[query]})
            except httpx.HTTPError as error:
                errors.append(repr(error))
                continue
            ended = time.monotonic()
            if response.status_code != 200:
                errors.append(f"{response.status_code}: {response.text[:200]}")
                continue
            body = response.json()
            if wrong := what_is_wrong(body, query, release_ids):
                errors.append(wrong)
            answers.append(Answer(server, started, ended, body["release_id"]))


def what_is_wrong(body: dict[str, object], query: int, release_ids: Sequence[str]) -> str | None:
    """Return what is wrong with a response, or None."""
    release_id, hits = body["release_id"], body["hits"]
    assert isinstance(hits, list)
    if release_id not in release_ids or len(hits) != K:
        return f"expected {K} hits of a known release, got {len(hits)} of {release_id}"
    if any(not hit["title"].endswith(f" of {release_id}") for hit in hits):
        return f"a response of {release_id} mixes releases: {[hit['title'] for hit in hits]}"
    if hits[0]["title"] != f"{query} of {release_id}" or hits[0]["score"] < 0.999:
        return f"image {query} was not found by the model of {release_id}: {hits[0]}"
    return None


async def swap(
    installation: Installation, servers: Servers, release_ids: Sequence[str], figures: Figures
) -> list[Swap]:
    """Activate one release after the other over HTTP, each after all servers report the previous one."""
    swaps: list[Swap] = []
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(headers=headers, timeout=60) as client:
        for number in range(1, figures.swaps + 1):
            await asyncio.sleep(figures.dwell_seconds)
            release_id = release_ids[number % len(release_ids)]
            requested = time.monotonic()
            address = servers.addresses[number % len(servers.addresses)]
            response = await client.post(f"{address}/v1/admin/releases/{release_id}:activate")
            if response.status_code != 200:
                figures.errors.append(f"activation: {response.status_code}: {response.text[:200]}")
                continue
            activated = time.monotonic()
            while not await asyncio.to_thread(is_served, installation, release_id, figures.processes):
                if time.monotonic() > activated + _CONVERGENCE_SECONDS:
                    figures.errors.append(
                        f"swap {number}: not all servers report {release_id} after {_CONVERGENCE_SECONDS:.0f} s"
                    )
                    return swaps
                await asyncio.sleep(0.02)
            swaps.append(Swap(release_id, requested, time.monotonic()))
            figures.convergence_seconds.append(round(swaps[-1].converged - activated, 3))
        await asyncio.sleep(figures.dwell_seconds)
    return swaps


def stale_answers(answers: Sequence[Answer], swaps: Sequence[Swap]) -> list[str]:
    """Return responses from an old release to requests that started after all servers reported the new one."""
    found = []
    for swapped, following in zip(swaps, [*swaps[1:], None], strict=True):
        until = following.requested if following else float("inf")
        for answer in answers:
            if (
                swapped.converged <= answer.started
                and answer.ended <= until
                and answer.release_id != swapped.release_id
            ):
                found.append(f"server {answer.server} answered from {answer.release_id} after {swapped.release_id}")
    return found


def summarise(answers: Sequence[Answer], swaps: Sequence[Swap], figures: Figures) -> None:
    # Classified by its start: otherwise slow searches would be more likely to count as overlapping a swap.
    swapping = [any(swapped.requested <= answer.started < swapped.converged for swapped in swaps) for answer in answers]
    chosen = {
        "all": [True] * len(answers),
        "while swapping": swapping,
        "otherwise": [not is_swapping for is_swapping in swapping],
    }
    for name, mask in chosen.items():
        times = sorted(
            answer.ended - answer.started for answer, is_chosen in zip(answers, mask, strict=True) if is_chosen
        )
        if times:
            figures.latencies[name] = {
                "requests": len(times),
                "p50_ms": round(1000 * statistics.median(times), 1),
                "p99_ms": round(1000 * times[int(0.99 * (len(times) - 1))], 1),
            }
    figures.requests = len(answers)
    for answer in answers:
        figures.answers_by_release[answer.release_id] = figures.answers_by_release.get(answer.release_id, 0) + 1


def report(figures: Figures) -> None:
    """Print the figures."""
    print(f"{figures.clients} clients, {figures.processes} servers, {len(figures.convergence_seconds)} swaps")
    print(f"requests        {figures.requests} in {figures.seconds:.1f} s, {len(figures.errors)} errors")
    for name, values in figures.latencies.items():
        latency = f"p50 {values['p50_ms']:.0f} ms, p99 {values['p99_ms']:.0f} ms"
        print(f"{name:15s} {values['requests']:6.0f} requests, {latency}")
    print(f"by release      {figures.answers_by_release}")
    for name, seconds in (("convergence", figures.convergence_seconds), ("loading", figures.load_seconds)):
        if seconds:
            print(f"{name:15s} median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s")
    print(f"exit status     {figures.exit_statuses}")
    for error in figures.errors[:10]:
        print(f"error           {error}")


if __name__ == "__main__":
    main()
