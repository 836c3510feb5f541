"""Building an index directory from embeddings or images."""

import numpy as np
import pytest

from embedding.artifact import read_manifest
from embedding.bulk import BulkOptions
from embedding.embedder import embed
from embedding.errors import UnsupportedImageFormat
from index.indexer import IndexEntry, IndexImage, build_index, index_images
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

    indexed = index_images(tmp_path / "index", iter(images), embedder, bulk=BulkOptions(batch_size=3))

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
