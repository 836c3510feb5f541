"""BentoML: a batchable endpoint with adaptive batching.

PEER_...=... bentoml serve benchmarks.peers.servers.bentoml_server:Search --port PORT
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bentoml  # type: ignore[import-not-found]  # in its own environment only
import numpy as np

from benchmarks.peers.servers.networks import load_network
from benchmarks.peers.servers.options import ServerOptions
from benchmarks.peers.servers.preparation import Preparation
from benchmarks.peers.servers.ranking import Hit, Ranking

_OPTIONS = ServerOptions.from_environment()
_MAX_BATCH_SIZE = 16
# BentoML refuses requests that it expects to take longer; high enough that it refuses none here.
_MAX_LATENCY_MS = 60_000


@bentoml.service(workers=_OPTIONS.workers, traffic={"timeout": 120}, logging={"access": {"enabled": False}})
class Search:
    """The network and the catalogue, once per worker process."""

    def __init__(self) -> None:
        self._network = load_network(_OPTIONS)
        self._preparation = Preparation.read(_OPTIONS.files)
        self._ranking = Ranking.read(_OPTIONS.files)
        self._decoders = ThreadPoolExecutor(_OPTIONS.threads)

    @bentoml.api(  # type: ignore[untyped-decorator]
        route="/search", batchable=True, max_batch_size=_MAX_BATCH_SIZE, max_latency_ms=_MAX_LATENCY_MS
    )
    def search(self, images: list[Path]) -> list[list[Hit]]:
        """Return the hits of each image; BentoML collects the images of concurrent requests."""
        pixels = list(self._decoders.map(self._preparation.to_pixels, (path.read_bytes() for path in images)))
        embeddings = self._network.embed(np.stack(pixels))
        return [self._ranking.best(embedding, _OPTIONS.k) for embedding in embeddings]
