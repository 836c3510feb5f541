import errno
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from embedding import artifact
from tests.training.datasets.trees import draw, write
from training.data.snapshot import (
    class_ids,
    open_training_data,
    read_snapshot,
    snapshot_of,
    take_snapshot,
    write_snapshot,
)
from training.datasets.reading import read_dataset
from training.datasets.rows import Dataset, LabelledImage
from training.errors import InvalidDataset, InvalidSnapshot, TrainingError


@pytest.fixture
def shop(tmp_path):
    for seed, name in enumerate(("amber/1.png", "amber/example/2.jpg", "birch/1.png", "birch/2.png", "cedar/1.png")):
        draw(tmp_path / "shop" / name, seed)
    return tmp_path / "shop"


def rows_of(snapshot):
    return [image.content for image in snapshot.images]


def test_the_hash_depends_on_the_content_and_not_on_folder_order_or_layout(shop, tmp_path, monkeypatch):
    here = open_training_data(shop)
    shutil.copytree(shop, tmp_path / "copy")
    (tmp_path / "copy" / "amber" / "1.png").rename(tmp_path / "copy" / "amber" / "z.png")
    dataset = read_dataset(shop)
    lines = [f"{image.path},{image.label},{image.role}\n" for image in reversed(dataset.images)]
    manifest = write(tmp_path / "elsewhere" / "m.csv", "path,label,role\n" + "".join(lines))
    monkeypatch.chdir(tmp_path)

    others = [open_training_data(path) for path in (tmp_path / "copy", manifest, type(shop)("shop"))]

    assert {snapshot.snapshot_hash for snapshot in others} == {here.snapshot_hash}
    assert all(rows_of(snapshot) == rows_of(here) for snapshot in others)


@pytest.mark.parametrize(
    "change",
    [
        lambda shop: draw(shop / "amber" / "1.png", 99),
        lambda shop: draw(shop / "amber" / "3.png", 99),
        lambda shop: (shop / "birch" / "2.png").unlink(),
        lambda shop: (shop / "birch").rename(shop / "beech"),
        lambda shop: (shop / "amber" / "example").rename(shop / "amber" / "examples2"),
        lambda shop: shutil.copy(shop / "amber" / "1.png", shop / "amber" / "again.png"),
    ],
)
def test_any_change_of_content_changes_the_hash(shop, change):
    before = open_training_data(shop).snapshot_hash

    change(shop)

    assert open_training_data(shop).snapshot_hash != before


def test_a_stated_part_is_part_of_the_content(tmp_path):
    path = draw(tmp_path / "x.png")
    hashes = {
        take_snapshot(Dataset("made", (LabelledImage("1", path, "a", "catalogue", part),))).snapshot_hash
        for part in ("train", "test", "")
    }

    assert len(hashes) == 3


def test_rows_whose_file_is_missing_or_unreadable_are_problems(shop, tmp_path):
    draw(tmp_path / "x.png")
    manifest = write(tmp_path / "m.csv", "path,label\nx.png,a\nnowhere.png,a\nshop,b\nx.png,\n")

    snapshot = open_training_data(manifest)

    assert [image.location for image in snapshot.images] == ["m.csv:2"]
    problems = {problem.location: problem.message for problem in snapshot.problems}
    assert problems.keys() == {"m.csv:3", "m.csv:4", "m.csv:5"}
    assert "does not exist" in problems["m.csv:3"]
    assert "is a folder" in problems["m.csv:4"]


def test_a_file_that_vanishes_or_cannot_be_read_is_a_problem(shop, tmp_path):
    rows = [LabelledImage(f"row {n}", tmp_path / name, "a") for n, name in enumerate(("x.png", "nowhere.png", "shop"))]
    draw(tmp_path / "x.png")

    snapshot = take_snapshot(Dataset("made", tuple(rows)))

    assert [image.location for image in snapshot.images] == ["row 0"]
    missing, unreadable = (problem.message for problem in snapshot.problems)
    assert "missing; correct the path" in missing
    assert "cannot be read" in unreadable


def test_data_without_a_readable_image_are_refused(tmp_path):
    row = LabelledImage("m.csv:2", tmp_path / "nowhere.png", "a")

    with pytest.raises(InvalidDataset, match=r"none of the 1 images can be read; m\.csv:2"):
        take_snapshot(Dataset("made", (row,)))


def test_a_stored_label_is_read_as_it_was_hashed(tmp_path):
    """Labels given before they were normalised stay as they are, so that the hash still matches."""
    row = LabelledImage("row 0", draw(tmp_path / "x.png"), "Ka\u0308se")
    write_snapshot(take_snapshot(Dataset("made", (row,))), tmp_path / "snapshot")

    assert read_snapshot(tmp_path / "snapshot").labels == ["Ka\u0308se"]


def test_progress_counts_every_file(shop):
    seen = []

    open_training_data(shop, lambda done, total: seen.append((done, total)))

    assert seen == [(number, 5) for number in range(1, 6)]


