import json
import os
from pathlib import Path

import pytest

from embedding import artifact
from embedding.artifact import new_artifact, read_manifest, remove_abandoned_drafts, verify_artifact
from embedding.errors import InvalidArtifact

KIND = "akin-test/1"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with new_artifact(tmp_path / "whole", KIND, {"colour": "grün"}) as draft:
        (draft.path / "a.bin").write_bytes(b"abc")
        (draft.path / "inner").mkdir()
        (draft.path / "inner" / "b.bin").write_bytes(bytes(range(256)))
        draft.facts["num_files"] = 2
    return tmp_path / "whole"


def test_verifying_returns_the_facts(directory):
    assert verify_artifact(directory, KIND) == {"colour": "grün", "num_files": 2}


@pytest.mark.parametrize("name", ["a.bin", "inner/b.bin", "manifest.json"])
def test_every_flipped_byte_is_found(directory, name):
    path = directory / name
    original = path.read_bytes()

    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 0x20
        path.write_bytes(changed)
        with pytest.raises(InvalidArtifact):
            verify_artifact(directory, KIND)


def test_a_missing_or_unexpected_file_is_named(directory):
    (directory / "a.bin").rename(directory / "c.bin")

    with pytest.raises(InvalidArtifact, match=r"'a\.bin' is missing"):
        verify_artifact(directory, KIND)

    (directory / "a.bin").write_bytes(b"abc")
    with pytest.raises(InvalidArtifact, match=r"'c\.bin' does not belong"):
        verify_artifact(directory, KIND)


def test_refuses_another_kind_and_directories_without_a_manifest(directory, tmp_path):
    with pytest.raises(InvalidArtifact, match=r"holds 'akin-test/1', not the 'akin-test/2'"):
        verify_artifact(directory, "akin-test/2")
    with pytest.raises(InvalidArtifact, match=r"has no manifest\.json"):
        verify_artifact(tmp_path, KIND)
    with pytest.raises(InvalidArtifact, match=r"has no manifest\.json"):
        verify_artifact(tmp_path / "nowhere", KIND)
    with pytest.raises(InvalidArtifact, match="is a file, not"):
        verify_artifact(directory / "a.bin", KIND)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", json.dumps({"kind": KIND}).encode()])
def test_an_unreadable_manifest_is_an_invalid_artifact(directory, content):
    (directory / "manifest.json").write_bytes(content)

    with pytest.raises(InvalidArtifact):
        read_manifest(directory, KIND)


def test_a_failed_draft_is_removed(tmp_path):
    def write_half():
        with new_artifact(tmp_path / "half", KIND) as draft:
            (draft.path / "a.bin").write_bytes(b"abc")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["_fsync", "_seal", "sha256_of_file"])
def test_a_draft_is_removed_when_sealing_fails(tmp_path, monkeypatch, name):
    def fail(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(artifact, name, fail)

    with pytest.raises(OSError, match="No space left"), new_artifact(tmp_path / "half", KIND) as draft:
        (draft.path / "a.bin").write_bytes(b"abc")

    assert list(tmp_path.iterdir()) == []


def test_an_existing_artifact_is_not_overwritten(directory):
    with pytest.raises(FileExistsError, match="never changed"), new_artifact(directory, KIND):
        pass


def test_abandoned_drafts_are_removed(directory):
    (directory.parent / ".staging-x-123").mkdir()

    removed = remove_abandoned_drafts(directory.parent)

    assert [path.name for path in removed] == [".staging-x-123"]
    assert [path.name for path in directory.parent.iterdir()] == ["whole"]
    assert remove_abandoned_drafts(directory / "nowhere") == []
