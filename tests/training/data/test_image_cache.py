import errno
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from embedding import artifact
from embedding.decoding import decode_image
from embedding.preprocessing import Preprocessing
from tests.images import encode, scene
from tests.training.datasets.trees import draw, write
from training.data import image_cache
from training.data.image_cache import ImageCache
from training.data.snapshot import open_training_data
from training.errors import InvalidDataset, TrainingError

PREPROCESSING = Preprocessing(image_size=24, crop_fraction=0.875)


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "shop"
    for seed in range(5):
        draw(folder / "amber" / f"{seed}.png", seed)
    return folder


@pytest.fixture
def snapshot(shop):
    return open_training_data(shop)


@pytest.fixture
def decodings(monkeypatch):
    """The sizes of the decoded images, one per decoding."""
    seen = []

    def decode(content):
        seen.append(len(content))
        return decode_image(content)

    monkeypatch.setattr(image_cache, "decode_image", decode)
    return seen


def everything(cache):
    return cache.pixels(np.arange(len(cache)))


@pytest.mark.parametrize("on_disk", [False, True])
def test_pixels_equal_the_input_of_an_embedder(snapshot, tmp_path, on_disk):
    cache = ImageCache.build(
        snapshot, PREPROCESSING, size=24, crop_fraction=0.875, directory=tmp_path / "cache" if on_disk else None
    )

    expected = [PREPROCESSING.to_pixels(decode_image(image.path.read_bytes())) for image in snapshot.images]
    np.testing.assert_array_equal(everything(cache).numpy(), np.stack(expected))
    assert (len(cache), cache.size, cache.failures) == (5, 24, {})


def test_training_takes_the_largest_square_at_any_size(snapshot):
    cache = ImageCache.build(snapshot, PREPROCESSING, size=32)

    whole = replace(PREPROCESSING, image_size=32, crop_fraction=1.0)
    expected = [whole.to_pixels(decode_image(image.path.read_bytes())) for image in snapshot.images]
    np.testing.assert_array_equal(everything(cache).numpy(), np.stack(expected))


def test_images_are_copied_in_the_requested_order(snapshot):
    cache = ImageCache.build(snapshot, PREPROCESSING, size=8)
    before = everything(cache)

    batch = cache.pixels(np.array([3, 0, 3]))
    torch.testing.assert_close(batch, before[[3, 0, 3]])
    batch.zero_()

    torch.testing.assert_close(everything(cache), before)
    assert batch.dtype == torch.uint8
    assert cache.pixels(np.zeros(0, np.int64)).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("position", [-1, 5])
def test_an_invalid_position_is_refused(snapshot, position):
    cache = ImageCache.build(snapshot, PREPROCESSING, size=8)

    with pytest.raises(IndexError, match=r"0\.\.4"):
        cache.pixels(np.array([position]))


def test_unreadable_images_are_named_and_stay_black(shop):
    write(shop / "amber" / "broken.png", "no image")
    snapshot = open_training_data(shop)
    (position,) = [n for n, image in enumerate(snapshot.images) if image.path.name == "broken.png"]

    cache = ImageCache.build(snapshot, PREPROCESSING, size=8)

    assert cache.failures.keys() == {position}
    assert "not an image in a supported format" in cache.failures[position]
    assert not cache.pixels(np.array([position])).any()


def test_an_existing_cache_is_opened_without_decoding(shop, tmp_path, decodings):
    write(shop / "amber" / "broken.png", "no image")
    snapshot = open_training_data(shop)
    first = ImageCache.build(snapshot, PREPROCESSING, size=8, directory=tmp_path / "cache")
    shutil.copytree(shop, tmp_path / "copy")
    copy = open_training_data(tmp_path / "copy")

    again = ImageCache.build(copy, PREPROCESSING, size=8, directory=tmp_path / "cache")

    assert len(decodings) == 6
    torch.testing.assert_close(everything(again), everything(first))
    assert again.failures == first.failures != {}


