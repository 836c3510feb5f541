"""Switch between two releases of a million rows, and measure how long the event loop stands still meanwhile.

    python -m benchmarks.swap_at_size [--rows 1000000] [--structure exact|ivf] [--swaps 6] [--json FILE]

Makes two releases of synthetic embeddings (128 dimensions, four images a product), which takes about a minute each
('ivf': two). Then the parts of a server run in one process of their own: the watcher, which verifies, loads and swaps,
and clients that search one after another. A task that wants to run every millisecond measures the stalls of the event
loop. Prints the longest stall while a release is loaded and swapped, and otherwise; the seconds of a swap; the memory
(the proportional set size, and its part that is not mapped from files) before, at the peak and after; and the time of
searches for up to 10,000 products.
"""

import argparse
import asyncio
import gc
import itertools
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from embedding.checkpoint import save_checkpoint
from embedding.model import Architecture, create_model
from index.structures import IndexOptions, StructureChoice
from service.catalogue.records import CatalogueContents, CatalogueImage
from service.installation.installation import Installation, open_installation
from service.installation.pools import ThreadPools, run_in
from service.installation.settings import Settings
from service.releases.files import write_release
from service.releases.records import activate_release, record_release
from service.serving.database_state import DatabaseState
from service.serving.engine import LiveEngine
from service.serving.following import following_releases
from service.serving.network_check import NetworkState
from service.storage.database import now
from service.storage.media import MediaName
from service.web.schemas.search import encode_response

EMBEDDING_DIM = 128
IMAGES_PER_PRODUCT = 4
WANTED = (10, 100, 1000, 10_000)
_TICK_SECONDS = 0.001


@dataclass(slots=True)
class Figures:
    """The measurements of a run; stalls and latencies in milliseconds, memory in MiB."""

    rows: int
    structure: str
    swap_seconds: list[float] = field(default_factory=list)
    stalls: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # the longest of each swap
    memory: dict[str, dict[str, float]] = field(default_factory=dict)  # steady, peak, after -> pss, private
    search_milliseconds: dict[int, float] = field(default_factory=dict)  # median by k
    encode_milliseconds: dict[int, float] = field(default_factory=dict)
    searches_while_swapping: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--structure", choices=["exact", "ivf"], default="exact")
    parser.add_argument("--swaps", type=int, default=6)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "home", release_poll_seconds=0.5, device="cpu", index_device="cpu")
        # Processes of their own: what building needed is not in the memory that is measured.
        in_own_process(publish_releases, settings, arguments.rows, arguments.structure)
        figures = in_own_process(measure, settings, arguments.rows, arguments.structure, arguments.swaps)
    assert isinstance(figures, Figures)
    report(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(figures), indent=2) + "\n")


