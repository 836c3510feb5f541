import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.demo.sample.products import sample_products
from service.demo.sample.views import LONGER_SIDE_PIXELS, photo_view, studio_view

PRODUCTS = sample_products(8, 0)

# Prints the digest of some images, to compare between processes.
DIGEST_SCRIPT = """
import hashlib
from service.demo.sample.products import sample_products
from service.demo.sample.views import photo_view, studio_view
digest = hashlib.sha256()
for product in sample_products(5, 0):
    digest.update(studio_view(product).tobytes() + photo_view(product, 1).tobytes())
print(digest.hexdigest())
"""


def test_images_are_the_same_in_every_process():
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    root = Path(__file__).parents[4]
    other = subprocess.run(
        [sys.executable, "-c", DIGEST_SCRIPT],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )

    # Drawn in another order: no image depends on those drawn before it.
    parts = {product.id: studio_view(product).tobytes() for product in reversed(PRODUCTS[:5])}
    digest = hashlib.sha256()
    for product in PRODUCTS[:5]:
        digest.update(parts[product.id] + photo_view(product, 1).tobytes())
    assert other.stdout.strip() == digest.hexdigest()


def test_studio_views_of_different_products_differ_visibly():
    # Reduced images keep the comparison of all pairs fast.
    images = [np.asarray(studio_view(product).reduce(4), np.int16) for product in sample_products(60, 0)]

    for first, second in itertools.combinations(images, 2):
        assert np.abs(first - second).max() > 40


def test_studio_views_are_square_on_white():
    image = studio_view(PRODUCTS[0])

    assert image.mode == "RGB"
    assert image.size == (LONGER_SIDE_PIXELS, LONGER_SIDE_PIXELS)
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_photos_of_one_product_differ_from_each_other():
    photos = [np.asarray(photo_view(PRODUCTS[0], view).resize((64, 64)), np.int16) for view in range(6)]

    for first, second in itertools.combinations(photos, 2):
        assert np.abs(first - second).mean() > 5


def test_photos_have_the_same_longer_side():
    for product in PRODUCTS:
        photo = photo_view(product, 0)
        assert photo.mode == "RGB"
        assert max(photo.size) == LONGER_SIDE_PIXELS


def test_refuses_a_negative_view():
    with pytest.raises(ValueError, match="view must be at least 0, got -1"):
        photo_view(PRODUCTS[0], -1)
