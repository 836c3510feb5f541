"""Bulk embedding against the limits of its stages, on the same images and cores.

    python -m benchmarks.bulk_speed [--photos DIR] [--images 192] [--rounds 3] [--json FILE]

Each round measures in turn: decoding alone (bytes in memory, a thread
per core); the network alone (pixels in memory) as bulk work runs it, and as searches run it; and the pipeline of
`akin index build`, which reads from the image store, decodes, runs the network and writes to SQLite.

Prints three ratios, each the median over the rounds:

* over min(decode limit, network limit): both limits assume that a stage has all cores. 1 can be reached only where the
  faster stage costs next to nothing, or where the network does not keep all cores busy;
* over the harmonic bound, 1 / (1 / decode limit + 1 / network limit): what the same cores do when each stage has all of
  them in turn, without reading and writing;
* over cores / (CPU seconds of decoding and of the network per image): the bound for any pipeline on these cores.

The last line names the lower bound. Where other programs run as well, trust the harmonic bound, whose two sides they
slow down alike, and the ratio of CPU seconds.
"""

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.photos import add_photos_option, photos
from benchmarks.table import Row, write_rows
from embedding.checkpoint import load_embedder
from embedding.cores import available_cores
from embedding.decoding import decode_image
from embedding.embedder import Embedder
from embedding.image_format import image_format
from embedding.runtimes.options import RuntimeName
from embedding.stages import StageReport
from service.embeddings.pretrained import zero_shot_checkpoint
from service.embeddings.stored import embed_missing, remove_embeddings
from service.installation.installation import Installation, open_installation
from service.installation.settings import Settings
from service.storage.media import MediaName

DECODE, NETWORK, NETWORK_SEARCH, PIPELINE = "decode", "network, bulk", "network, search", "pipeline"
SLOWEST, HARMONIC = "min(decode limit, network limit)", "the harmonic bound of both limits"
SHARED, CPU = "cores / CPU seconds of both", "CPU seconds of both (1: no overhead)"


@dataclass(frozen=True, slots=True)
class Round:
    """Wall and CPU seconds per image of one measurement."""

    wall_seconds: float
    cpu_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_photos_option(parser)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the ratios to this file")
    parser.add_argument("--runtime", choices=("auto", "onnxruntime", "torch"), default="auto")
    arguments = parser.parse_args()
    images = photos(arguments.photos, arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), runtime=arguments.runtime, device="cpu")
        with open_installation(settings) as installation:
            ratios = measure(installation, images, arguments.rounds, arguments.runtime)
    if arguments.json:
        goals = {SLOWEST: ">= 0.90"}
        rows = [Row(f"bulk embedding / {name}", ratio, goals.get(name, "")) for name, ratio in ratios.items()]
        write_rows(arguments.json, rows)


def measure(
    installation: Installation, images: Sequence[bytes], num_rounds: int, runtime: RuntimeName
) -> dict[str, float]:
    """Measure all blocks in turn and print the table."""
    options = replace(installation.settings.network_options, runtime=runtime)
    checkpoint = zero_shot_checkpoint(installation.settings)
    bulk, search = load_embedder(checkpoint, options.for_bulk()), load_embedder(checkpoint, options)
    pixels_NHWC = np.stack(list(decoded(bulk, images)))
    names = store(installation, images)
    stages: list[StageReport] = []

    def pipeline() -> None:
        stages.append(run_pipeline(installation, bulk, names))

    blocks: dict[str, Callable[[], object]] = {
        DECODE: lambda: list(decoded(bulk, images)),
        NETWORK: lambda: run_network(bulk, pixels_NHWC),
        NETWORK_SEARCH: lambda: run_network(search, pixels_NHWC),
        PIPELINE: pipeline,
    }
    rounds: dict[str, list[Round]] = {name: [] for name in blocks}
    for number in range(num_rounds + 1):
        for name, block in blocks.items():
            remove_embeddings(installation.database, bulk.space_id)
            measured = timed(block, len(images))
            if number:  # the first round warms up
                rounds[name].append(measured)
    print(f"{len(images)} images, {num_rounds} rounds, {available_cores()} cores, {bulk.runtime}")
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")
    print(f"the last run of the pipeline: {stages[-1]}")
    return print_table(rounds)


