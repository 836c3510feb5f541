"""The journey of a search through one release, and the reference to the release that is live.

`SearchEngine.search` decodes the image in a pool of threads, embeds it in the inference thread, and searches the index
in a second pool. Each of these threads passes the search on to the next, and the last one to the event loop. A request
takes the live engine once, so its whole answer comes from one release even if another one is activated in the meantime.
"""

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedding.decoding import DecodingLimits, decode_image
from service.installation.pools import OneCall, run_after, run_in
from service.releases.errors import NoActiveRelease
from service.releases.files import LoadedRelease, ReleaseRow
from service.releases.image_names import ImageNames
from service.serving.batching import BatchCosts
from service.serving.calibration import Calibration
from service.serving.closing import ReleaseCloser
from service.serving.errors import SearchTimedOut
from service.serving.image_queue import QueuedImage
from service.serving.inference import InferenceThread
from service.storage.media import MediaName

# A network turns every image into a vector of length 1.
_LENGTH_TOLERANCE = 1e-2


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


class _Stopped(Exception):
    """Nobody waits for the result of the search any more."""


class SearchEngine:
    """Searches one release; requests share it. Nothing of it changes once it has warmed up."""

    def __init__(
        self,
        release: LoadedRelease,
        inference: InferenceThread,
        *,
        decoders: ThreadPoolExecutor,
        searchers: ThreadPoolExecutor,
        limits: DecodingLimits,
        timeout_seconds: float | None = None,
        on_network_failure: Callable[[], None] = lambda: None,
    ) -> None:
        # The only lasting reference to the release, see `close_with`.
        self._held = [release]
        self._inference = inference
        # Separate pools, so that images that are slow to decode delay neither other searches nor a new release.
        self._decoders = decoders
        self._searchers = searchers
        self._limits = limits
        self._timeout_seconds = timeout_seconds
        self._on_network_failure = on_network_failure
        self._plain_pixels: NDArray[np.uint8] | None = None
        self._costs = BatchCosts.unmeasured(release.embedder.batch_size)

    @property
    def release(self) -> LoadedRelease:
        """The release that all answers of this engine come from."""
        return self._held[0]

    @property
    def release_id(self) -> str:
        """Id of the release."""
        return self.release.release_id

    @property
    def costs(self) -> BatchCosts:
        """What runs of the network cost, measured while the engine warmed up."""
        return self._costs

    def close_with(self, closer: ReleaseCloser) -> None:
        """Free the release in the thread of `closer` once nothing refers to this engine."""
        weakref.finalize(self, closer.free, self._held).atexit = False

    async def search(self, image_bytes: bytes, k: int, min_score: float | None) -> SearchResult:
        """Rank products by similarity to the image; raises InvalidImage and SearchTimedOut."""
        stop = threading.Event()
        limit = asyncio.timeout(self._timeout_seconds)
        try:
            async with limit:
                return await self._search(image_bytes, k, min_score, stop)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise SearchTimedOut(
                f"the search took longer than {self._timeout_seconds:g} s; try again in a moment, or with a smaller k"
            ) from error
        finally:
            # The thread of a search that timed out, or whose client left, ends at its next check.
            stop.set()
            # It refers to the task, which after a cancellation refers to this frame: until the next garbage collection,
            # the cycle would keep this engine, and the files of its release, in memory.
            del limit

    async def _search(self, image_bytes: bytes, k: int, min_score: float | None, stop: threading.Event) -> SearchResult:
        started_at = time.perf_counter()
        image = QueuedImage(self.release.embedder, self._costs)
        decode = OneCall(partial(self._decode, image_bytes))
        find = OneCall(lambda embedded: self._find(embedded.embedding, k, min_score, stop))
        found = run_after(image.future, self._searchers, find)
        try:
            self._inference.decode_and_embed(image, decode, self._decoders)
            hits, group_seconds = await asyncio.wrap_future(found)
            embedded = image.future.result()
        except Exception:
            if image.has_failed_in_network():
                self._on_network_failure()
            raise
        finally:
            decode.give_up()
            find.give_up()
            self._inference.give_up(image)
            # The traceback of an error refers to this frame, and both futures to the error: the cycle would keep this
            # engine in memory until the next garbage collection.
            del image, found
        found_at = time.perf_counter()
        timing = Timing(
            decode_seconds=embedded.queued_at - started_at,
            wait_seconds=embedded.started_at - embedded.queued_at,
            embed_seconds=embedded.ended_at - embedded.started_at,
            search_seconds=found_at - embedded.ended_at - group_seconds,
            group_seconds=group_seconds,
            total_seconds=found_at - started_at,
        )
        return SearchResult(self.release_id, hits, timing)

    def _decode(self, image_bytes: bytes) -> NDArray[np.uint8]:
        """Return the network's input [H, W, 3]."""
        return self.release.embedder.to_pixels(decode_image(image_bytes, self._limits))

    def _find(
        self, embedding_D: NDArray[np.float32], k: int, min_score: float | None, stop: threading.Event
    ) -> tuple[list[Hit], float]:
        """Return the hits, and the seconds spent on grouping rows into products and reading what hits show."""

        def check() -> None:
            if stop.is_set():
                raise _Stopped

        found = self.release.index.timed_search_products(embedding_D, k, min_score=min_score, check=check)
        start = time.perf_counter()
        check()
        rows = self.release.rows.read([hit.row for hit in found.hits])
        hits = [Hit(row, hit.score) for row, hit in zip(rows, found.hits, strict=True)]
        return hits, found.group_seconds + time.perf_counter() - start

    async def warm_up(self, calibration: Calibration | None = None) -> None:
        """Run the network and the index once, since their first use is slow, and measure what batches cost."""
        embedding_D = await self.embed_plain_image()
        if calibration is not None and self._plain_pixels is not None:
            self._costs = await calibration.costs_of(self.release, self._plain_pixels)
        await run_in(self._searchers, self._find, embedding_D, 1, None, threading.Event())

    async def embed_plain_image(self) -> NDArray[np.float32]:
        """Embed a small image of one colour, to learn whether the network runs; raises what the network raises."""
        if self._plain_pixels is None:
            to_pixels = self.release.embedder.to_pixels
            self._plain_pixels = await run_in(self._decoders, lambda: to_pixels(Image.new("RGB", (64, 64))))
        embedded = await self._inference.embed(self.release.embedder, self._plain_pixels, self._costs)
        length = float(np.linalg.norm(embedded.embedding))
        # Negated, so that NaN counts as wrong.
        if not abs(length - 1) <= _LENGTH_TOLERANCE:
            raise ArithmeticError(f"the embedding of a plain image has length {length:g}, not 1")
        return embedded.embedding


class LiveEngine:
    """The reference that a new release replaces; reading and replacing it are atomic."""

    def __init__(self) -> None:
        self._current: SearchEngine | None = None
        self._previous_images: ImageNames | None = None
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

    def current(self) -> SearchEngine | None:
        """Return the engine of the release that is served, or None."""
        return self._current

    def current_release(self) -> LoadedRelease | None:
        """Return the release that is served, or None."""
        return self._current.release if self._current else None

    @property
    def index_fallback(self) -> str | None:
        """Why the index is on the CPU although a GPU was to be used if possible, or None."""
        return self._current.release.index.fallback if self._current else None

    def replace(self, engine: SearchEngine) -> None:
        """Serve another release from the next request on."""
        if self._current is not None:
            # Clients may still load the images of answers from the release that is being replaced.
            self._previous_images = self._current.release.image_names
        self._current = engine
        self.refusal = None

    def shows(self, name: MediaName) -> bool:
        """Return whether hits of this or of the previously served release show the image."""
        if self._current is not None and name in self._current.release.image_names:
            return True
        return self._previous_images is not None and name in self._previous_images
