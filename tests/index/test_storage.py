"""The index directory: its files, and the refusal of anything else."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from embedding.artifact import canonical_json, new_artifact, verify_artifact
from index.errors import InvalidIndex, VectorIndexError
from index.facts import IndexFacts
from index.indexer import IndexEntry, build_index
from index.storage import KIND, open_embeddings, open_entries, read_index_facts
from index.vector_index import VectorIndex
from tests.index.rows import SPACE, clustered_rows, entries_for, index_of, index_over, random_rows

FILES = ["embeddings.npy", "entries.arrow", "structure.faiss", "manifest.json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small index with all files that an index can have."""
    directory = tmp_path_factory.mktemp("storage") / "index"
    index_over(directory, clustered_rows(400, 8, 10), structure="ivf", nlist=8)
    return directory


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def test_rows_are_in_the_order_of_their_image_ids(tmp_path):
    rows = random_rows(4, 6)
    entries = [
        IndexEntry("b", "shoe", {"colour": "grün", "size": 41.5}),
        IndexEntry("ä", "hat"),
        IndexEntry("a", "shoe"),
        IndexEntry("B", "bag", {"tags": ["x", None, True]}),
    ]
    index_of(tmp_path / "index", entries, rows)

    table = open_entries(tmp_path / "index")
    assert table.column("image_id").to_pylist() == ["B", "a", "b", "ä"]
    assert table.column("product_id").to_pylist() == ["bag", "shoe", "shoe", "hat"]
    assert table.column("product_number").to_pylist() == [0, 1, 1, 2]
    assert table.column("attributes").to_pylist()[2] == '{"colour": "grün", "size": 41.5}'
    np.testing.assert_array_equal(open_embeddings(tmp_path / "index"), rows[[3, 2, 0, 1]])
    assert np.load(tmp_path / "index" / "embeddings.npy").dtype == np.float32


