"""Building an index directory from embeddings or images."""

import threading

import numpy as np
import pytest

from embedding.artifact import read_manifest
from embedding.decoding import DecodingLimits
from embedding.embedder import embed
from embedding.errors import ImageTooLarge, UnsupportedImageFormat
from index.errors import VectorIndexError
from index.indexer import IndexEntry, IndexImage, build_index, embed_images, index_images
from index.storage import KIND
from index.structures import IndexOptions
from index.vector_index import VectorIndex
from tests.fakes import MeanColourEmbedder
from tests.images import colour_image, png
from tests.index.rows import SPACE, clustered_rows, entries_for, random_rows

COLOURS = [(250, 20, 30), (10, 200, 40), (20, 30, 240), (240, 230, 20), (10, 10, 10), (200, 200, 200), (120, 0, 130)]


@pytest.mark.parametrize("structure", ["exact", "ivf"])
def test_the_order_of_the_input_does_not_matter(tmp_path, structure):
    rows, entries = clustered_rows(1500, 12, 20), entries_for(1500, images_per_product=4)
    options = IndexOptions(structure=structure, device="cpu")
    order = np.random.default_rng(1).permutation(1500)
    build_index(tmp_path / "sorted", entries, rows, space_id=SPACE, options=options)
    build_index(
        tmp_path / "shuffled", [entries[number] for number in order], rows[order], space_id=SPACE, options=options
    )

    first, second = (read_manifest(tmp_path / name, KIND) for name in ("sorted", "shuffled"))
    assert first["files"] == second["files"]
    for manifest in (first, second):
        assert isinstance(manifest["facts"], dict)
        del manifest["facts"]["build_seconds"]
    assert first["facts"] == second["facts"]


def test_returns_the_facts_of_the_written_index(tmp_path):
    facts = build_index(tmp_path / "index", entries_for(20, 2), random_rows(20, 4), space_id=SPACE)

    assert facts == VectorIndex.load(tmp_path / "index", device="cpu").facts
    assert (facts.num_rows, facts.num_products, facts.metric) == (20, 10, "cosine")


def test_duplicate_image_ids_are_refused(tmp_path):
    entries = [IndexEntry("a", "p"), IndexEntry("b", "p"), IndexEntry("a", "q")]

    with pytest.raises(ValueError, match="image id 'a' occurs more than once"):
        build_index(tmp_path / "index", entries, random_rows(3, 4), space_id=SPACE)

    assert list(tmp_path.iterdir()) == []


def test_entries_and_embeddings_must_have_equal_length(tmp_path):
    with pytest.raises(ValueError, match="3 entries for 4 embeddings"):
        build_index(tmp_path / "index", entries_for(3), random_rows(4, 4), space_id=SPACE)


@pytest.mark.parametrize("value", [0, 1.5, np.nan, np.inf, 3e38])
def test_refuses_embeddings_without_unit_length(tmp_path, value):
    rows = random_rows(20_000, 4)
    rows[17_003, 2] = value
    if value == 0:
        rows[17_003] = 0

    with pytest.raises(ValueError, match="embedding of image 'image-0017003' must be finite with L2 norm 1"):
        build_index(tmp_path / "index", entries_for(20_000), rows, space_id=SPACE)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [random_rows(3, 4).astype(np.float64), random_rows(1, 3)[0]])
def test_refuses_embeddings_that_are_not_float32_rows(tmp_path, rows):
    with pytest.raises(ValueError, match=r"must be float32 \[N, D\]"):
        build_index(tmp_path / "index", entries_for(3), rows, space_id=SPACE)


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), b"bytes"])
def test_refuses_attributes_that_are_not_json(tmp_path, value):
    entries = [IndexEntry("a", "p", {"x": value})]

    with pytest.raises(ValueError, match="attributes of image 'a' are not valid JSON"):
        build_index(tmp_path / "index", entries, random_rows(1, 4), space_id=SPACE)


def test_an_existing_index_is_not_overwritten(tmp_path):
    build_index(tmp_path / "index", entries_for(3), random_rows(3, 4), space_id=SPACE)

    with pytest.raises(FileExistsError):
        build_index(tmp_path / "index", entries_for(3), random_rows(3, 4), space_id=SPACE)


