"""The time from the bytes of a JPEG to the network's input: Pillow alone against the path that Akin uses.

    python benchmarks/decoding_speed.py [FOLDER] [--rounds 7] [--embeddings]

FOLDER contains grocery.zip (by default ../shared/data beside the checkout; without it, images are drawn). The larger
images are Grocery photos, enlarged, with grain. Each image goes through both paths in turn, in one thread, timed in CPU
seconds of this thread. `decoder alone` compares Pillow's decoder with simplejpeg, where that is installed. With
--embeddings, the cosines between the embeddings of both are printed too.
"""

import argparse
import statistics
import time
import zipfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from embedding.containers import decoded_bytes
from embedding.decoding import decode_image
from embedding.embedder import Embedder
from embedding.model import Architecture, create_model
from embedding.preprocessing import Preprocessing
from embedding.runtimes.network import NetworkOptions

SIZES = {"800 × 600": (800, 600), "1024 × 683": (1024, 683), "1 MP": (1152, 864), "1 MP portrait": (864, 1152)}
SIZES |= {"1 MP, odd": (1151, 864), "12 MP": (4032, 3024)}
NUM_PHOTOS = 8
PREPROCESSING = Preprocessing()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--embeddings", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photos = grocery_photos(arguments.folder / "grocery.zip")
    images = {"Grocery": photos} | {name: enlarged(photos, size) for name, size in SIZES.items()}
    embedder = (
        Embedder(*create_model(Architecture(), pretrained=True), NetworkOptions("cpu"))
        if arguments.embeddings
        else None
    )
    print(f"{'ms per image':14} {'Pillow':>8} {'Akin':>8} {'ratio':>6}   off by 1, 2   decoder alone")
    for name, encoded in images.items():
        print(line(name, encoded, arguments.rounds, embedder), flush=True)


def line(name: str, encoded: list[bytes], rounds: int, embedder: Embedder | None) -> str:
    before, after = in_turn(pillow_pixels, akin_pixels, encoded, rounds)
    expected, actual = (np.stack([path(image) for image in encoded]) for path in (pillow_pixels, akin_pixels))
    differences = np.abs(expected.astype(int) - actual)
    text = f"{name:14} {before:8.2f} {after:8.2f} {before / after:6.2f}"
    text += f"   {(differences == 1).mean():7.4f} {(differences == 2).mean():6.4f} {decoders(encoded, rounds):>13}"
    assert differences.max() <= 2
    if embedder is not None:
        cosines = (embedder.embed_pixels(expected) * embedder.embed_pixels(actual)).sum(axis=1)
        text += f"   1 - cosine at most {1 - cosines.min():.1e}"
    return text


def decoders(encoded: list[bytes], rounds: int) -> str:
    """Compare Pillow's decoder with simplejpeg's, both given the same bytes."""
    if find_spec("simplejpeg") is None:
        return "-"
    simplejpeg = import_module("simplejpeg")
    stripped = [decoded_bytes("JPEG", image).data for image in encoded]
    before, after = in_turn(pillow_decoder, lambda data: simplejpeg.decode_jpeg(data, "RGBX"), stripped, rounds)
    return f"{before:.2f} / {after:.2f}"


def in_turn(
    first: Callable[[bytes], object], second: Callable[[bytes], object], images: list[bytes], rounds: int
) -> tuple[float, float]:
    """Return the median milliseconds of both functions."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for image in images:
            for function, measured in zip((first, second), seconds, strict=True):
                start = time.thread_time()
                function(image)
                measured.append(time.thread_time() - start)
    return 1000 * statistics.median(seconds[0]), 1000 * statistics.median(seconds[1])


def pillow_decoder(data: bytes) -> Image.Image:
    image = JpegImagePlugin.JpegImageFile(BytesIO(data))
    image.decodermaxblock = len(data)
    image.load()
    return image


def pillow_pixels(image_bytes: bytes) -> NDArray[np.uint8]:
    """Decode and resize with Pillow, as Akin did up to issue 13."""
    image = JpegImagePlugin.JpegImageFile(BytesIO(decoded_bytes("JPEG", image_bytes).data)).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    size = (PREPROCESSING.image_size, PREPROCESSING.image_size)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)))


def akin_pixels(image_bytes: bytes) -> NDArray[np.uint8]:
    return PREPROCESSING.to_pixels(decode_image(image_bytes))


def grocery_photos(archive: Path) -> list[bytes]:
    if not archive.is_file():
        print(f"{archive} is missing: drawn images instead of photos")
        noise = np.random.default_rng(0).integers(0, 256, (NUM_PHOTOS, 12, 16, 3), dtype=np.uint8)
        return [jpeg(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)) for image in noise]
    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if "/test/" in name and name.endswith(".jpg"))
        return [opened.read(name) for name in names[:: len(names) // NUM_PHOTOS][:NUM_PHOTOS]]


def enlarged(photos: list[bytes], size: tuple[int, int]) -> list[bytes]:
    """Enlarge photos, and add the grain that keeps a JPEG from being too easy to decode."""
    generator = np.random.default_rng(1)
    encoded = []
    for photo in photos if size[0] * size[1] < 2e6 else photos[:2]:
        smooth = np.asarray(decode_image(photo).resize(size, Image.Resampling.BICUBIC))
        grain = generator.normal(0, 4, (size[1], size[0], 3)).astype(np.float32)
        encoded.append(jpeg(Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))))
    return encoded


def jpeg(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
