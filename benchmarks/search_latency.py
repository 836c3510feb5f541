"""A search over HTTP compared with its parts: eager torch, ONNX Runtime, decoding, index.

    python -m benchmarks.search_latency [--photos DIR] [--num-products 2000] [--num-requests 200] [--json FILE]

Queries are drawn JPEG images of 800 x 600, and with `--photos` also the JPEG files below a folder, such as that of the
GroceryStoreDataset. The server is an `akin serve` process with the settings of the environment (AKIN_NETWORK_THREADS,
AKIN_DECODE_WORKERS). All is measured in turn, since the speed of a shared machine changes by half within seconds:

latency      /search with one client over the eager torch forward alone, and over decoding + ONNX Runtime + index
throughput   /search with 16 clients over a loop without a server, which decodes in as many threads while ONNX Runtime
             embeds batches; the CPU seconds of the load generator, a process of its own, count as not available

Prints milliseconds, images per second, and the ratios with their goals. Where the machine is busy with other work, the
last ratio, of CPU time, is the one to trust.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.photos import add_photos_option, drawn_photos, photos_below
from benchmarks.search_load import K, SearchClient, encoded_search
from benchmarks.table import Row, format_rows, write_rows
from embedding.checkpoint import exported_checkpoint, load_embedder
from embedding.decoding import decode_image
from embedding.embedder import ImageEmbedder
from embedding.runtimes.options import NetworkOptions
from index.structures import IndexOptions
from service.catalogue.records import CatalogueContents, CatalogueImage
from service.embeddings.pretrained import zero_shot_checkpoint
from service.installation.installation import Installation, open_installation
from service.installation.pools import ThreadPools
from service.installation.settings import Settings
from service.releases.files import CHECKPOINT_NAME, LoadedRelease, load_release, write_release
from service.releases.records import activate_release, record_release
from service.serving.inference import run_in_own_thread
from service.storage.database import now
from service.storage.media import MediaName
from service.web.server import address_of, listen

CLIENTS = 16
ROUNDS = 4
NUM_QUERIES = 32
RELEASE_ID = "bench"
DRAWN, PHOTOS = "800 x 600", "photos"
# The threads of torch spin for a moment after a forward pass, which must not slow what is measured next.
CALM_SECONDS = 0.02
LATENCY_GOALS = {PHOTOS: 0.60, DRAWN: 0.75}


@dataclass(frozen=True, slots=True)
class Parts:
    """What is compared: the release in this process with either runtime, and the server."""

    release: LoadedRelease
    onnx: ImageEmbedder
    torch: ImageEmbedder
    address: str
    server_pid: int
    num_decoders: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """A measured ratio; `goal` is a lower bound if `is_least`, None if there is none."""

    name: str
    value: float
    goal: float | None
    is_least: bool = False

    def row(self) -> Row:
        """Return the row of a table."""
        sign = ">=" if self.is_least else "<="
        return Row(self.name, self.value, "" if self.goal is None else f"{sign} {self.goal:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_photos_option(parser)
    parser.add_argument("--num-products", type=int, default=2000)
    parser.add_argument("--num-requests", type=int, default=200, help="number of searches of each kind")
    parser.add_argument("--json", type=Path, help="also write the ratios to this file")
    arguments = parser.parse_args()
    queries = {DRAWN: drawn_photos(NUM_QUERIES)}
    if arguments.photos is not None:
        queries[PHOTOS] = photos_below(arguments.photos, NUM_QUERIES)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "home")
        with open_installation(settings) as installation:
            run_in_own_thread(lambda: publish_release(installation, arguments.num_products))
        with served(settings) as (address, server_pid):
            figures, ratios = run_in_own_thread(
                lambda: measure_all(loaded_parts(settings, address, server_pid), queries, arguments.num_requests)
            )
    report(figures, ratios)
    if arguments.json:
        write_rows(arguments.json, [ratio.row() for ratio in ratios])


def publish_release(installation: Installation, num_products: int) -> None:
    """Publish a release of random embeddings, since the time of an exact search does not depend on them."""
    settings = installation.settings
    checkpoint = zero_shot_checkpoint(settings)
    embeddings_ND = np.random.default_rng(0).normal(size=(num_products, 1280)).astype(np.float32)
    embeddings_ND /= np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
    images = [
        CatalogueImage(f"{n:08d}", f"product-{n}", f"Product {n}", {"n": n}, MediaName(f"{n:064x}", "jpg"))
        for n in range(num_products)
    ]
    with exported_checkpoint(checkpoint, settings.network_options) as exported:
        facts = write_release(
            settings.releases_dir, RELEASE_ID, checkpoint, CatalogueContents(0, images), embeddings_ND, IndexOptions(),
            created_at=now().isoformat(), exported=exported,
        )  # fmt: skip
    with installation.database.transaction() as session:
        record_release(session, facts)
    with installation.database.transaction() as session:
        activate_release(session, RELEASE_ID)


def loaded_parts(settings: Settings, address: str, server_pid: int) -> Parts:
    """Load the release, and its network for torch as well."""
    onnx = NetworkOptions("cpu", "float32", "onnxruntime", settings.cache_dir / "networks", settings.network_threads)
    release = load_release(settings.releases_dir, RELEASE_ID, onnx, index_device="cpu")
    checkpoint = settings.releases_dir / RELEASE_ID / CHECKPOINT_NAME
    torch = load_embedder(checkpoint, NetworkOptions("cpu", runtime="torch"))
    with ThreadPools(decode_workers=settings.decode_workers, search_workers=1) as pools:
        num_decoders = pools.num_decoders
    return Parts(release, release.embedder, torch, address, server_pid, num_decoders)


@contextmanager
def served(settings: Settings) -> Iterator[tuple[str, int]]:
    """Run `akin serve` as a process, and yield its URL and process id when it is ready."""
    with listen("127.0.0.1", 0) as free:
        address, port = address_of(free), free.getsockname()[1]
    environment = {**os.environ, "AKIN_HOME": str(settings.home), "AKIN_LOG_LEVEL": "warning"}
    command = [sys.executable, "-m", "service.cli.main", "serve", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    if httpx.get(f"{address}/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit("the server did not become ready within 60 s")
                time.sleep(0.1)
            yield address, process.pid
        finally:
            process.terminate()


def measure_all(
    parts: Parts, queries: dict[str, list[bytes]], num_requests: int
) -> tuple[dict[str, dict[str, float]], list[Ratio]]:
    """Measure latency and throughput with each kind of query."""
    figures: dict[str, dict[str, float]] = {}
    ratios: list[Ratio] = []
    for kind, encoded in queries.items():
        latency = measure_latency(parts, encoded, num_requests)
        figures |= {f"{kind}: {name}": figure(times) for name, times in latency.items()}
        p50 = {name: statistics.median(times) for name, times in latency.items()}
        search = p50["/search, 1 client"]
        ratios.append(Ratio(f"{kind}: /search p50 / eager torch forward alone", search / p50["torch"],
                            LATENCY_GOALS[kind]))  # fmt: skip
        ratios.append(Ratio(f"{kind}: /search p50 / (decode + ONNX Runtime + index)", search / p50["parts"], 1.15))
        throughput = measure_throughput(parts, encoded, num_requests)
        figures[f"{kind}: /search, {CLIENTS} clients"] = figure(throughput.latencies) | {
            "per_second": throughput.served_per_second
        }
        figures[f"{kind}: decoding and ONNX Runtime in batches"] = {"per_second": throughput.bare_per_second}
        name = f"{kind}: throughput at {CLIENTS} clients / bare ONNX Runtime with decoding"
        ratios.append(Ratio(name, throughput.served_per_second / throughput.bare_per_second, 0.80, is_least=True))
        name = f"{kind}: CPU seconds of the bare loop / of the server"
        ratios.append(Ratio(name, throughput.bare_cpu_seconds / throughput.server_cpu_seconds, None))
    return figures, ratios


def measure_latency(parts: Parts, queries: list[bytes], num_requests: int) -> dict[str, list[float]]:
    """Time the parts of a search and a search over HTTP, in turn."""
    index, onnx = parts.release.index, parts.onnx
    pixels = [onnx.to_pixels(decode_image(query)) for query in queries]
    requests = [encoded_search(query) for query in queries]
    seconds: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[[], Any], *, is_warm: bool) -> Any:  # what `run` returns
        start = time.perf_counter()
        result = run()
        if is_warm:  # the first are slow: memory is allocated, and connections are opened
            seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result

    def in_parts(n: int, *, is_warm: bool) -> None:
        """Do what a search does, without a server."""
        prepared = timed("decode", lambda: onnx.to_pixels(decode_image(queries[n])), is_warm=is_warm)
        embedding = timed("onnxruntime", lambda: onnx.embed_pixels(prepared[None])[0], is_warm=is_warm)
        timed("index", lambda: index.search_products(embedding, K), is_warm=is_warm)

    with SearchClient(parts.address) as client:
        stages: dict[str, Callable[[int, bool], object]] = {
            "/search, 1 client": lambda n, _: client.search(requests[n]),
            "parts": lambda n, is_warm: in_parts(n, is_warm=is_warm),
            "torch": lambda n, _: parts.torch.embed_pixels(pixels[n][None]),
        }
        names = list(stages)
        for n in range(-3, num_requests):
            # In changing order, after a pause each: caches are equally cold, and no threads of torch spin any more.
            for name in names[n % 3 :] + names[: n % 3]:
                time.sleep(CALM_SECONDS)
                timed(name, partial(stages[name], n % len(queries), n >= 0), is_warm=n >= 0)
    return seconds


@dataclass(slots=True)
class Throughput:
    """Sums over the rounds; `available` are the wall seconds without the CPU seconds of the load generator."""

    latencies: list[float]
    available_seconds: float = 0.0
    server_cpu_seconds: float = 0.0
    bare_seconds: float = 0.0
    bare_cpu_seconds: float = 0.0

    @property
    def served_per_second(self) -> float:
        """Searches per second that the server answered."""
        return len(self.latencies) / self.available_seconds

    @property
    def bare_per_second(self) -> float:
        """As many images per second without a server."""
        return len(self.latencies) / self.bare_seconds


def measure_throughput(parts: Parts, queries: list[bytes], num_requests: int) -> Throughput:
    """Time concurrent clients and the loop without a server, in turn; both take the same images."""
    total = max(CLIENTS, num_requests // ROUNDS)
    images = [queries[n % len(queries)] for n in range(total)]
    sums = Throughput([])
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{n}.jpg" for n in range(len(queries))]
        for path, query in zip(paths, queries, strict=True):
            path.write_bytes(query)
        for _ in range(ROUNDS):
            start, cpu_start = time.perf_counter(), time.process_time()
            embed_in_batches(parts, images)
            sums.bare_seconds += time.perf_counter() - start
            sums.bare_cpu_seconds += time.process_time() - cpu_start
            cpu_start = cpu_seconds_of(parts.server_pid)
            load = run_load(parts.address, paths, total)
            sums.server_cpu_seconds += cpu_seconds_of(parts.server_pid) - cpu_start
            sums.latencies += load["seconds"]
            sums.available_seconds += load["wall_seconds"] - load["cpu_seconds"] / len(os.sched_getaffinity(0))
    return sums


def embed_in_batches(parts: Parts, images: list[bytes]) -> None:
    """Decode images in threads, and embed those that are ready in full batches."""

    def decode(image_bytes: bytes) -> NDArray[np.uint8]:
        return parts.onnx.to_pixels(decode_image(image_bytes))

    batch_size = parts.onnx.batch_size
    with ThreadPoolExecutor(parts.num_decoders) as decoders:
        decoded: deque[Future[NDArray[np.uint8]]] = deque()
        for n in range(0, len(images) + batch_size, batch_size):
            # One batch is decoded while the one before is embedded.
            ready = list(decoded)
            decoded = deque(decoders.submit(decode, image) for image in images[n : n + batch_size])
            if ready:
                parts.onnx.embed_pixels(np.stack([image.result() for image in ready]))


def run_load(address: str, paths: list[Path], total: int) -> dict[str, Any]:
    """Send searches from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.search_load", address, "--clients", str(CLIENTS)]
    command += ["--total", str(total), *map(str, paths)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    load: dict[str, Any] = json.loads(output)
    return load


def cpu_seconds_of(pid: int) -> float:
    """Return the CPU seconds that a process has used; on Linux, elsewhere NaN."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def figure(times: list[float]) -> dict[str, float]:
    """Summarise durations as p50 and p95 in milliseconds."""
    ordered = sorted(times)
    return {"p50_ms": 1000 * statistics.median(ordered), "p95_ms": 1000 * ordered[int(0.95 * (len(ordered) - 1))]}


def report(figures: dict[str, dict[str, float]], ratios: list[Ratio]) -> None:
    """Print the figures, and the ratios with their goals."""
    print(f"{'':50s} {'p50 ms':>9s} {'p95 ms':>9s} {'a second':>9s}")
    for name, values in figures.items():
        columns = (f"{values[key]:9.2f}" if key in values else 9 * " " for key in ("p50_ms", "p95_ms", "per_second"))
        print(f"{name:50s} {' '.join(columns)}")
    print(f"\n{format_rows([ratio.row() for ratio in ratios])}")


if __name__ == "__main__":
    main()
