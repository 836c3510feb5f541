"""Embed many images: read, decode, run the network and write, all at the same time.

    input -> readers -> decoders -> network -> the consumer, which writes

Each stage has threads of its own and waits while what it has done is not yet taken. Images are decoded in whatever
order they arrive; batches have the order of the input. The consumer writes a batch while the network runs the next.

Shape legend: N images, D embedding dimension, H height, W width.
"""

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedding.cores import available_cores
from embedding.decoding import DecodingLimits, decode_image
from embedding.embedder import ImageEmbedder
from embedding.errors import InvalidImage
from embedding.stages import StageReport, StageTimes, timed

Key = TypeVar("Key")

# A batch is also what a consumer writes in one transaction, so it is not as small as a network likes on a CPU.
_MIN_BATCH = 32
# Of images that are read and not decoded yet. Readers exceed it by at most one image each.
_MAX_UNDECODED_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class BulkOptions:
    """Sizes of the stages; 0 is automatic.

    Args:
        limits: limits on images.
        batch_size: images per batch; automatic: a multiple of what the network runs at once, at least 32.
        num_readers: threads that read. For a local disk 2 are enough; an object store needs one per connection.
        num_decoders: threads that decode; automatic: one per core.
        skipped: errors of reading that are reported in the image's batch. Others end the run.
    """

    limits: DecodingLimits = field(default_factory=DecodingLimits)
    batch_size: int = 0
    num_readers: int = 2
    num_decoders: int = 0
    skipped: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if self.num_readers < 1 or self.batch_size < 0 or self.num_decoders < 0:
            raise ValueError(
                "num_readers must be at least 1, batch_size and num_decoders at least 0; got "
                f"num_readers={self.num_readers}, batch_size={self.batch_size}, num_decoders={self.num_decoders}"
            )


@dataclass(frozen=True, slots=True)
class EmbeddedBatch(Generic[Key]):
    """A batch of images in input order: embeddings [N, D] of `keys`, and the errors of images that have none.

    `stages` is the work of all stages until now.
    """

    keys: list[Key]
    embeddings: NDArray[np.float32]
    failures: list[tuple[Key, Exception]]
    stages: StageReport = field(default_factory=StageReport, compare=False)


def embed_images(
    keys: Iterable[Key],
    read: Callable[[Key], bytes],
    embedder: ImageEmbedder,
    options: BulkOptions | None = None,
) -> Generator[EmbeddedBatch[Key], None, None]:
    """Yield the embeddings of images, batch by batch, in input order.

    `keys` is iterated by one thread at a time, and `read` is called in several; neither is called before the first
    batch is requested. In memory are at most two batches of images, another one per thread that runs the network, and
    one image per reader and decoder. An image that cannot be decoded is reported in its batch and does not affect the
    others; any other error is raised instead of the batch it occurred in. Closing the generator ends all threads, after
    what each of them is doing.
    """
    return _batches(_Pipeline(keys, read, embedder, options or BulkOptions()))


@dataclass(slots=True)
class _Batch(Generic[Key]):
    images: "list[_Image[Key]]" = field(default_factory=list)
    is_full: bool = False  # no more images are added
    num_undecoded: int = 0
    result: EmbeddedBatch[Key] | None = None
    error: BaseException | None = None

    @property
    def is_decoded(self) -> bool:
        return self.is_full and self.num_undecoded == 0

    @property
    def is_done(self) -> bool:
        return self.result is not None or self.error is not None


@dataclass(slots=True)
class _Image(Generic[Key]):
    key: Key
    batch: _Batch[Key]
    image_bytes: bytes = b""
    outcome: NDArray[np.uint8] | Exception | None = None  # pixels [H, W, 3], or why there are none


def _batches(pipeline: "_Pipeline[Key]") -> Generator[EmbeddedBatch[Key], None, None]:
    try:
        pipeline.start()
        while (batch := pipeline.next_batch()) is not None:
            with timed() as writing:
                yield batch
            pipeline.written(batch, writing.seconds)
    finally:
        pipeline.stop()


