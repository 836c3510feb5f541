import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from embedding.errors import InvalidCheckpoint
from embedding.preprocessing import Preprocessing
from tests.images import scene


def test_equals_resizing_the_shorter_side_and_cropping_the_centre():
    """One call to Pillow gives the same pixels as the usual two steps."""
    image = scene(size=(300, 240))

    pixels = Preprocessing(image_size=64).to_pixels(image)

    expected = image.resize((80, 64), Image.Resampling.BICUBIC).crop((8, 0, 72, 64))
    assert (pixels == np.asarray(expected)).all()


def test_crop_fraction_takes_the_middle():
    image = Image.new("RGB", (100, 100), "red")
    image.paste(Image.new("RGB", (70, 70), "blue"), (15, 15))

    pixels = Preprocessing(image_size=10, crop_fraction=0.5).to_pixels(image)

    assert (pixels == (0, 0, 255)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 40))
def test_any_shape_gives_the_same_size(width, height):
    """An image of 3000 × 1 is cropped before it is enlarged, so that it costs no more than a square one."""
    for size in ((width, height), (height, width)):
        assert Preprocessing(image_size=32).to_pixels(Image.new("RGB", size)).shape == (32, 32, 3)


def test_normalises_as_the_packaged_weights_expect():
    preprocessing = Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)

    normalised = preprocessing.normalise(pixels)

    expected = (pixels.double().permute(0, 3, 1, 2) - 127) / 128
    torch.testing.assert_close(normalised.double(), expected, rtol=0, atol=1e-6)
    assert normalised.dtype == torch.float32
    assert normalised.is_contiguous(memory_format=torch.channels_last)


def test_round_trips_through_json():
    preprocessing = Preprocessing(image_size=96, crop_fraction=0.9, interpolation="lanczos")

    assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing


@pytest.mark.parametrize(
    "change", [{"sharpness": 2}, {"image_size": 0}, {"interpolation": "nearest"}, {"std": [0, 1, 1]}, {"mean": "grey"}]
)
def test_refuses_unknown_or_invalid_stored_values(change):
    with pytest.raises(InvalidCheckpoint):
        Preprocessing.from_json({**Preprocessing().to_json(), **change})


def test_refuses_an_image_that_is_not_rgb():
    with pytest.raises(ValueError, match="decode_image"):
        Preprocessing().to_pixels(Image.new("L", (8, 8)))
