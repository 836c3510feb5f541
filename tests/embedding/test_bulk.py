"""Bulk embedding: order, errors, memory and the end of the threads."""

import threading

import numpy as np
import pytest

from embedding.bulk import BulkOptions, EmbeddedBatch, embed_images
from embedding.cores import available_cores
from embedding.decoding import DecodingLimits
from embedding.embedder import embed
from embedding.errors import EmbeddingError, ImageTooLarge
from tests.fakes import MeanColourEmbedder
from tests.images import colour_image, png

COLOURS = [(250, 20, 30), (10, 200, 40), (20, 30, 240), (240, 230, 20), (10, 10, 10), (200, 200, 200), (120, 0, 130)]
# Long enough for a busy machine; a test that passes never waits for it.
PATIENCE_SECONDS = 60.0


class Embedder(MeanColourEmbedder):
    """An embedder that counts runs and may be run by several threads."""

    def __init__(self, concurrent_runs=1):
        self.concurrent_runs = concurrent_runs
        self.threads = []

    def embed_pixels(self, pixels_NHWC):
        self.threads.append(threading.current_thread())
        return super().embed_pixels(pixels_NHWC)


class Images:
    """Equal images under numbers; remembers what was taken from the input and what was read."""

    def __init__(self, image_bytes=b""):
        self.image_bytes = image_bytes or png("red")
        self.taken = []
        self.read = []

    def keys(self):
        while True:
            self.taken.append(len(self.taken))
            yield self.taken[-1]

    def get(self, key):
        self.read.append(key)
        return self.image_bytes


def pair_bytes(pair):
    return pair[1]


def bulk_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("bulk-")]


