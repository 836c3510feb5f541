import io
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageDraw

from embedding.preprocessing import Preprocessing
from tests.conftest import REAL_DATA
from tests.images import colour_image, encode, scene
from training.data import near_duplicates
from training.data.image_cache import ImageCache
from training.data.near_duplicates import near_duplicate_pairs, thumbnails_of


def cache_of(images, size=64):
    preprocessing = Preprocessing(image_size=size)
    return ImageCache(np.stack([preprocessing.to_pixels(image.convert("RGB")) for image in images]), {})


def pairs_of(images, size=64):
    return near_duplicate_pairs(thumbnails_of(cache_of(images, size))).tolist()


def copy_of(image, scale=0.5, quality=60):
    small = image.resize((int(image.width * scale), int(image.height * scale)))
    return Image.open(io.BytesIO(encode(small, "JPEG", quality=quality)))


def test_a_smaller_and_recompressed_copy_is_a_near_duplicate():
    images = [scene(seed) for seed in range(20)]

    pairs = pairs_of([*images, copy_of(images[7])])

    assert pairs == [[7, 20]]


@pytest.mark.parametrize("size", [8, 17, 300])
def test_the_cached_size_does_not_matter(size):
    images = [scene(seed) for seed in range(5)]

    assert pairs_of([*images, copy_of(images[2])], size) == [[2, 5]]


def test_the_same_structure_in_another_colour_is_no_near_duplicate():
    image = scene(1)
    red, green, blue = image.split()

    assert pairs_of([image, Image.merge("RGB", (blue, red, green))]) == []


def test_the_same_packaging_with_another_emblem_is_no_near_duplicate():
    image = scene(1)
    variant = image.copy()
    ImageDraw.Draw(variant).rectangle((130, 100, 170, 140), fill="black")

    assert pairs_of([image, variant]) == []


def test_images_without_structure_are_never_near_duplicates():
    assert pairs_of([colour_image("red"), colour_image("red"), colour_image((250, 0, 0))]) == []


def test_the_tile_size_does_not_change_the_pairs(monkeypatch):
    images = [scene(seed) for seed in range(9)]
    images += [copy_of(images[seed]) for seed in (0, 4, 8)]
    expected = sorted(pairs_of(images))
    monkeypatch.setattr(near_duplicates, "_TILE", 4)
    monkeypatch.setattr(near_duplicates, "_PAIRS_AT_ONCE", 1)
    monkeypatch.setattr(near_duplicates, "_MAX_BLOCK_BYTES", 1)

    assert sorted(pairs_of(images)) == expected == [[0, 9], [4, 10], [8, 11]]


def test_real_drawings_of_a_character_are_no_near_duplicates_but_copies_are():
    archive = REAL_DATA / "omniglot-small1.zip"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not beside the project (../shared/data)")
    with zipfile.ZipFile(archive) as zipped:
        names = sorted(name for name in zipped.namelist() if name.endswith(".png"))[:200]
        images = [Image.open(io.BytesIO(zipped.read(name))).convert("RGB") for name in names]
    copies = [copy_of(image, 0.7) for image in images[::20]]

    assert sorted(pairs_of([*images, *copies])) == [[20 * number, 200 + number] for number in range(10)]


def test_progress_counts_the_images_compared_with_all_others(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_TILE", 2)
    thumbnails = thumbnails_of(cache_of([scene(number) for number in range(5)]))
    calls = []

    near_duplicate_pairs(thumbnails, lambda done, total: calls.append((done, total)))

    assert calls == [(2, 5), (4, 5), (5, 5)]