def test_indexes_images_and_reports_undecodable_ones(tmp_path):
    images = [
        IndexImage(f"i{number}", f"p{number % 2}", png(colour), {"n": number}) for number, colour in enumerate(COLOURS)
    ]
    images.insert(3, IndexImage("broken", "p9", b"not an image"))
    embedder = MeanColourEmbedder()

    indexed = index_images(tmp_path / "index", iter(images), embedder, batch_size=3)

    index = VectorIndex.load(tmp_path / "index", device="cpu")
    assert indexed.facts == index.facts
    assert [(image_id, type(error)) for image_id, error in indexed.failures] == [("broken", UnsupportedImageFormat)]
    assert (index.space_id, index.num_rows, index.num_products) == ("mean-colour", 7, 2)
    queries = embed(embedder, [colour_image(colour) for colour in COLOURS])
    np.testing.assert_array_equal(index.search(queries, 1).rows[:, 0], np.arange(7))
    assert index.entry(5) == IndexEntry("i5", "p1", {"n": 5})


def test_no_images_give_an_empty_index(tmp_path):
    indexed = index_images(tmp_path / "index", [], MeanColourEmbedder())

    assert (indexed.facts.num_rows, indexed.facts.embedding_dim, indexed.failures) == (0, 4, [])


@pytest.mark.parametrize(("batch_size", "num_decoders"), [(1, 1), (3, 2), (7, 4), (100, 2)])
def test_embeds_images_in_input_order(batch_size, num_decoders):
    """Images of very different sizes are decoded at different speeds."""
    sizes = [(4, 4), (900, 700), (8, 8), (5, 900), (600, 600), (3, 3), (16, 16)]
    images = [(number, png(COLOURS[number], size)) for number, size in enumerate(sizes)]
    embedder = MeanColourEmbedder()

    batches = list(embed_images(images, embedder, batch_size=batch_size, num_decoders=num_decoders))

    assert [key for batch in batches for key in batch.keys] == list(range(7))
    assert [len(batch.keys) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    expected = embed(embedder, [colour_image(colour) for colour in COLOURS])
    np.testing.assert_allclose(np.concatenate([batch.embeddings for batch in batches]), expected, atol=1e-6)


def test_an_undecodable_image_does_not_affect_the_others():
    images = [("a", png("red")), ("b", b"\x89PNG\r\n\x1a\n"), ("c", b""), ("d", png("blue")), ("e", b"x"), ("f", b"y")]

    batches = list(embed_images(images, MeanColourEmbedder(), batch_size=4))

    assert [batch.keys for batch in batches] == [["a", "d"], []]
    assert [[key for key, _ in batch.failures] for batch in batches] == [["b", "c"], ["e", "f"]]
    assert [batch.embeddings.shape for batch in batches] == [(2, 4), (0, 4)]
    assert "0 bytes" in str(batches[0].failures[1][1])


def test_decoding_limits_apply_to_indexed_images():
    images = [("small", png("red", (10, 10))), ("large", png("red", (11, 10)))]

    [batch] = embed_images(images, MeanColourEmbedder(), limits=DecodingLimits(max_image_pixels=100))

    assert batch.keys == ["small"]
    assert isinstance(batch.failures[0][1], ImageTooLarge)


def test_reads_at_most_two_batches_ahead_in_the_calling_thread():
    read: list[int] = []
    threads = set()

    def endless():
        while True:
            threads.add(threading.current_thread())
            read.append(len(read))
            yield len(read), png("red")

    batches = embed_images(endless(), MeanColourEmbedder(), batch_size=5)
    assert read == []
    for number in range(1, 8):
        assert len(next(batches).keys) == 5
        assert len(read) <= (number + 1) * 5
    batches.close()

    assert threads == {threading.current_thread()}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("index-decode")]


def test_an_error_of_the_input_is_propagated():
    def failing():
        yield "a", png("red")
        raise VectorIndexError("the disk is gone")

    with pytest.raises(VectorIndexError, match="disk is gone"):
        list(embed_images(failing(), MeanColourEmbedder()))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("index-decode")]


def test_an_error_of_the_embedder_is_propagated():
    class BrokenEmbedder(MeanColourEmbedder):
        def to_pixels(self, image):
            raise MemoryError

    with pytest.raises(MemoryError):
        list(embed_images([("a", png("red"))], BrokenEmbedder()))


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"num_decoders": 0}])
def test_refuses_sizes_below_one_before_reading(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        embed_images([], MeanColourEmbedder(), **wrong)
