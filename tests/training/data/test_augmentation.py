import math

import numpy as np
import pytest
import torch
from PIL import Image

from embedding.preprocessing import Preprocessing
from training.config import AugmentationConfig, load_preset
from training.data.augmentation import Augmentation, uncropped

SIZE = 24
PREPROCESSING = Preprocessing(image_size=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3)


def images(count=64):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)


def augmentation(**knobs):
    return Augmentation(AugmentationConfig(**{"flip": 0.0} | knobs), PREPROCESSING)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_plain_images_are_not_transformed():
    pixels = images(8)
    made = augmentation(crop_area_min=0.2, flip=0.5, brightness=0.5, grey=0.5)
    draws = made.draw(8, generator(), torch.ones(8, dtype=torch.bool))

    varied = made.apply(pixels, draws)

    torch.testing.assert_close(varied, PREPROCESSING.normalise(pixels), atol=1e-5, rtol=0)


def test_neutral_settings_change_nothing():
    pixels = images(8)
    made = augmentation(crop_area_min=1.0, crop_ratio=1.0)

    varied = made.apply(pixels, made.draw(8, generator()))

    torch.testing.assert_close(varied, PREPROCESSING.normalise(pixels), atol=1e-5, rtol=0)


def test_a_flip_mirrors_the_image():
    pixels = images(4)
    made = augmentation(crop_area_min=1.0, crop_ratio=1.0, flip=1.0)

    varied = made.apply(pixels, made.draw(4, generator()))

    torch.testing.assert_close(varied, PREPROCESSING.normalise(pixels).flip(3), atol=1e-5, rtol=0)


def test_crops_are_inside_the_image_with_the_configured_areas():
    made = augmentation(crop_area_min=0.25, crop_area_max=0.5, crop_ratio=4 / 3)

    crop = made.draw(5000, generator()).crop

    centre_x, centre_y, width, height = crop.unbind(1)
    assert (centre_x.abs() + width <= 1 + 1e-6).all()
    assert (centre_y.abs() + height <= 1 + 1e-6).all()
    area = width * height
    assert 0.25 - 1e-4 <= area.min() < 0.27
    assert 0.48 < area.max() <= 0.5 + 1e-4
    ratio = width / height
    assert ratio.max() <= 4 / 3 + 1e-4
    assert ratio.log().mean().abs() < 0.02


def test_a_crop_shows_that_part_of_the_image():
    """In an image whose red increases from left to right, the mean red of a crop is that of its centre."""
    ramp = torch.linspace(0, 255, SIZE).round().to(torch.uint8)
    pixels = ramp.view(1, 1, SIZE, 1).expand(200, SIZE, SIZE, 3).contiguous()
    made = augmentation(crop_area_min=0.1, crop_area_max=0.3)
    draws = made.draw(200, generator())

    red = made.apply(pixels, draws)[:, 0].mean(dim=(1, 2))

    torch.testing.assert_close(red, (draws.crop[:, 0] * SIZE / (SIZE - 1) + 1) / 2, atol=0.03, rtol=0)


@pytest.mark.parametrize("knob", ["brightness", "contrast", "saturation"])
def test_colours_vary_within_their_range(knob):
    made = augmentation(crop_area_min=1.0, crop_ratio=1.0, **{knob: 0.4})
    draws = made.draw(2000, generator())

    column = ["brightness", "contrast", "saturation"].index(knob)
    assert 0.6 <= draws.colour[:, column].min() < 0.61
    assert 1.39 < draws.colour[:, column].max() <= 1.4
    varied = made.apply(images(2000)[:50], draws[:50])
    assert varied.min() >= 0
    assert varied.max() <= 1


def test_grey_images_have_equal_channels():
    made = augmentation(crop_area_min=1.0, grey=1.0)

    varied = made.apply(images(4), made.draw(4, generator()))

    torch.testing.assert_close(varied[:, 0], varied[:, 2], atol=1e-5, rtol=0)