def print_table(rounds: dict[str, list[Round]]) -> dict[str, float]:
    print(f"\n{'':16s} {'images/s':>9s} {'ms CPU per image':>17s}")
    for name, measured in rounds.items():
        cpu_ms = 1000 * statistics.median(one.cpu_seconds for one in measured)
        print(f"{name:16s} {1 / statistics.median(one.wall_seconds for one in measured):9.1f} {cpu_ms:17.2f}")
    ratios: dict[str, list[float]] = {name: [] for name in (SLOWEST, HARMONIC, SHARED, CPU)}
    # Within a round, so that what else the machine does affects both sides.
    for decode, bulk, search, pipeline in zip(
        rounds[DECODE], rounds[NETWORK], rounds[NETWORK_SEARCH], rounds[PIPELINE], strict=True
    ):
        network_wall = min(bulk.wall_seconds, search.wall_seconds)
        cpu_seconds = decode.cpu_seconds + min(bulk.cpu_seconds, search.cpu_seconds)
        ratios[SLOWEST].append(max(decode.wall_seconds, network_wall) / pipeline.wall_seconds)
        ratios[HARMONIC].append((decode.wall_seconds + network_wall) / pipeline.wall_seconds)
        ratios[SHARED].append(cpu_seconds / available_cores() / pipeline.wall_seconds)
        ratios[CPU].append(cpu_seconds / pipeline.cpu_seconds)
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    print("\nthe pipeline over")
    for name, value in medians.items():
        print(f"  {name:42s} {value:5.2f}")
    # A higher ratio means a lower bound.
    print(f"the lower bound on this machine: {max(SLOWEST, SHARED, key=lambda name: medians[name])}")
    return medians


def timed(block: Callable[[], object], num_images: int) -> Round:
    wall, cpu = time.perf_counter(), time.process_time()
    block()
    return Round((time.perf_counter() - wall) / num_images, (time.process_time() - cpu) / num_images)


def decoded(embedder: Embedder, images: Sequence[bytes]) -> Iterator[NDArray[np.uint8]]:
    with ThreadPoolExecutor(available_cores()) as pool:
        yield from pool.map(lambda image_bytes: embedder.to_pixels(decode_image(image_bytes)), images)


def run_network(embedder: Embedder, pixels_NHWC: NDArray[np.uint8]) -> None:
    size = 2 * embedder.batch_size
    parts = [pixels_NHWC[start : start + size] for start in range(0, len(pixels_NHWC), size)]
    if embedder.concurrent_runs <= 1:
        for part in parts:
            embedder.embed_pixels(part)
        return
    with ThreadPoolExecutor(embedder.concurrent_runs) as pool:
        list(pool.map(embedder.embed_pixels, parts))


def run_pipeline(installation: Installation, embedder: Embedder, names: Sequence[MediaName]) -> StageReport:
    last = StageReport()

    def keep(_done: int, _total: int, stages: StageReport | None = None, /) -> None:
        nonlocal last
        last = stages or last

    num_embedded = embed_missing(
        installation.database,
        installation.media_store,
        embedder,
        names,
        limits=installation.limits,
        on_progress=keep,
    )
    assert num_embedded == len(names), (num_embedded, len(names))
    return last


def store(installation: Installation, images: Sequence[bytes]) -> list[MediaName]:
    named = {}
    for image_bytes in images:
        known = image_format(image_bytes)
        assert known is not None
        named[MediaName(hashlib.sha256(image_bytes).hexdigest(), known.extension)] = image_bytes
    installation.media_store.put_all(named)
    return list(named)


if __name__ == "__main__":
    main()
