"""The journey of a search through one release, and the reference to the release that is live.

`SearchEngine.search` decodes the image in a pool of threads, embeds it in the inference thread, and searches the index
in a second pool. A request takes the live engine once, so its whole answer comes from one release even if another one
is activated in the meantime.
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
    """A product similar to the query, represented by its most similar image; `score` is the cosine."""

    row: ReleaseRow
    score: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Duration of each stage of a search.

    `wait_seconds` is the time in the queue of the inference thread. `decode_seconds` and `search_seconds` include the
    wait for a thread. `group_seconds` is the time to group the rows found into products and to read what hits show.
    """

    decode_seconds: float
    wait_seconds: float
    embed_seconds: float
    search_seconds: float
    group_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first, and the release that they come from."""

    release_id: str
    hits: list[Hit]
    timing: Timing


class SearchEngine:
    """Searches one release. Immutable; requests share it."""

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
        # Separate pools, so that images that are slow to decode delay neither other searches nor a new release.
        self._decoders = decoders
        self._searchers = searchers
        self._limits = limits

    @property
    def release_id(self) -> str:
        """The release that all answers of this engine come from."""
        return self.release.release_id

    async def search(self, image_bytes: bytes, k: int, min_score: float | None) -> SearchResult:
        """Rank products by similarity to the image; raises InvalidImage."""
        started_at = time.perf_counter()
        pixels = await self._run_in(self._decoders, self._decode, image_bytes)
        decoded_at = time.perf_counter()
        embedded = await self._inference.embed(self.release.embedder, pixels)
        embedded_at = time.perf_counter()
        hits, group_seconds = await self._run_in(self._searchers, self._find, embedded.embedding, k, min_score)
        found_at = time.perf_counter()
        timing = Timing(
            decode_seconds=decoded_at - started_at,
            wait_seconds=embedded.wait_seconds,
            embed_seconds=embedded.embed_seconds,
            search_seconds=found_at - embedded_at - group_seconds,
            group_seconds=group_seconds,
            total_seconds=found_at - started_at,
        )
        return SearchResult(self.release_id, hits, timing)

    def _decode(self, image_bytes: bytes) -> NDArray[np.uint8]:
        """Return the network's input [H, W, 3]."""
        return self.release.embedder.to_pixels(decode_image(image_bytes, self._limits))

    def _find(self, embedding_D: NDArray[np.float32], k: int, min_score: float | None) -> tuple[list[Hit], float]:
        """Return the hits, and the seconds spent on grouping rows into products and reading what hits show."""
        found = self.release.index.timed_search_products(embedding_D, k, min_score=min_score)
        start = time.perf_counter()
        hits = [Hit(self.release.rows[hit.row], hit.score) for hit in found.hits]
        return hits, found.group_seconds + time.perf_counter() - start

    async def warm_up(self) -> None:
        """Run the network and the index once, since their first use is slow."""
        embedder = self.release.embedder
        embedded = await self._inference.embed(embedder, embedder.to_pixels(Image.new("RGB", (64, 64))))
        await self._run_in(self._searchers, self._find, embedded.embedding, 1, None)

    async def _run_in(self, pool: ThreadPoolExecutor, function: Callable[[*A], T], *arguments: *A) -> T:
        """Run a function in a pool; cancelling the caller removes it from the queue, unless it has started."""
        # The pool keeps a cancelled call until its turn. Clearing the arguments frees the image immediately.
        held = [arguments]
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*held.pop()))
        finally:
            held.clear()


class LiveEngine:
    """The reference that a new release replaces; reading and replacing it are atomic."""

    def __init__(self) -> None:
        self._current: SearchEngine | None = None
        self._previous_media_names: frozenset[str] = frozenset()
        self.refusal: str | None = None  # why the active release is not served

    def get(self) -> SearchEngine:
        """Return the engine to answer a request with; raises NoActiveRelease if there is none."""
        if self._current is None:
            raise NoActiveRelease(self.refusal or "no release is active yet; build one: akin index build")
        return self._current

    @property
    def release_id(self) -> str | None:
        """Id of the release that is served, or None."""
        return self._current.release_id if self._current else None

    def current_release(self) -> LoadedRelease | None:
        """Return the release that is served, or None."""
        return self._current.release if self._current else None

    def replace(self, engine: SearchEngine) -> None:
        """Serve another release from the next request on."""
        if self._current is not None:
            # Clients may still load the images of answers from the release that is being replaced.
            self._previous_media_names = self._current.media_names
        self._current = engine
        self.refusal = None

    def shows(self, media_name: str) -> bool:
        """Return whether hits of this or of the previously served release show the image; examples are never shown."""
        current = self._current.media_names if self._current else frozenset()
        return media_name in current or media_name in self._previous_media_names
