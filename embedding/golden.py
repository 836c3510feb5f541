"""Golden samples: images stored in each checkpoint together with the embeddings that the model must produce.

They start from encoded bytes, so that a relevant change of decoding, preprocessing, network, library or hardware is
detected when a checkpoint is loaded.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from embedding.decoding import decode_image
from embedding.embedder import Embedder
from embedding.errors import InvalidCheckpoint
from embedding.runtimes.options import TOLERANCES


def golden_images() -> list[bytes]:
    """Return a few encoded images that differ in size, aspect ratio, content and format."""
    return [_gradient(), _shapes(), _texture(), _transparent_mark()]


def check_golden_samples(
    embedder: Embedder, images: list[bytes], expected: NDArray[np.float32], *, source: str
) -> None:
    """Embed the samples and compare; raises InvalidCheckpoint beyond the tolerance of the precision."""
    actual = embedder.embed([decode_image(image) for image in images])
    if actual.shape != expected.shape:
        raise InvalidCheckpoint(
            f"{source}: golden embeddings have shape {expected.shape}, those of the model {actual.shape}"
        )
    worst = float(1 - (actual * expected).sum(axis=1).min())
    tolerance = TOLERANCES[embedder.precision]
    # Negated, so that NaN is refused too.
    if not worst <= tolerance:
        raise InvalidCheckpoint(
            f"{source}: the model does not reproduce its golden samples on this machine "
            f"(1 - cosine = {worst:.2g}, allowed {tolerance:.2g} for {embedder.precision} with {embedder.runtime}); "
            "the files, or the versions of torch or Pillow, differ from those that it was saved with"
        )


def _encoded(image: Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, quality=92)
    return buffer.getvalue()


def _gradient() -> bytes:
    ramp = np.linspace(0, 255, 320, dtype=np.uint8)
    rows = np.broadcast_to(ramp, (240, 320))
    columns = np.broadcast_to(ramp[:240, None], (240, 320))
    return _encoded(Image.fromarray(np.stack([rows, columns, 255 - rows], axis=2)), "PNG")


def _shapes() -> bytes:
    image = Image.new("RGB", (400, 520), (236, 229, 214))
    draw = ImageDraw.Draw(image)
    draw.rectangle((120, 90, 290, 470), fill=(178, 34, 52))
    draw.ellipse((150, 180, 260, 290), fill=(250, 214, 60))
    draw.polygon([(120, 90), (290, 90), (205, 20)], fill=(40, 70, 140))
    return _encoded(image, "JPEG")


def _texture() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (28, 20, 3), dtype=np.uint8)
    return _encoded(Image.fromarray(noise).resize((300, 420), Image.Resampling.BICUBIC), "PNG")


def _transparent_mark() -> bytes:
    image = Image.new("RGBA", (180, 180), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((20, 20, 160, 160), fill=(20, 120, 60, 160), outline=(0, 0, 0, 255), width=6)
    return _encoded(image, "PNG")