def test_only_a_trained_structure_has_a_file(whole, tmp_path):
    index_over(tmp_path / "exact", random_rows(10, 4))

    assert sorted(path.name for path in whole.iterdir()) == sorted(FILES)
    assert sorted(path.name for path in (tmp_path / "exact").iterdir()) == [
        "embeddings.npy",
        "entries.arrow",
        "manifest.json",
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_detected(copy, name):
    """A few bytes of each file: that all bytes count is tested in tests/embedding/test_artifact.py."""
    path = copy / name
    original = path.read_bytes()

    for position in (0, 1, 127, 128, len(original) // 2, len(original) - 1):
        changed = bytearray(original)
        changed[position] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(InvalidIndex, match=r"\w"):
            VectorIndex.load(copy, device="cpu")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_truncated_file_is_detected(copy, name):
    path = copy / name
    content = path.read_bytes()

    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidIndex, match=name):
        VectorIndex.load(copy, device="cpu")
    path.unlink()
    with pytest.raises(InvalidIndex, match=name):
        VectorIndex.load(copy, device="cpu")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_detected_without_verification(copy, name):
    (copy / name).unlink()

    with pytest.raises(InvalidIndex, match=name):
        VectorIndex.load(copy, device="cpu", verify=False)


@pytest.mark.parametrize("name", ["embeddings.npy", "entries.arrow", "structure.faiss"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00\x10\x00", b"not an index" * 100])
def test_a_file_of_another_kind_is_refused_without_verification(copy, name, content):
    (copy / name).write_bytes(content)

    with pytest.raises(InvalidIndex, match="cannot be opened"):
        VectorIndex.load(copy, device="cpu", verify=False)


def test_files_of_different_indexes_are_refused(copy, tmp_path):
    index_over(tmp_path / "other", clustered_rows(300, 8, 10), structure="ivf", nlist=8)

    for name in FILES[:3]:
        mixed = shutil.copytree(copy, tmp_path / f"mixed-{name}")
        shutil.copy(tmp_path / "other" / name, mixed / name)
        with pytest.raises(InvalidIndex, match="disagree"):
            VectorIndex.load(mixed, device="cpu", verify=False)


@pytest.mark.parametrize(
    "embeddings", [np.zeros((400, 8), np.float64), np.zeros(400, np.float32), np.zeros((8, 400), np.float32).T]
)
def test_embeddings_of_another_layout_are_refused(copy, embeddings):
    np.save(copy / "embeddings.npy", embeddings)

    with pytest.raises(InvalidIndex, match="not float32"):
        VectorIndex.load(copy, device="cpu", verify=False)


def test_entries_of_other_columns_are_refused(copy):
    table = open_entries(copy).drop_columns(["product_number"])
    (copy / "entries.arrow").unlink()
    with pa.OSFile(str(copy / "entries.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)

    with pytest.raises(InvalidIndex, match="has the columns"):
        VectorIndex.load(copy, device="cpu", verify=False)


def test_a_structure_file_of_another_kind_is_refused(copy):
    from index.faiss_library import load_faiss

    load_faiss().write_index(load_faiss().IndexFlatIP(8), str(copy / "structure.faiss"))

    with pytest.raises(InvalidIndex, match="IndexFlat"):
        VectorIndex.load(copy, device="cpu", verify=False)


def test_paths_that_are_not_an_index_are_refused(tmp_path):
    with new_artifact(tmp_path / "other", "akin-index/2"):
        pass
    (tmp_path / "file").write_bytes(b"")

    for name, message in [("other", "akin-index/2"), ("file", "is a file, not"), ("nowhere", "has no manifest")]:
        with pytest.raises(InvalidIndex, match=message):
            VectorIndex.load(tmp_path / name, device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        {"structure": None},
        {"structure": {"name": "hnsw"}},
        {"structure": {"name": "ivf", "storage": "sq8", "nlist": 4, "nprobe": None, "rescore": 1}},
        {"structure": {"name": "ivf", "storage": "sq8", "nlist": "4", "nprobe": 1, "rescore": 1}},
        {"num_rows": "many"},
        {"num_products": True},
        {"metric": "euclidean"},
        {"ann_recall": {"k": 10}},
    ],
)
def test_a_manifest_with_unknown_facts_is_refused(whole, tmp_path, change):
    facts = {**read_index_facts(whole).manifest_facts(), **change}
    with new_artifact(tmp_path / "index", KIND, facts):
        pass

    with pytest.raises(InvalidIndex, match="facts that this version of Akin cannot read"):
        VectorIndex.load(tmp_path / "index", device="cpu")
    del facts["space_id"]
    with pytest.raises(KeyError):
        IndexFacts.from_manifest(facts, "")


def test_an_index_can_be_part_of_another_artifact(tmp_path):
    with new_artifact(tmp_path / "release", "akin-release/1") as draft:
        facts = build_index(draft.path / "index", entries_for(50), random_rows(50, 4), space_id=SPACE)
        draft.facts["index"] = facts.to_json()

    verified = verify_artifact(tmp_path / "release", "akin-release/1")
    index = VectorIndex.load(tmp_path / "release" / "index", device="cpu", verify=False)
    assert canonical_json(verified["index"]) == canonical_json(index.facts.to_json())
    assert VectorIndex.load(tmp_path / "release" / "index", device="cpu").index_id == index.index_id


def test_an_open_index_survives_the_deletion_of_its_directory(copy):
    """A release that is deleted may still answer its last requests."""
    index = VectorIndex.load(copy, device="cpu")
    expected = index.search(index.embeddings[:20].copy(), 5).rows

    shutil.rmtree(copy)

    np.testing.assert_array_equal(index.search(index.embeddings[:20], 5).rows, expected)


def test_an_unreadable_file_raises_an_error_of_this_package(copy, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("index.storage.verify_artifact", refuse)

    with pytest.raises(VectorIndexError, match="Permission denied"):
        VectorIndex.load(copy, device="cpu")
