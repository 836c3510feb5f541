"""The time from the bytes of a JPEG to the network's input: Pillow alone against the path that Akin uses.

    python -m benchmarks.decoding_speed [--photos DIR] [--rounds 7] [--embeddings] [--json FILE]

The larger images are the photos, enlarged, with grain. Each image goes through both paths in turn, in one thread, timed
in CPU seconds of this thread. `decoder alone` compares Pillow's decoder with simplejpeg, where that is installed. With
--embeddings, the cosines between the embeddings of both are printed too.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from benchmarks.photos import add_photos_option, photos
from benchmarks.table import Row, write_rows
from embedding.containers import decoded_bytes
from embedding.decoding import decode_image
from embedding.embedder import Embedder
from embedding.model import Architecture, create_model
from embedding.preprocessing import Preprocessing
from embedding.runtimes.options import NetworkOptions

SIZES = {"800 × 600": (800, 600), "1024 × 683": (1024, 683), "1 MP": (1152, 864), "1 MP portrait": (864, 1152)}
SIZES |= {"1 MP, odd": (1151, 864), "12 MP": (4032, 3024)}
NUM_PHOTOS = 8
PREPROCESSING = Preprocessing()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_photos_option(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the ratios to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    given = photos(arguments.photos, NUM_PHOTOS)
    images = {"as they are": given} | {name: enlarged(given, size) for name, size in SIZES.items()}
    embedder = (
        Embedder(*create_model(Architecture(), pretrained=True), NetworkOptions("cpu"))
        if arguments.embeddings
        else None
    )
    print(f"{'ms per image':14} {'Pillow':>8} {'Akin':>8} {'ratio':>6}   off by 1, 2   decoder alone")
    rows = []
    for name, encoded in images.items():
        text, ratio = line(name, encoded, arguments.rounds, embedder)
        rows.append(Row(f"decoding, Pillow alone / Akin: {name}", ratio))
        print(text, flush=True)
    if arguments.json:
        write_rows(arguments.json, rows)


def line(name: str, encoded: list[bytes], rounds: int, embedder: Embedder | None) -> tuple[str, float]:
    before, after = in_turn(pillow_pixels, akin_pixels, encoded, rounds)
    expected, actual = (np.stack([path(image) for image in encoded]) for path in (pillow_pixels, akin_pixels))
    differences = np.abs(expected.astype(int) - actual)
    text = f"{name:14} {before:8.2f} {after:8.2f} {before / after:6.2f}"
    text += f"   {(differences == 1).mean():7.4f} {(differences == 2).mean():6.4f} {decoders(encoded, rounds):>13}"
    assert differences.max() <= 2
    if embedder is not None:
        cosines = (embedder.embed_pixels(expected) * embedder.embed_pixels(actual)).sum(axis=1)
        text += f"   1 - cosine at most {1 - cosines.min():.1e}"
    return text, before / after


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
    """Decode and resize with Pillow alone."""
    image = JpegImagePlugin.JpegImageFile(BytesIO(decoded_bytes("JPEG", image_bytes).data)).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    size = (PREPROCESSING.image_size, PREPROCESSING.image_size)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)))


def akin_pixels(image_bytes: bytes) -> NDArray[np.uint8]:
    return PREPROCESSING.to_pixels(decode_image(image_bytes))


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
