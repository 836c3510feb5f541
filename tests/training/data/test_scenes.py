import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.images import scene as busy_image
from training.data.scenes import cut_out, draw_scene


def studio(ground=(255, 255, 255), size=(120, 90)):
    """A product with a label of the background colour on a plain background."""
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    draw.rectangle((30, 20, 79, 69), fill=(180, 30, 40))
    draw.rectangle((45, 35, 60, 50), fill=ground)
    return image


@pytest.mark.parametrize("ground", [(255, 255, 255), (244, 246, 250), (20, 20, 20), (120, 160, 200)])
def test_a_product_is_cut_from_any_plain_background(ground):
    cut = cut_out(studio(ground))

    assert cut.product.size == (50, 50)
    assert cut.product.getpixel((2, 2)) == (180, 30, 40)
    assert np.asarray(cut.mask)[5:-5, 5:-5].min() == 255


def test_background_colour_inside_the_product_stays_part_of_it():
    cut = cut_out(studio())

    assert cut.mask.getpixel((22, 22)) == 255


def test_a_photo_without_plain_background_stays_whole():
    image = busy_image(3)

    cut = cut_out(image)

    assert cut.product.size == image.size
    assert np.asarray(cut.mask)[10:-10, 10:-10].min() == 255


def test_an_empty_image_stays_whole():
    assert cut_out(Image.new("RGB", (40, 30), (255, 255, 255))).product.size == (40, 30)


def test_a_scene_depends_on_its_seed_alone():
    cut = cut_out(studio())

    first, second, other = (np.asarray(draw_scene(cut, 64, np.random.default_rng(seed))) for seed in (1, 1, 2))

    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_most_scenes_show_the_product():
    """Its red is visible, on backgrounds other than the studio's."""
    cut = cut_out(studio())
    shares, grounds = [], []
    for seed in range(40):
        pixels = np.asarray(draw_scene(cut, 64, np.random.default_rng(seed))).astype(int)
        shares.append((pixels[..., 0] - pixels[..., 1:].max(axis=2) > 40).mean())
        grounds.append(tuple(pixels[0, 0] // 32))

    assert np.mean([share > 0.05 for share in shares]) > 0.9
    assert len(set(grounds)) > 10