def test_labels_are_numbered_in_sorted_order():
    numbers = class_ids(["b", "a", "b", "c"])

    np.testing.assert_array_equal(numbers, [1, 0, 1, 2])
    assert numbers.dtype == np.int64


def test_a_written_snapshot_reads_back_the_same(shop, tmp_path):
    write(shop / "loose.heic", "")
    shutil.copy(shop / "amber" / "1.png", shop / "cedar" / "same.png")
    snapshot = open_training_data(shop)

    write_snapshot(snapshot, tmp_path / "snapshot")
    shutil.rmtree(shop)
    read = open_training_data(tmp_path / "snapshot")

    assert (read.snapshot_hash, read.layout, read.problems) == (
        snapshot.snapshot_hash,
        "folder per class",
        snapshot.problems,
    )
    assert rows_of(read) == rows_of(snapshot)
    assert [image.location for image in read.images] == [image.location for image in snapshot.images]
    image = read.images[0]
    assert image.path == tmp_path / "snapshot" / "images" / image.sha256[:2] / f"{image.sha256}{image.path.suffix}"
    assert len(list((tmp_path / "snapshot" / "images").rglob("*.*"))) == 5, "equal images are stored once"


def test_file_names_that_are_not_utf8_survive(tmp_path):
    draw(tmp_path / "shop" / "amber" / os.fsdecode(b"a\xff.png"))
    write(tmp_path / "shop" / "amber" / os.fsdecode(b"b\xff.heic"), "")

    write_snapshot(open_training_data(tmp_path / "shop"), tmp_path / "snapshot")

    assert read_snapshot(tmp_path / "snapshot").images[0].location == "amber/a\\udcff.png"


@pytest.mark.parametrize("damage", ["image", "rows", "manifest", "missing"])
def test_a_damaged_snapshot_is_refused(shop, tmp_path, damage):
    folder = tmp_path / "snapshot"
    write_snapshot(open_training_data(shop), folder)
    names = {"image": next((folder / "images").rglob("*.png")), "manifest": folder / "manifest.json"}
    path = names.get(damage, folder / "rows.ndjson")
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes() + b" ")

    with pytest.raises(InvalidSnapshot):
        open_training_data(folder)


@pytest.mark.parametrize("key", ["role", "label", "file"])
def test_invalid_rows_are_refused_although_their_checksum_is_correct(shop, tmp_path, key):
    snapshot = open_training_data(shop)
    with artifact.new_artifact(tmp_path / "s", "akin-snapshot/1", {"problems": [], "notes": [], "layout": ""}) as draft:
        row = {"location": "", "file": "x", "label": "a", "role": "catalogue", "part": "", "sha256": "0"}
        (draft.path / "rows.ndjson").write_text(json.dumps({**row, key: 1.5 if key != "file" else "y"}))

    with pytest.raises(InvalidSnapshot, match="take the snapshot again"):
        read_snapshot(tmp_path / "s")
    assert snapshot.images


def test_an_existing_folder_is_not_overwritten(shop, tmp_path):
    (tmp_path / "there").mkdir()

    with pytest.raises(InvalidSnapshot, match="name a new folder"):
        write_snapshot(open_training_data(shop), tmp_path / "there")


def test_an_image_that_changed_since_it_was_hashed_stops_the_writing(shop, tmp_path):
    snapshot = open_training_data(shop)
    draw(shop / "birch" / "1.png", 77)

    with pytest.raises(InvalidSnapshot, match=r"birch/1\.png: the image has changed"):
        write_snapshot(snapshot, tmp_path / "snapshot")
    assert not list(tmp_path.glob("*snapshot*"))


def test_a_full_disk_is_reported_and_leaves_no_files(shop, tmp_path, monkeypatch):
    snapshot = open_training_data(shop)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifact, "_fsync", full)

    with pytest.raises(TrainingError, match="free some space"):
        write_snapshot(snapshot, tmp_path / "snapshot")
    assert not list(tmp_path.glob("*snapshot*"))


def test_hashed_rows_give_the_snapshot_taken_of_the_files(shop, monkeypatch):
    taken = open_training_data(shop)
    monkeypatch.setattr("training.data.snapshot.sha256_of_file", lambda _: pytest.fail("a file was read"))

    made = snapshot_of(taken.layout, reversed(taken.images), problems=taken.problems, notes=taken.notes)

    assert made == taken


def test_no_rows_give_an_empty_snapshot():
    assert snapshot_of("catalogue", []).images == ()


@pytest.mark.parametrize("digest", ["", "0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_an_invalid_hash_is_named(shop, digest):
    image = replace(open_training_data(shop).images[0], sha256=digest, location="row 7")

    with pytest.raises(ValueError, match=r"row 7: .* is not a SHA-256"):
        snapshot_of("catalogue", [image])
