import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embedding.decoding import decode_image
from embedding.preprocessing import Preprocessing
from tests.images import encode, scene

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
HAS_VECTOR_INSTRUCTIONS = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


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
    (500, 500), (800, 600), (600, 800), (801, 600), (640, 427), (427, 640), (683, 1024), (600, 598), (300, 280),
    (1200, 300), (260, 1500), (448, 447), (1, 900),
]  # fmt: skip
PREPROCESSINGS = [
    Preprocessing(),
    Preprocessing(crop_fraction=0.875),
    Preprocessing(crop_fraction=0.9, interpolation="bilinear"),
    Preprocessing(interpolation="lanczos"),
]


@pytest.mark.parametrize("size", SIZES)
def test_equals_pillow_on_photos(size):
    """Within one, save for a few values in a million: both passes round, and ties may add up to two."""
    image = photo(size)
    for preprocessing in PREPROCESSINGS:
        pixels = preprocessing.to_pixels(image)

        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        differences = np.abs(pixels - pillow(image, preprocessing))
        assert differences.max() <= 2
        assert (differences > 1).mean() < 1e-4


def with_orientation(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(image, "JPEG", exif=exif)


ENCODINGS = {
    "JPEG": lambda image: encode(image, "JPEG"),
    "a progressive JPEG": lambda image: encode(image, "JPEG", progressive=True, subsampling=0),
    "a JPEG without its end marker": lambda image: encode(image, "JPEG")[:-2],
    "a JPEG that is rotated": with_orientation,
    "a grey JPEG": lambda image: encode(image.convert("L"), "JPEG"),
    "a JPEG of CMYK": lambda image: encode(image.convert("CMYK"), "JPEG"),
    "PNG": lambda image: encode(image, compress_level=1),
    "a transparent PNG": lambda image: encode(image.convert("RGBA"), compress_level=1),
    "a palette PNG": lambda image: encode(image.convert("P"), compress_level=1),
    "a PNG of 16 bits": lambda image: encode(
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8), compress_level=1
    ),
    "WebP": lambda image: encode(image, "WEBP", lossless=True, method=0),
    "GIF": lambda image: encode(image, "GIF"),
    "BMP": lambda image: encode(image, "BMP"),
    "TIFF": lambda image: encode(image, "TIFF"),
    "AVIF": lambda image: encode(image, "AVIF", speed=10),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_reads_the_memory_of_images_from_every_decoder(name, torch_calls):
    image = decode_image(ENCODINGS[name](photo((600, 500))))
    copy = Image.fromarray(np.asarray(image))

    pixels = Preprocessing().to_pixels(image)

    differences = np.abs(pixels - pillow(copy, Preprocessing()))
    assert differences.max() <= 2
    assert (differences > 1).mean() < 1e-4
    assert len(torch_calls) == (2 if HAS_VECTOR_INSTRUCTIONS else 0)


@pytest.mark.parametrize("image_size", [32, 224, 300])
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


@pytest.mark.skipif(not HAS_VECTOR_INSTRUCTIONS, reason="torch's fast filter needs AVX2")
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
    image = Image.effect_noise((2600, 1900), 60).convert("RGB")

    pixels = Preprocessing().to_pixels(image)

    assert np.abs(pixels - pillow(image, Preprocessing())).max() <= 2


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