def test_a_share_of_a_batch_is_transformed_as_in_the_whole_batch():
    """Several processes rely on this."""
    made = augmentation(crop_area_min=0.2, flip=0.5, brightness=0.3)
    pixels = images(8)
    draws = made.draw(8, generator())

    whole = made.apply(pixels, draws)

    torch.testing.assert_close(made.apply(pixels[2:5], draws[2:5]), whole[2:5], atol=0, rtol=0)


def test_training_sees_the_margin_that_evaluation_crops_away():
    cropped = Preprocessing(image_size=224, crop_fraction=0.875)

    square = uncropped(cropped)

    assert (square.image_size, square.crop_fraction) == (256, 1.0)
    assert uncropped(PREPROCESSING) is PREPROCESSING


def test_larger_squares_are_resized_to_the_network_input():
    made = Augmentation(AugmentationConfig(), PREPROCESSING)
    pixels = torch.zeros(2, 30, 30, 3, dtype=torch.uint8)

    varied = made.apply(pixels, made.draw(2, generator()))

    assert varied.shape == (2, 3, SIZE, SIZE)
    assert not math.isnan(float(varied.sum()))


def test_plain_images_equal_the_crop_of_evaluation():
    """The cached square shows more than the evaluation's crop."""
    preprocessing = Preprocessing(image_size=56, crop_fraction=0.875, mean=(0.0,) * 3, std=(1.0,) * 3)
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 128, dtype=np.uint8)[None, :, None], (128, 1, 3)))
    square = torch.from_numpy(np.array(uncropped(preprocessing).to_pixels(ramp)))[None]
    expected = preprocessing.normalise(torch.from_numpy(np.array(preprocessing.to_pixels(ramp)))[None])
    made = Augmentation(AugmentationConfig(), preprocessing)

    plain = made.apply(square, made.draw(1, generator(), torch.ones(1, dtype=torch.bool)))

    torch.testing.assert_close(plain, expected, atol=0.02, rtol=0)


def test_a_share_of_images_stays_plain():
    made = augmentation(crop_area_min=0.2, plain=0.3)

    crop = made.draw(4000, generator()).crop

    share = (crop == torch.tensor([0.0, 0.0, 1.0, 1.0])).all(dim=1).float().mean()
    assert share == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("num_seeds", [0, 1, 5])
def test_seeded_draws_equal_draws_of_single_images(num_seeds):
    made = Augmentation(load_preset("head").augmentation, Preprocessing(image_size=32))
    seeds = [10**15 + number for number in range(num_seeds)]

    together = made.draw_seeded(seeds)

    assert len(together) == num_seeds
    for row, seed in enumerate(seeds):
        alone = made.draw(1, torch.Generator().manual_seed(seed))
        assert torch.equal(together.crop[row : row + 1], alone.crop)
        assert torch.equal(together.colour[row : row + 1], alone.colour)


def test_one_image_takes_each_of_the_draws():
    made = Augmentation(load_preset("head").augmentation, Preprocessing(image_size=32))
    pixels, draws = images(1), made.draw(5, generator())

    varied = made.apply(pixels, draws)

    assert torch.equal(varied, made.apply(pixels.expand(5, -1, -1, -1), draws))
    assert varied.is_contiguous(memory_format=torch.channels_last)
    plain_layout = made.apply(pixels, draws, torch.contiguous_format)
    assert plain_layout.is_contiguous()
    assert torch.equal(plain_layout, varied)


@pytest.mark.parametrize("size", [1, 31, 32])
def test_the_sampled_positions_are_those_of_an_affine_map(size):
    """Within 1e-6, the rounding of the product of matrices in affine_grid."""
    made = Augmentation(AugmentationConfig(), Preprocessing(image_size=size))
    draws = made.draw(4, generator())
    centre_x, centre_y, width, height = draws.crop.unbind(1)
    zero = torch.zeros_like(width)
    matrix = torch.stack([width, zero, centre_x, zero, height, centre_y], dim=1).view(-1, 2, 3)

    expected = torch.nn.functional.affine_grid(matrix, [4, 3, size, size], align_corners=False)

    torch.testing.assert_close(made._grid(draws.crop), expected, atol=1e-6, rtol=0)
