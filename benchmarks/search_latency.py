"""The latency of a search and of its parts: network, index, decoding, pipeline in process, HTTP on loopback.

    python benchmarks/search_latency.py [--num-products 2000] [--num-requests 200] [--json FILE]

The server is an `akin serve` process; the parts are timed in this process, in turn with requests to the server. Prints
milliseconds (p50, p95) of each stage, the ratio of the p50 of /search with one client to decode + forward + search, and
the throughput with 16 clients against that of the bare network.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from embedding.decoding import DecodingLimits, decode_image
from embedding.embedder import ImageEmbedder
from embedding.runtimes.network import NetworkOptions
from index.structures import IndexOptions
from service.catalogue.records import CatalogueContents, CatalogueImage
from service.demo.sample.products import sample_products
from service.demo.sample.views import photo_view
from service.embeddings.pretrained import zero_shot_checkpoint
from service.installation.installation import Installation, open_installation
from service.installation.settings import Settings
from service.releases.files import LoadedRelease, load_release, write_release
from service.releases.records import activate_release, record_release
from service.serving.engine import SearchEngine
from service.serving.inference import InferenceThread, run_in_own_thread
from service.storage.database import now
from service.storage.media import MediaName
from service.web.server import address_of, listen

ROUNDS = 4
CLIENTS = (4, 16)
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-products", type=int, default=2000)
    parser.add_argument("--num-requests", type=int, default=200, help="number of searches of each kind")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "home", log_level="warning")
        with open_installation(settings) as installation:
            release = run_in_own_thread(lambda: publish_release(installation, arguments.num_products))
        queries = query_images(16)
        with served(settings) as address:
            figures = measure(release, settings, address, queries, arguments.num_requests)
    report(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def publish_release(installation: Installation, num_products: int) -> LoadedRelease:
    """Publish a release of random embeddings, since the time of an exact search does not depend on them."""
    settings = installation.settings
    checkpoint = zero_shot_checkpoint(installation.settings)
    embeddings_ND = np.random.default_rng(0).normal(size=(num_products, 1280)).astype(np.float32)
    embeddings_ND /= np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
    images = [
        CatalogueImage(f"{n:08d}", f"product-{n}", f"Product {n}", {"n": n}, MediaName(f"{n:064x}", "jpg"))
        for n in range(num_products)
    ]
    created_at = now().isoformat()
    facts = write_release(
        settings.releases_dir, "bench", checkpoint, CatalogueContents(0, images), embeddings_ND, IndexOptions(),
        created_at=created_at,
    )  # fmt: skip
    with installation.database.transaction() as session:
        record_release(session, facts)
    with installation.database.transaction() as session:
        activate_release(session, "bench")
    return load_release(settings.releases_dir, "bench", NetworkOptions("cpu"), index_device="cpu")


def query_images(count: int) -> list[bytes]:
    """Return JPEG photos of about half a megapixel, like those sent by phones."""
    encoded = []
    for product in sample_products(count, seed=0):
        buffer = BytesIO()
        photo_view(product, 0).resize((800, 600), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=88)
        encoded.append(buffer.getvalue())
    return encoded


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """Run `akin serve` as a process, and yield its URL when it is ready."""
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
                if time.monotonic() > deadline:
                    raise SystemExit("the server did not become ready within 60 s")
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()


def measure(
    release: LoadedRelease, settings: Settings, address: str, queries: list[bytes], num_requests: int
) -> dict[str, dict[str, float]]:
    """Time every stage; see `figure` for the values of each."""
    # Each part runs in a thread that ends: service/serving/inference.py explains why a second one slows the network.
    figures = run_in_own_thread(lambda: measure_parts(release, address, queries, num_requests))
    figures |= measure_pipeline(release, settings, queries, num_requests)
    figures |= run_in_own_thread(lambda: measure_throughput(release.embedder, address, queries, num_requests))
    return figures


def measure_parts(
    release: LoadedRelease, address: str, queries: list[bytes], num_requests: int
) -> dict[str, dict[str, float]]:
    """Time the parts of a search and a search over HTTP, in turn."""
    embedder, index = release.embedder, release.index
    pixels = [embedder.to_pixels(decode_image(query)) for query in queries]
    embeddings = [embedder.embed_pixels(image[None])[0] for image in pixels]
    with httpx.Client(base_url=address, timeout=60) as client:
        stages: dict[str, Callable[[int], object]] = {
            # The network first: its worker threads spin for a moment afterwards, which must not slow the server.
            "forward": lambda n: embedder.embed_pixels(pixels[n][None]),
            "decode": lambda n: embedder.to_pixels(decode_image(queries[n])),
            "search": lambda n: index.search_products(embeddings[n], K),
            "/search, 1 client": lambda n: search_over_http(client, queries[n]),
        }
        # In turn, since the speed of a shared machine changes by half within seconds.
        seconds: dict[str, list[float]] = {name: [] for name in stages}
        for n in range(num_requests):
            for name, stage in stages.items():
                start = time.perf_counter()
                stage(n % len(queries))
                seconds[name].append(time.perf_counter() - start)
    return {name: figure(times, sum(times)) for name, times in seconds.items()}


def measure_pipeline(
    release: LoadedRelease, settings: Settings, queries: list[bytes], num_requests: int
) -> dict[str, dict[str, float]]:
    """Time the search pipeline in this process, without HTTP."""

    async def run() -> list[float]:
        times = []
        for n in range(num_requests):
            start = time.perf_counter()
            await engine.search(queries[n % len(queries)], K, None)
            times.append(time.perf_counter() - start)
        return times

    inference = InferenceThread()
    with ThreadPoolExecutor(settings.decode_workers) as decoders, ThreadPoolExecutor(1) as searchers:
        engine = SearchEngine(release, inference, decoders=decoders, searchers=searchers, limits=DecodingLimits())
        times = asyncio.run(run())
    inference.close()
    return {"pipeline in process": figure(times, sum(times))}


def measure_throughput(
    embedder: ImageEmbedder, address: str, queries: list[bytes], num_requests: int
) -> dict[str, dict[str, float]]:
    """Time the bare network and concurrent clients, in turn."""
    pixels = [embedder.to_pixels(decode_image(query)) for query in queries]
    singles: list[float] = []
    batches: list[float] = []
    many: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    walls = dict.fromkeys(CLIENTS, 0.0)
    batch = np.stack([pixels[n % len(pixels)] for n in range(16)])
    for _ in range(ROUNDS):
        for n in range(32):
            start = time.perf_counter()
            embedder.embed_pixels(pixels[n % len(pixels)][None])
            singles.append(time.perf_counter() - start)
        for _ in range(2):
            start = time.perf_counter()
            embedder.embed_pixels(batch)
            batches += [(time.perf_counter() - start) / len(batch)] * len(batch)
        for clients in CLIENTS:
            times, wall = request_all(address, queries, clients, num_requests // ROUNDS)
            many[clients] += times
            walls[clients] += wall
    return {
        "bare forward": figure(singles, sum(singles)),
        "bare forward in batches": figure(batches, sum(batches)),
        **{f"/search, {clients} clients": figure(many[clients], walls[clients]) for clients in CLIENTS},
    }


def search_over_http(client: httpx.Client, query: bytes) -> None:
    client.post("/search", params={"k": K}, files={"image": query}).raise_for_status()


def request_all(address: str, queries: list[bytes], clients: int, total: int) -> tuple[list[float], float]:
    """Send `total` searches from `clients` threads with one connection each; return all durations and the wall time."""

    def client(number: int) -> list[float]:
        times = []
        with httpx.Client(base_url=address, timeout=60) as session:
            for n in range(number, total, clients):
                start = time.perf_counter()
                search_over_http(session, queries[n % len(queries)])
                times.append(time.perf_counter() - start)
        return times

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = [seconds for part in pool.map(client, range(clients)) for seconds in part]
    return times, time.perf_counter() - start


def figure(times: list[float], wall: float) -> dict[str, float]:
    """Summarise durations as p50 and p95 in milliseconds, and the number per second."""
    ordered = sorted(times)
    return {
        "p50_ms": 1000 * statistics.median(ordered),
        "p95_ms": 1000 * ordered[int(0.95 * (len(ordered) - 1))],
        "per_second": len(ordered) / wall,
    }


def report(figures: dict[str, dict[str, float]]) -> None:
    """Print the figures, and the ratios of latency and throughput."""
    print(f"{'stage':24s} {'p50 ms':>9s} {'p95 ms':>9s} {'a second':>9s}")
    for name, values in figures.items():
        print(f"{name:24s} {values['p50_ms']:9.2f} {values['p95_ms']:9.2f} {values['per_second']:9.1f}")
    parts = sum(figures[name]["p50_ms"] for name in ("decode", "forward", "search"))
    alone = figures["/search, 1 client"]["p50_ms"]
    print(
        f"\n/search p50 at one client / (decode + forward + search) = {alone:.2f} / {parts:.2f} = {alone / parts:.2f}"
    )
    busy = figures["/search, 16 clients"]["per_second"]
    for name in ("bare forward", "bare forward in batches"):
        bare = figures[name]["per_second"]
        print(f"throughput at 16 clients / {name} = {busy:.1f} / {bare:.1f} = {busy / bare:.2f}")


if __name__ == "__main__":
    main()