def in_own_process(function: object, *arguments: object) -> object:
    """Call a function of this module in a fresh process, and return its result."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)  # type: ignore[arg-type]  # mypy wants the types of the arguments


def publish_releases(settings: Settings, num_rows: int, structure: StructureChoice) -> None:
    """Publish the releases `release-0` and `release-1`, with different embeddings."""
    torch.manual_seed(0)
    architecture = Architecture("conv4", head="linear", embedding_dim=EMBEDDING_DIM)
    model, preprocessing = create_model(architecture, pretrained=False)
    checkpoint = settings.home / "checkpoint"
    save_checkpoint(checkpoint, model, preprocessing)
    for number in range(2):
        started = time.monotonic()
        catalogue = CatalogueContents(0, [image_of(row, number) for row in range(num_rows)])
        facts = write_release(
            settings.releases_dir, f"release-{number}", checkpoint, catalogue, embeddings(num_rows, seed=number),
            IndexOptions(structure=structure, device="cpu"), created_at=now().isoformat(),
        )  # fmt: skip
        with open_installation(settings) as installation, installation.database.transaction() as session:
            record_release(session, facts)
        print(f"release-{number}: {time.monotonic() - started:.0f} s", flush=True)


def image_of(row: int, seed: int) -> CatalogueImage:
    """Return a catalogue image with a name of its own."""
    product = row // IMAGES_PER_PRODUCT
    digest = (2 * row + seed + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC8341082276BF3A27251F86C6A11D0C18E95 % 2**256
    attributes = {"colour": "red", "price": row % 100}
    return CatalogueImage(
        f"{row:016x}", f"product-{product}", f"Product {product}", attributes, MediaName(f"{digest:064x}", "jpg")
    )


def embeddings(num_rows: int, *, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return unit vectors around 2,000 centres."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((2000, EMBEDDING_DIM), np.float32)
    rows = generator.standard_normal((num_rows, EMBEDDING_DIM), np.float32)
    rows *= 0.7
    rows += centres[generator.integers(0, len(centres), num_rows)]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def measure(settings: Settings, num_rows: int, structure: str, num_swaps: int) -> Figures:
    """Run the parts of a server in this process, and swap back and forth."""
    figures = Figures(num_rows, structure)
    gc.freeze()  # as `akin serve` does
    with (
        open_installation(settings) as installation,
        ThreadPools(decode_workers=settings.decode_workers, search_workers=settings.search_workers) as pools,
    ):
        asyncio.run(swap(installation, pools, figures, num_swaps))
    return figures


async def swap(installation: Installation, pools: ThreadPools, figures: Figures, num_swaps: int) -> None:
    """Swap with and without a client that searches, and then measure searches alone."""
    live, memory, stalls = LiveEngine(), Memory(), Stalls()
    states = {"database_state": DatabaseState(), "network_state": NetworkState()}
    query = image_bytes()
    async with following_releases(installation, live, pools, **states):  # type: ignore[arg-type]
        activate(installation, "release-0")
        await served(live, "release-0")
        for _ in range(20):
            await search(live, pools, query, 1000)
        figures.memory["steady"] = memory.now()
        ticking = asyncio.create_task(stalls.tick())
        kinds = itertools.cycle(("memory", "with searches", "without searches"))
        for number, kind in zip(range(num_swaps), kinds, strict=False):
            # Reading the size of the memory stops page faults, so stalls are measured in other swaps.
            watching = memory.watched() if kind == "memory" else nullcontext()
            searching = asyncio.create_task(
                search_without_pause(live, pools, query, figures, is_idle=kind == "without searches")
            )
            stalls.take()
            with watching:
                started = time.perf_counter()
                release_id = f"release-{(number + 1) % 2}"
                activate(installation, release_id)
                await served(live, release_id)
                figures.swap_seconds.append(time.perf_counter() - started)
                await asyncio.sleep(1.0)  # the previous release is freed
            figures.stalls.setdefault(kind, []).append(stalls.take())
            searching.cancel()
            await asyncio.wait({searching})
        figures.memory["peak"] = memory.peak
        figures.memory["after"] = memory.now()
        stalls.take()
        for number in range(50):
            await search(live, pools, query, 10_000 if number % 10 == 0 else 10)
        figures.stalls["no swap, with searches"] = [stalls.take()]
        await asyncio.sleep(10)
        figures.stalls["no swap, without searches"] = [stalls.take()]
        ticking.cancel()
        await asyncio.wait({ticking})
        await time_searches(live, pools, query, figures)


def activate(installation: Installation, release_id: str) -> None:
    with installation.database.transaction() as session:
        activate_release(session, release_id)


async def served(live: LiveEngine, release_id: str) -> None:
    """Wait until a release is served."""
    while live.release_id != release_id:
        await asyncio.sleep(0.01)


async def search(live: LiveEngine, pools: ThreadPools, query: bytes, k: int) -> tuple[float, float]:
    """Search as the route does; return the seconds of the search, and those of encoding its response."""
    started = time.perf_counter()
    result = await live.get().search(query, k, None)
    found = time.perf_counter()
    await run_in(pools.responses, encode_response, result, "/media")
    return found - started, time.perf_counter() - found


async def search_without_pause(
    live: LiveEngine, pools: ThreadPools, query: bytes, figures: Figures, *, is_idle: bool
) -> None:
    for number in itertools.count():
        if is_idle:
            await asyncio.sleep(1)
        else:
            await search(live, pools, query, 10_000 if number % 10 == 0 else 10)
            figures.searches_while_swapping += 1


async def time_searches(live: LiveEngine, pools: ThreadPools, query: bytes, figures: Figures) -> None:
    for k in WANTED:
        pairs = [await search(live, pools, query, k) for _ in range(11)]
        figures.search_milliseconds[k] = 1000 * statistics.median(seconds for seconds, _ in pairs)
        figures.encode_milliseconds[k] = 1000 * statistics.median(seconds for _, seconds in pairs)


def image_bytes() -> bytes:
    """Return an encoded image of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


