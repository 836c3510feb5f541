import numpy as np
import pytest

from service.demo.sample.drawing import PACKAGE_PIXELS, Pose, draw_package
from service.demo.sample.emblems import draw_emblem
from service.demo.sample.products import LAYOUTS, PATTERNS, PackageDesign, sample_products

# The first product of each package shape.
BY_SHAPE = {product.design.shape: product.design for product in reversed(sample_products(120, 0))}
UPRIGHT = Pose(turn=0, tilt=0, light=0)


def opacity(design: PackageDesign, pose: Pose = UPRIGHT) -> np.ndarray:
    return np.asarray(draw_package(design, pose).getchannel("A"))


@pytest.mark.parametrize("shape", sorted(BY_SHAPE))
def test_a_package_is_opaque_inside_and_clear_at_the_corners(shape):
    package = draw_package(BY_SHAPE[shape], Pose(turn=20, tilt=12))

    alpha = np.asarray(package.getchannel("A"))
    assert package.mode == "RGBA"
    assert alpha[alpha.shape[0] // 2, alpha.shape[1] // 2] == 255
    assert max(alpha[0, 0], alpha[0, -1], alpha[-1, 0], alpha[-1, -1]) < 255
    assert 0.7 * PACKAGE_PIXELS < max(package.size) < 1.5 * PACKAGE_PIXELS


@pytest.mark.parametrize("shape", sorted(BY_SHAPE))
def test_turning_a_package_changes_the_image(shape):
    front = draw_package(BY_SHAPE[shape], Pose(turn=0))
    turned = draw_package(BY_SHAPE[shape], Pose(turn=30)).resize(front.size)

    difference = np.abs(np.asarray(front, np.int16) - np.asarray(turned, np.int16))
    assert difference.mean() > 4


@pytest.mark.parametrize("shape", ["bottle", "can", "cup", "jar", "tin", "tube"])
def test_turning_a_round_package_keeps_its_outline(shape):
    turned = opacity(BY_SHAPE[shape], Pose(turn=40, tilt=0, light=0))

    np.testing.assert_array_equal(turned, opacity(BY_SHAPE[shape]))


@pytest.mark.parametrize("shape", ["can", "tin", "jar"])
def test_a_tilted_round_package_shows_its_lid(shape):
    upright, tilted = opacity(BY_SHAPE[shape]), opacity(BY_SHAPE[shape], Pose(tilt=20))

    assert tilted.shape[0] > upright.shape[0]
    # No gap between lid and body: away from the sides, where a neck recedes, each column has one opaque run.
    margin = tilted.shape[1] // 8
    is_opaque = tilted[:, margin:-margin] > 128
    assert np.diff(is_opaque.astype(np.int8), axis=0, prepend=0, append=0).clip(0).sum(axis=0).max() == 1


def test_the_sample_uses_every_layout_and_pattern():
    designs = [product.design for product in sample_products(400, 0)]

    assert {design.layout for design in designs} == set(LAYOUTS)
    assert {design.pattern for design in designs} == set(PATTERNS)


def test_every_flavour_has_an_emblem_that_can_be_drawn():
    emblems = {product.design.flavour for product in sample_products(2000, 0)}

    for flavour in emblems:
        emblem = draw_emblem(flavour.emblem, flavour.colour, 24)
        share = (np.asarray(emblem.getchannel("A")) > 128).mean()
        assert 0.1 < share < 0.95, flavour.name
