import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embedding.preprocessing import Preprocessing
from embedding.resizing import resize_square
from tests.images import scene

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
needs_vector_instructions = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="torch's fast filter needs AVX2"
)


def photo(size: tuple[int, int]) -> Image.Image:
    """Return a scene with the grain of a photo."""
    smooth = np.asarray(scene(size=size) if min(size) > 50 else Image.new("RGB", size, "red"))
    grain = np.random.default_rng(size[0]).normal(0, 3, smooth.shape)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def noise(width: int, height: int) -> Image.Image:
    """Return black and white pixels, which make any filter overshoot."""
    values = np.random.default_rng(width).integers(0, 2, (height, width, 1), dtype=np.uint8) * 255
    return Image.fromarray(values.repeat(3, axis=2))


def pillow(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize with Pillow alone."""
    side = min(image.size) * preprocessing.crop_fraction
    left, top = (image.width - side) / 2, (image.height - side) / 2
    size = (preprocessing.image_size, preprocessing.image_size)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize(size, FILTERS[preprocessing.interpolation], box=box)).astype(int)


@pytest.fixture
def torch_calls(monkeypatch):
    """The shapes that torch was asked to resize."""
    calls = []
    interpolate = torch.nn.functional.interpolate

    def record(pixels, **options):
        calls.append(tuple(pixels.shape))
        return interpolate(pixels, **options)

    monkeypatch.setattr(torch.nn.functional, "interpolate", record)
    return calls


# Square, landscape and portrait; offsets of whole and of half pixels; sides that are and are not multiples of 32; an
# offset smaller than the filter; scales near 1; images that Pillow resizes vertically first.
SIZES = [
    (500, 500), (800, 600), (600, 800), (801, 600), (600, 801), (640, 427), (427, 640), (683, 1024), (863, 577),
    (600, 598), (597, 600), (300, 280), (1200, 300), (260, 1500), (448, 447), (1, 900), (2304, 1728),
]  # fmt: skip


@pytest.mark.parametrize("crop_fraction", [1.0, 0.875, 0.9])
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", SIZES)
def test_equals_pillow_on_photos(size, interpolation, crop_fraction):
    """Within one, save for a few values in a million: both passes round, and ties may add up to two."""
    image = photo(size)
    preprocessing = Preprocessing(224, crop_fraction, interpolation)

    pixels = preprocessing.to_pixels(image)

    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    differences = np.abs(pixels - pillow(image, preprocessing))
    assert differences.max() <= 2
    assert (differences > 1).mean() < 1e-4


@pytest.mark.parametrize("image_size", [32, 96, 224, 300])
@pytest.mark.parametrize("size", [(700, 700), (900, 602), (601, 900)])
@pytest.mark.parametrize("draw", [lambda size: noise(*size), lambda size: scene(size=size)], ids=["noise", "scene"])
def test_equals_pillow_within_two_on_any_image(draw, size, image_size):
    """Where all rows are alike or all pixels extreme, more of the rounding adds up."""
    image = draw(size)
    preprocessing = Preprocessing(image_size)

    differences = np.abs(preprocessing.to_pixels(image) - pillow(image, preprocessing))

    assert differences.max() <= 2
    assert (differences > 1).mean() < 1e-3
    assert (differences > 0).mean() < 0.05


@needs_vector_instructions
@pytest.mark.parametrize("size", [(500, 500), (800, 600), (600, 800), (1024, 683), (480, 640), (1500, 500)])
def test_large_images_are_resized_by_torch(size, torch_calls):
    Preprocessing().to_pixels(scene(size=size))

    assert len(torch_calls) == 2


@pytest.mark.parametrize("size", [(224, 224), (224, 300), (270, 270), (864, 1151), (600, 599), (427, 640), (300, 900)])
def test_other_images_are_resized_by_pillow(size, torch_calls):
    """Small ones, half-pixel offsets that no whole number of output pixels reaches, tall ones."""
    image = photo(size)

    pixels = Preprocessing().to_pixels(image)

    assert (pixels == pillow(image, Preprocessing())).all()
    assert torch_calls == []


def test_an_image_of_several_blocks_of_memory_is_read_in_bands():
    """Pillow exports no image above 16 MiB at once."""
    image = photo((2600, 1900))

    pixels = resize_square(image, 350, 0, 1900, 224, "bicubic")

    assert np.abs(pixels - pillow(image, Preprocessing())).max() <= 1


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_resizing_starts_no_threads():
    """Each thread that runs parallel work keeps OpenMP threads, which slow the network down."""
    program = (
        "import os, threading, torch\nfrom PIL import Image\nfrom embedding.preprocessing import Preprocessing\n"
        "torch.set_num_threads(3)\n"
        "image, counts = Image.effect_noise((1400, 1000), 50).convert('RGB'), []\n"
        "def resize():\n    Preprocessing().to_pixels(image)\n    counts.append(len(os.listdir('/proc/self/task')))\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "thread = threading.Thread(target=resize); thread.start(); thread.join()\n"
        "print(counts[0] - before - 1)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert int(done.stdout) == 0
