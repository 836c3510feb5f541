"""The search of one release, and the reference to the release that is live.

A request takes the live engine once and keeps it: whatever is activated meanwhile, its answer comes from one release.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedding.decoding import DecodingLimits, decode_image
from service.releases.errors import NoActiveRelease
from service.releases.files import LoadedRelease, ReleaseRow
from service.serving.inference import InferenceThread

T = TypeVar("T")
A = TypeVarTuple("A")


@dataclass(frozen=True, slots=True)
class Hit:
    """A product that looks like the query, shown by its best image; score is the cosine, at most 1."""

    row: ReleaseRow
    score: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that each stage of a search took.

    `wait_seconds` is the time in the queue to the network, `search_seconds` that in the index with the wait for a
    thread, `group_seconds` that of making products of the rows found and reading what is shown of them.
    """

    decode_seconds: float
    wait_seconds: float
    embed_seconds: float
    search_seconds: float
    group_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first, with the release that gave them."""

    release_id: str
    hits: list[Hit]
    timing: Timing


class SearchEngine:
    """Searches one release. Immutable; any number of requests use it at once."""

    def __init__(
        self,
        release: LoadedRelease,
        inference: InferenceThread,
        *,
        decoders: ThreadPoolExecutor,
        searchers: ThreadPoolExecutor,
        limits: DecodingLimits,
    ) -> None:
        self.release = release
        self.media_names = release.rows.media_names()
        self._inference = inference
        # Apart, so that images which are slow to decode hold up neither others' searches nor a new release.
        self._decoders = decoders
        self._searchers = searchers
        self._limits = limits

    @property
    def release_id(self) -> str:
        """The release that every answer of this engine comes from."""
        return self.release.release_id

    async def search(self, image_bytes: bytes, k: int, min_score: float | None) -> SearchResult:
        """Rank products by similarity to the image; raises InvalidImage for bytes that are none."""
        start = time.perf_counter()
        pixels = await self._in_pool(self._decoders, self._prepare, image_bytes)
        prepared = time.perf_counter()
        embedded = await self._inference.embed(self.release.embedder, pixels)
        arrived = time.perf_counter()
        hits, group_seconds = await self._in_pool(self._searchers, self._find, embedded.embedding, k, min_score)
        end = time.perf_counter()
        timing = Timing(
            decode_seconds=prepared - start,
            wait_seconds=embedded.wait_seconds,
            embed_seconds=embedded.embed_seconds,
            search_seconds=end - arrived - group_seconds,
            group_seconds=group_seconds,
            total_seconds=end - start,
        )
        return SearchResult(self.release_id, hits, timing)

    async def warm_up(self) -> None:
        """Run the network and the index once, so that the first request does not pay for their first use."""
        embedder = self.release.embedder
        embedded = await self._inference.embed(embedder, embedder.to_pixels(Image.new("RGB", (64, 64))))
        await self._in_pool(self._searchers, self._find, embedded.embedding, 1, None)

    def _prepare(self, image_bytes: bytes) -> NDArray[np.uint8]:
        return self.release.embedder.to_pixels(decode_image(image_bytes, self._limits))

    def _find(self, embedding_D: NDArray[np.float32], k: int, min_score: float | None) -> tuple[list[Hit], float]:
        """Return the hits, and the seconds that it took to make them of the rows found."""
        found = self.release.index.timed_search_products(embedding_D, k, min_score=min_score)
        start = time.perf_counter()
        hits = [Hit(self.release.rows[hit.row], hit.score) for hit in found.hits]
        return hits, found.group_seconds + time.perf_counter() - start

    async def _in_pool(self, pool: ThreadPoolExecutor, function: Callable[[*A], T], *arguments: *A) -> T:
        """Run a function in a pool; a caller that is cancelled takes it out of the queue, unless it runs already."""
        # The pool keeps what was cancelled until its turn would have come: an image must not wait there with it.
        held = [arguments]
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*held.pop()))
        finally:
            held.clear()


class LiveEngine:
    """The one reference that a new release replaces; reading and replacing it are atomic."""

    def __init__(self) -> None:
        self._current: SearchEngine | None = None
        self._previous_media_names: frozenset[str] = frozenset()
        self.refusal: str | None = None  # why the release that should be served is not

    def get(self) -> SearchEngine:
        """Return the engine to answer a request with; raises NoActiveRelease while there is none."""
        if self._current is None:
            raise NoActiveRelease(self.refusal or "no release is active yet; build one: akin index build")
        return self._current

    @property
    def release_id(self) -> str | None:
        """Id of the release that is served, if any."""
        return self._current.release_id if self._current else None

    def current_release(self) -> LoadedRelease | None:
        """Return the release that is served, if any."""
        return self._current.release if self._current else None

    def replace(self, engine: SearchEngine) -> None:
        """Serve another release from the next request on."""
        if self._current is not None:
            # Answers given a moment ago still name images of the release they came from.
            self._previous_media_names = self._current.media_names
        self._current = engine
        self.refusal = None

    def shows(self, media_name: str) -> bool:
        """Say whether an image may be shown: catalogue images of what is or was just served, never examples."""
        current = self._current.media_names if self._current else frozenset()
        return media_name in current or media_name in self._previous_media_names