class Stalls:
    """The longest time that the event loop did not run a due task, and the longest that one callback computed.

    The first includes the time in which other processes had the cores, and other threads the interpreter lock.
    """

    def __init__(self) -> None:
        self._longest = 0.0
        self._longest_callback = 0.0
        run_handle = asyncio.Handle._run

        def run_and_measure(handle: asyncio.Handle) -> None:
            started = time.thread_time()
            run_handle(handle)
            self._longest_callback = max(self._longest_callback, time.thread_time() - started)

        asyncio.Handle._run = run_and_measure  # type: ignore[method-assign, assignment]  # of this process

    async def tick(self) -> None:
        """Measure until cancelled."""
        while True:
            started = time.perf_counter()
            await asyncio.sleep(_TICK_SECONDS)
            self._longest = max(self._longest, time.perf_counter() - started - _TICK_SECONDS)

    def take(self) -> tuple[float, float]:
        """Return both since the last call, in milliseconds."""
        taken = 1000 * self._longest, 1000 * self._longest_callback
        self._longest = self._longest_callback = 0.0
        return taken


class Memory:
    """The memory of this process in MiB."""

    def __init__(self) -> None:
        self.peak = {"pss": 0.0, "private": 0.0}

    def now(self) -> dict[str, float]:
        """Return the proportional set size, and the anonymous part of it, which is not mapped from files."""
        values = dict(
            line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if ":" in line
        )
        return {"pss": int(values["Pss"].split()[0]) / 1024, "private": int(values["Anonymous"].split()[0]) / 1024}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note the peak until the block ends, ten times a second in a thread: reading it stops nothing else."""
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(0.1):
                self.peak = {name: max(value, self.peak[name]) for name, value in self.now().items()}

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def report(figures: Figures) -> None:
    print(f"\n{figures.rows:,} rows x {EMBEDDING_DIM}, structure {figures.structure}")
    print(f"seconds per swap: {', '.join(f'{seconds:.1f}' for seconds in figures.swap_seconds)}")
    for kind, stalls in figures.stalls.items():
        shown = ", ".join(f"{stall:.1f} ({callback:.1f})" for stall, callback in stalls)
        print(f"longest stall (and CPU time of one callback) in ms, {kind}: {shown}")
    print(f"searches while swapping: {figures.searches_while_swapping}")
    steady, peak = figures.memory["steady"], figures.memory["peak"]
    for name in ("pss", "private"):
        print(
            f"{name}: steady {steady[name]:.0f} MiB, peak {peak[name]:.0f} MiB (x {peak[name] / steady[name]:.2f}), "
            f"after {figures.memory['after'][name]:.0f} MiB"
        )
    for k in figures.search_milliseconds:
        search_ms, encode_ms = figures.search_milliseconds[k], figures.encode_milliseconds[k]
        print(f"k = {k:>6,}: search {search_ms:7.1f} ms, response {encode_ms:6.1f} ms")


if __name__ == "__main__":
    main()