class _Pipeline(Generic[Key]):
    def __init__(
        self, keys: Iterable[Key], read: Callable[[Key], bytes], embedder: ImageEmbedder, options: BulkOptions
    ) -> None:
        self._keys = iter(keys)
        self._read = read
        self._embedder = embedder
        self._limits, self._skipped = options.limits, options.skipped
        network_batch = embedder.batch_size
        self._batch_size = options.batch_size or network_batch * -(-_MIN_BATCH // network_batch)
        num_decoders = options.num_decoders or available_cores()
        self._num_networks = embedder.concurrent_runs
        # Two batches: one that decoders complete, and one for the network to take.
        self._max_ahead = 2 * self._batch_size + options.num_readers + num_decoders
        self._num_readers = options.num_readers  # that have not ended yet
        self._times = StageTimes(
            {"read": options.num_readers, "decode": num_decoders, "network": max(self._num_networks, 1), "write": 1}
        )
        self._threads = [
            threading.Thread(target=work, name=f"bulk-{name}-{number}", daemon=True)
            for name, work, count in (
                ("read", self._read_images, options.num_readers),
                ("decode", self._decode_images, num_decoders),
                ("network", self._run_network, self._num_networks),
            )
            for number in range(count)
        ]
        self._input = threading.Lock()  # held by the reader that takes the next key
        lock = threading.Lock()  # of everything below; each condition is what one stage waits for
        self._lock = lock
        self._room, self._image_read = threading.Condition(lock), threading.Condition(lock)
        self._batch_decoded, self._batch_done = threading.Condition(lock), threading.Condition(lock)
        self._undecoded: deque[_Image[Key]] = deque()
        self._undecoded_bytes = 0
        self._num_ahead = 0  # images that were taken from the input and not yet by the network
        self._batches: deque[_Batch[Key]] = deque()  # not yet taken by the consumer, in input order
        self._num_taken = 0  # how many of these, the first ones, the network has taken
        self._is_exhausted = False
        self._is_stopping = False

    # The consumer's side.

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all threads after what each of them is doing."""
        with self._lock:
            self._is_stopping = True
            for condition in (self._room, self._image_read, self._batch_decoded, self._batch_done):
                condition.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def next_batch(self) -> EmbeddedBatch[Key] | None:
        """Wait for the next batch in input order; None at the end. Raises the error that occurred in it."""
        if not self._num_networks:
            self._run_network_once()
        with self._lock:
            self._batch_done.wait_for(lambda: self._batches[0].is_done if self._batches else self._is_exhausted)
            if not self._batches:
                return None
            batch = self._batches.popleft()
            self._num_taken -= 1
            self._batch_decoded.notify()
            if batch.error is not None:
                raise batch.error
            assert batch.result is not None
            return dataclasses.replace(batch.result, stages=self._times.report())

    def written(self, batch: EmbeddedBatch[Key], seconds: float) -> None:
        with self._lock:
            self._times.add("write", len(batch.keys), seconds)

    # Reading.

    def _read_images(self) -> None:
        while (image := self._next_image()) is not None:
            with timed() as reading:
                try:
                    image.image_bytes = self._read(image.key)
                except self._skipped as error:
                    image.outcome = error
                except BaseException as error:  # noqa: BLE001  # raised again in the consumer
                    self._fail(image.batch, error)
                    continue
            with self._lock:
                self._times.add("read", 1, reading.seconds)
                if image.outcome is None:
                    self._undecoded.append(image)
                    self._undecoded_bytes += len(image.image_bytes)
                    self._image_read.notify()
                else:
                    self._finish(image)
        with self._lock:
            self._num_readers -= 1
            self._image_read.notify_all()

    def _next_image(self) -> _Image[Key] | None:
        """Wait for room, and take the next image of the input into its batch; None at the end."""
        with self._input:
            with self._lock:
                self._room.wait_for(self._may_read)
                if self._is_stopping or self._is_exhausted:
                    return None
            try:
                key = next(self._keys)
            except StopIteration:
                self._end_input(None)
                return None
            except BaseException as error:  # noqa: BLE001  # raised again in the consumer
                self._end_input(error)
                return None
            with self._lock:
                if not self._batches or self._batches[-1].is_full:
                    self._batches.append(_Batch())
                batch = self._batches[-1]
                image = _Image(key, batch)
                batch.images.append(image)
                batch.num_undecoded += 1
                batch.is_full = len(batch.images) == self._batch_size
                self._num_ahead += 1
                return image

    def _may_read(self) -> bool:
        has_room = self._num_ahead < self._max_ahead and self._undecoded_bytes < _MAX_UNDECODED_BYTES
        return has_room or self._is_stopping or self._is_exhausted

    def _end_input(self, error: BaseException | None) -> None:
        with self._lock:
            if error is not None:
                # After the images before it.
                if self._batches:
                    self._batches[-1].is_full = True
                self._batches.append(_Batch(is_full=True, error=error))
            elif self._batches:
                self._batches[-1].is_full = True
            self._is_exhausted = True
            self._batch_decoded.notify_all()
            self._batch_done.notify_all()

    # Decoding.

    def _decode_images(self) -> None:
        while (image := self._next_undecoded()) is not None:
            with timed() as decoding:
                try:
                    image.outcome = self._embedder.to_pixels(decode_image(image.image_bytes, self._limits))
                except InvalidImage as error:
                    image.outcome = error
                except BaseException as error:  # noqa: BLE001  # raised again in the consumer
                    self._fail(image.batch, error)
            with self._lock:
                self._times.add("decode", 1, decoding.seconds)
                self._undecoded_bytes -= len(image.image_bytes)
                image.image_bytes = b""
                self._room.notify()
                self._finish(image)

    def _next_undecoded(self) -> _Image[Key] | None:
        with self._lock:
            self._image_read.wait_for(lambda: self._undecoded or not self._num_readers or self._is_stopping)
            return self._undecoded.popleft() if self._undecoded and not self._is_stopping else None

    def _finish(self, image: _Image[Key]) -> None:
        image.batch.num_undecoded -= 1
        if image.batch.is_decoded:
            self._batch_decoded.notify_all()

    # The network.

    def _run_network(self) -> None:
        while self._run_network_once():
            pass

    def _run_network_once(self) -> bool:
        """Wait for the next decoded batch and embed it; False at the end."""
        with self._lock:
            self._batch_decoded.wait_for(self._may_embed)
            if self._is_stopping or self._num_taken == len(self._batches):
                return False
            batch = self._batches[self._num_taken]
            if batch.error is not None:
                return False
            # In input order: batches further on would fill the place of the one that the consumer waits for.
            self._num_taken += 1
            images, batch.images = batch.images, []
            self._num_ahead -= len(images)
            self._room.notify_all()
            self._batch_decoded.notify()
        with timed() as running:
            try:
                batch.result = self._embed(images)
            except BaseException as error:  # noqa: BLE001  # raised again in the consumer
                self._fail(batch, error)
        with self._lock:
            self._times.add("network", len(images), running.seconds)
            self._batch_done.notify()
        return True

    def _may_embed(self) -> bool:
        if self._is_stopping:
            return True
        if self._num_taken == len(self._batches):
            return self._is_exhausted
        batch = self._batches[self._num_taken]
        return batch.error is not None or (batch.is_decoded and self._num_taken <= self._num_networks)

    def _embed(self, images: list[_Image[Key]]) -> EmbeddedBatch[Key]:
        keys: list[Key] = []
        pixels: list[NDArray[np.uint8]] = []
        failures: list[tuple[Key, Exception]] = []
        for image in images:
            if isinstance(image.outcome, np.ndarray):
                keys.append(image.key)
                pixels.append(image.outcome)
            else:
                assert image.outcome is not None
                failures.append((image.key, image.outcome))
        if not pixels:
            return EmbeddedBatch(keys, np.zeros((0, self._embedder.embedding_dim), np.float32), failures)
        return EmbeddedBatch(keys, self._embedder.embed_pixels(np.stack(pixels)), failures)

    def _fail(self, batch: _Batch[Key], error: BaseException) -> None:
        """Note an error that ends the run when the consumer reaches its batch."""
        with self._lock:
            batch.error = batch.error or error
            self._is_exhausted = True
            self._room.notify_all()
            self._batch_decoded.notify_all()
            self._batch_done.notify_all()
