"""Throughput of embedding decoded images, against the bare network."""

import dataclasses
import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu_check.settings import Row, Settings
from benchmarks.loop_steps import Block, take_turns, timed_steps
from embedding.embedder import Embedder
from embedding.model import Architecture, EmbeddingModel, create_model
from embedding.runtimes.options import NetworkOptions, Precision

PART = "embedding"
BARE = "bare network"
_BATCHES = 8
_MAX_ROUNDS = 10


def measure(settings: Settings, deadline: float) -> Iterator[Row]:
    """Time `Embedder.embed_pixels` and the network alone in turn, in each precision."""
    model, preprocessing = create_model(Architecture(settings.network), pretrained=False)
    preprocessing = dataclasses.replace(preprocessing, image_size=settings.pixels_for(preprocessing.image_size))
    size = preprocessing.image_size
    precisions: tuple[Precision, ...] = ("float32", "bf16") if settings.is_cuda else ("float32",)
    yield Row(PART, "network", f"{settings.network} at {size} pixels, random weights, decoded images from memory")
    for number, precision in enumerate(precisions):
        embedder = Embedder(model, preprocessing, NetworkOptions(settings.device, precision))
        num_images = _BATCHES * embedder.batch_size
        pixels = np.random.default_rng(0).integers(0, 256, (num_images, size, size, 3), np.uint8)
        blocks = {PART: _embedding(embedder, pixels), BARE: _bare(model, embedder, pixels)}
        round_seconds = 0.0
        for block in blocks.values():
            block(1)
            round_seconds += block(1)
        # The remaining time is divided among the remaining precisions.
        own_deadline = time.monotonic() + (deadline - time.monotonic()) / (len(precisions) - number)
        seconds = take_turns(blocks, _MAX_ROUNDS, 1, own_deadline - round_seconds)
        for name, values in seconds.items():
            yield Row(PART, f"{precision}, {name}", num_images / statistics.median(values), "images/s")
        ratios = [bare / ours for ours, bare in zip(seconds[PART], seconds[BARE], strict=True)]
        yield Row(PART, f"{precision}, {PART} / bare", statistics.median(ratios))
    if settings.is_cuda:
        yield Row(PART, "peak memory", torch.cuda.max_memory_allocated(settings.device) / 2**20, "MiB")


def _embedding(embedder: Embedder, pixels: NDArray[np.uint8]) -> Block:
    return timed_steps(lambda: embedder.embed_pixels(pixels), embedder.device)


def _bare(model: EmbeddingModel, embedder: Embedder, pixels: NDArray[np.uint8]) -> Block:
    """Return forward passes over the same number of images, already normalised and on the device."""
    batch = embedder.preprocessing.normalise(torch.from_numpy(pixels[: embedder.batch_size]).to(embedder.device))

    @torch.inference_mode()
    def forward() -> None:
        with torch.autocast(embedder.device.type, torch.bfloat16, enabled=embedder.precision == "bf16"):
            for _ in range(_BATCHES):
                model(batch)

    return timed_steps(forward, embedder.device)