@pytest.mark.parametrize(
    "change",
    [
        {"size": 9},
        {"crop_fraction": 0.5},
        {"preprocessing": replace(PREPROCESSING, interpolation="bilinear")},
        {"preprocessing": replace(PREPROCESSING, decoding=2)},
        {"snapshot": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_geometry_or_other_images_are_decoded_again(shop, tmp_path, decodings, change):
    first = {
        "snapshot": open_training_data(shop),
        "preprocessing": PREPROCESSING,
        "size": 8,
        "directory": tmp_path / "cache",
    }
    ImageCache.build(**first)
    decodings.clear()
    if "snapshot" in change:
        draw(shop / "amber" / "0.png", 50)
        change = {"snapshot": open_training_data(shop)}

    ImageCache.build(**{**first, **change})

    assert len(decodings) == 5


@pytest.mark.parametrize("name", ["pixels.npy", "manifest.json"])
def test_a_damaged_cache_is_replaced(snapshot, tmp_path, decodings, name):
    first = ImageCache.build(snapshot, PREPROCESSING, size=8, directory=tmp_path / "cache")
    expected = everything(first)
    (path,) = (tmp_path / "cache").rglob(name)
    path.write_bytes(path.read_bytes()[:-10])

    again = ImageCache.build(snapshot, PREPROCESSING, size=8, directory=tmp_path / "cache")

    assert len(decodings) == 10
    torch.testing.assert_close(everything(again), expected)


def test_too_large_images_in_memory_are_refused_with_the_remedy(snapshot):
    with pytest.raises(TrainingError, match="naming a folder for the cache"):
        ImageCache.build(snapshot, PREPROCESSING, size=8, max_memory_bytes=100)


def test_a_full_disk_is_reported_before_decoding(snapshot, tmp_path, monkeypatch, decodings):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))

    with pytest.raises(TrainingError, match="free some space"):
        ImageCache.build(snapshot, PREPROCESSING, size=8, directory=tmp_path / "cache")
    assert not decodings


def test_a_disk_that_fills_up_leaves_no_files(snapshot, tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifact, "_fsync", full)

    with pytest.raises(TrainingError, match="No space left on device; free some space or name another folder"):
        ImageCache.build(snapshot, PREPROCESSING, size=8, directory=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("change", ["other", "missing"])
def test_an_image_that_changed_since_it_was_hashed_stops_the_run(shop, snapshot, tmp_path, change):
    path = shop / "amber" / "2.png"
    draw(path, 60) if change == "other" else path.unlink()

    with pytest.raises(InvalidDataset, match=r"amber/2\.png: the image"):
        ImageCache.build(snapshot, PREPROCESSING, size=8, directory=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_pixels_do_not_depend_on_threads_and_chunks(shop, monkeypatch):
    for seed in range(5, 12):
        (shop / "amber" / f"{seed}.jpg").write_bytes(encode(scene(seed, (60, 90)), "JPEG"))
    snapshot = open_training_data(shop)
    expected = everything(ImageCache.build(snapshot, PREPROCESSING, size=8))
    monkeypatch.setattr(image_cache, "_MAX_CHUNK_BYTES", 1)
    seen = []

    cache = ImageCache.build(
        snapshot, PREPROCESSING, size=8, num_threads=3, on_progress=lambda done, total: seen.append((done, total))
    )

    torch.testing.assert_close(everything(cache), expected)
    assert seen == [(number, 12) for number in range(1, 13)]


def resident_kilobytes(name):
    """The memory of this process that shows a mapped file."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if line.endswith(name)]
    sizes = [next(line for line in lines[start:] if line.startswith("Rss:")).split()[1] for start in starts]
    return sum(map(int, sizes))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_of_a_mapped_file_are_given_back_after_reading(snapshot, tmp_path, monkeypatch):
    in_memory = ImageCache.build(snapshot, PREPROCESSING, size=32)
    on_disk = ImageCache.build(snapshot, PREPROCESSING, size=32, directory=tmp_path / "cache")
    everything(on_disk)
    assert resident_kilobytes(image_cache.PIXELS_NAME) > 0

    monkeypatch.setattr(image_cache, "_MAX_MAPPED_BYTES", 0)
    pixels = everything(on_disk)

    assert resident_kilobytes(image_cache.PIXELS_NAME) == 0
    assert torch.equal(pixels, everything(in_memory))
    assert torch.equal(everything(on_disk), pixels)