@pytest.mark.parametrize("concurrent_runs", [0, 1, 3])
@pytest.mark.parametrize(
    ("batch_size", "num_readers", "num_decoders"), [(1, 1, 1), (1, 4, 4), (3, 2, 2), (7, 3, 4), (100, 1, 2)]
)
def test_batches_have_the_order_of_the_input(concurrent_runs, batch_size, num_readers, num_decoders):
    """Images of very different sizes are decoded at different speeds."""
    sizes = [(4, 4), (900, 700), (8, 8), (5, 900), (600, 600), (3, 3), (16, 16)]
    images = [png(COLOURS[number], size) for number, size in enumerate(sizes)]
    embedder = Embedder(concurrent_runs)
    options = BulkOptions(batch_size=batch_size, num_readers=num_readers, num_decoders=num_decoders)

    batches = list(embed_images(range(7), images.__getitem__, embedder, options))

    assert [key for batch in batches for key in batch.keys] == list(range(7))
    assert [len(batch.keys) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    expected = embed(embedder, [colour_image(colour) for colour in COLOURS])
    np.testing.assert_allclose(np.concatenate([batch.embeddings for batch in batches]), expected, atol=1e-6)
    assert not bulk_threads()


@pytest.mark.parametrize("concurrent_runs", [0, 1, 2])
def test_no_images_give_no_batches(concurrent_runs):
    assert list(embed_images([], pair_bytes, Embedder(concurrent_runs))) == []


@pytest.mark.parametrize(("network_batch", "expected"), [(4, 32), (16, 32), (24, 48), (64, 64)])
def test_a_batch_is_a_multiple_of_what_the_network_runs_at_once(network_batch, expected):
    embedder = Embedder()
    embedder.batch_size = network_batch

    batch = next(embed_images(range(200), Images().get, embedder))

    assert len(batch.keys) == expected


def test_the_network_runs_in_one_thread_of_its_own():
    embedder = Embedder()

    list(embed_images(range(40), Images().get, embedder, BulkOptions(batch_size=4)))

    assert len(embedder.threads) == 10
    assert {thread.name for thread in embedder.threads} == {"bulk-network-0"}


def test_an_embedder_can_ask_to_run_in_the_thread_that_consumes():
    embedder = Embedder(concurrent_runs=0)

    list(embed_images(range(40), Images().get, embedder, BulkOptions(batch_size=4)))

    assert len(embedder.threads) == 10
    assert set(embedder.threads) == {threading.current_thread()}


def test_an_embedder_can_ask_for_several_runs_at_once():
    meeting = threading.Barrier(2)

    class MeetingEmbedder(Embedder):
        def embed_pixels(self, pixels_NHWC):
            meeting.wait(PATIENCE_SECONDS)
            return super().embed_pixels(pixels_NHWC)

    batches = list(embed_images(range(8), Images().get, MeetingEmbedder(2), BulkOptions(batch_size=2)))

    assert [batch.keys for batch in batches] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_the_next_batch_is_embedded_while_the_consumer_writes():
    runs = threading.Semaphore(0)

    class SignallingEmbedder(Embedder):
        def embed_pixels(self, pixels_NHWC):
            runs.release()
            return super().embed_pixels(pixels_NHWC)

    batches = embed_images(range(4), Images().get, SignallingEmbedder(), BulkOptions(batch_size=2))
    next(batches)

    # The run of the first batch, and that of the second, which was not requested yet.
    assert runs.acquire(timeout=PATIENCE_SECONDS)
    assert runs.acquire(timeout=PATIENCE_SECONDS)
    batches.close()


def test_several_readers_read_at_once():
    meeting = threading.Barrier(3)

    def read(_key):
        meeting.wait(PATIENCE_SECONDS)
        return png("red")

    [batch] = embed_images(range(6), read, Embedder(), BulkOptions(num_readers=3))

    assert batch.keys == list(range(6))


def test_an_undecodable_image_does_not_affect_the_others():
    images = [("a", png("red")), ("b", b"\x89PNG\r\n\x1a\n"), ("c", b""), ("d", png("blue")), ("e", b"x"), ("f", b"y")]

    batches = list(embed_images(images, pair_bytes, Embedder(), BulkOptions(batch_size=4)))

    assert [[key for key, _ in batch.keys] for batch in batches] == [["a", "d"], []]
    assert [[key for (key, _), _ in batch.failures] for batch in batches] == [["b", "c"], ["e", "f"]]
    assert [batch.embeddings.shape for batch in batches] == [(2, 4), (0, 4)]
    assert "0 bytes" in str(batches[0].failures[1][1])


def test_decoding_limits_apply():
    images = [("small", png("red", (10, 10))), ("large", png("red", (11, 10)))]

    [batch] = embed_images(images, pair_bytes, Embedder(), BulkOptions(limits=DecodingLimits(max_image_pixels=100)))

    assert batch.keys == images[:1]
    assert isinstance(batch.failures[0][1], ImageTooLarge)


def test_errors_of_reading_can_be_reported_like_undecodable_images():
    def read(key):
        if key % 2:
            raise LookupError(f"no image {key}")
        return png("red")

    [batch] = embed_images(range(5), read, Embedder(), BulkOptions(skipped=(LookupError,)))

    assert batch.keys == [0, 2, 4]
    assert [(key, str(error)) for key, error in batch.failures] == [(1, "no image 1"), (3, "no image 3")]


@pytest.mark.parametrize("concurrent_runs", [0, 1, 2])
def test_an_error_of_the_input_is_raised_after_the_images_before_it(concurrent_runs):
    def failing():
        yield from range(7)
        raise EmbeddingError("the table is gone")

    batches = embed_images(failing(), Images().get, Embedder(concurrent_runs), BulkOptions(batch_size=3))

    assert [next(batches).keys for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]
    with pytest.raises(EmbeddingError, match="table is gone"):
        next(batches)
    assert not bulk_threads()


@pytest.mark.parametrize("concurrent_runs", [0, 1, 2])
@pytest.mark.parametrize("stage", ["read", "decode", "network"])
def test_any_other_error_is_raised_instead_of_its_batch(stage, concurrent_runs):
    fails_at = 7
    images = [png((10 * key, 0, 0)) for key in range(20)]

    class BrokenEmbedder(Embedder):
        def to_pixels(self, image):
            if stage == "decode" and image.getpixel((0, 0))[0] == 10 * fails_at:
                raise MemoryError
            return super().to_pixels(image)

        def embed_pixels(self, pixels_NHWC):
            if stage == "network" and (pixels_NHWC[:, 0, 0, 0] == 10 * fails_at).any():
                raise MemoryError
            return super().embed_pixels(pixels_NHWC)

    def read(key):
        if stage == "read" and key == fails_at:
            raise MemoryError
        return images[key]

    batches = embed_images(range(20), read, BrokenEmbedder(concurrent_runs), BulkOptions(batch_size=3))

    assert [next(batches).keys for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(MemoryError):
        next(batches)
    assert not bulk_threads()


def test_nothing_is_read_before_the_first_batch_is_requested():
    images = Images()

    embed_images(images.keys(), images.get, Embedder())

    assert images.taken == []
    assert not bulk_threads()


@pytest.mark.parametrize("concurrent_runs", [0, 1, 2])
def test_reads_a_bounded_number_of_images_ahead(concurrent_runs):
    images = Images()
    options = BulkOptions(batch_size=5, num_readers=2, num_decoders=3)

    batches = embed_images(images.keys(), images.get, Embedder(concurrent_runs), options)
    for number in range(1, 8):
        assert len(next(batches).keys) == 5
        # Two batches and the threads' own; the network has taken one per run, and one that waits for the consumer.
        assert len(images.taken) <= 5 * number + 2 * 5 + 2 + 3 + 5 * (concurrent_runs + 1)
    batches.close()

    assert len(images.read) <= len(images.taken)
    assert not bulk_threads()


def test_reads_a_bounded_number_of_bytes_ahead(monkeypatch):
    """Decoders that stand still: readers stop when the limit is exceeded, here by the first image."""
    monkeypatch.setattr("embedding.bulk._MAX_UNDECODED_BYTES", 50)
    may_decode, images = threading.Event(), Images()
    all_read_ahead = threading.Event()

    class WaitingEmbedder(Embedder):
        def to_pixels(self, image):
            all_read_ahead.set()
            assert may_decode.wait(PATIENCE_SECONDS)
            return super().to_pixels(image)

    options = BulkOptions(batch_size=4, num_readers=2, num_decoders=1)
    batches = embed_images(range(8), images.get, WaitingEmbedder(), options)
    result: list[EmbeddedBatch[int]] = []
    consumer = threading.Thread(target=lambda: result.extend(batches))
    consumer.start()
    assert all_read_ahead.wait(PATIENCE_SECONDS)
    num_read = len(images.read)
    may_decode.set()
    consumer.join()

    assert len(images.image_bytes) > 50
    # One image per reader.
    assert num_read <= 2
    assert [batch.keys for batch in result] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_batches_carry_the_work_of_each_stage():
    images = [png("red"), b"no image", png("blue"), png("green"), png("white")]
    batches = embed_images(range(5), images.__getitem__, Embedder(), BulkOptions(batch_size=3))

    first, second = batches

    assert (first.stages.write.num_images, second.stages.write.num_images) == (0, 2)
    for stage in ("read", "decode", "network"):
        assert first.stages[stage].num_images >= 3
        assert second.stages[stage].num_images == 5
        assert second.stages[stage].busy_seconds >= first.stages[stage].busy_seconds > 0
    assert set(second.stages.rates()) == {"read", "decode", "network", "write"}


@pytest.mark.parametrize("wrong", [{"batch_size": -1}, {"num_decoders": -1}, {"num_readers": 0}])
def test_refuses_invalid_sizes(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        BulkOptions(**wrong)


def test_knows_the_cores_of_this_process():
    assert available_cores() >= 1
