import contextlib
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from embedding.decoding import DecodingLimits, decode_image, decode_with_format
from embedding.errors import ImageTooLarge, InvalidImage, UnsupportedImageFormat
from tests.images import colour_image, encode, scene

ORIENTATION_TAG = 0x0112
# EXIF orientation -> how the camera stored the upright image.
STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def with_orientation(image: Image.Image, orientation: int, image_format: str = "JPEG", **options) -> bytes:
    stored = image.transpose(STORED_AS[orientation]) if orientation in STORED_AS else image
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return encode(stored, image_format, exif=exif, **options)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and contains almost no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_decodes_every_allowed_format_to_rgb(image_format):
    options = {"quality": 95} if image_format in ("JPEG", "WEBP") else {}
    decoded = decode_with_format(encode(colour_image((200, 30, 60)), image_format, **options))

    assert decoded.image.mode == "RGB"
    assert decoded.image.size == (32, 32)
    assert np.abs(np.asarray(decoded.image).astype(int) - (200, 30, 60)).max() <= 12
    assert decoded.media_type == f"image/{image_format.lower()}"


@pytest.mark.parametrize(
    ("mode", "image_format", "colour", "expected"),
    [
        ("L", "PNG", 77, (77, 77, 77)),
        ("1", "PNG", 1, (255, 255, 255)),
        ("LA", "PNG", (10, 0), (255, 255, 255)),
        ("RGBA", "PNG", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", "WEBP", (0, 0, 0, 0), (255, 255, 255)),
        ("RGBA", "TIFF", (9, 9, 9, 0), (255, 255, 255)),
        ("CMYK", "TIFF", (0, 255, 255, 0), (255, 0, 0)),
        ("P", "PNG", 0, (0, 0, 0)),
        ("I;16", "PNG", 0xABCD, (0xAB, 0xAB, 0xAB)),
        ("I;16", "TIFF", 0xFFFF, (255, 255, 255)),
    ],
)
def test_converts_each_colour_mode_to_rgb(mode, image_format, colour, expected):
    image = Image.new(mode, (8, 8), colour)

    decoded = decode_image(encode(image, image_format))

    assert decoded.getpixel((4, 4)) == expected


def test_half_transparent_pixels_are_composed_on_white():
    decoded = decode_image(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "PNG"))

    assert decoded.getpixel((0, 0)) == (255, 127, 127)


def test_transparent_palette_and_grey_samples_become_white():
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([0] * 768)
    grey = Image.new("L", (4, 4), 9)
    deep = Image.fromarray(np.full((4, 4), 700, np.uint16))

    for image, transparency in ((palette, 3), (grey, 9), (deep, 700)):
        decoded = decode_image(encode(image, "PNG", transparency=transparency))
        assert decoded.getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_the_high_byte():
    ramp = np.arange(0, 65536, 257, dtype=np.uint16)[:256].reshape(16, 16)

    decoded = np.asarray(decode_image(encode(Image.fromarray(ramp), "PNG")))

    assert (decoded[:, :, 0] == ramp >> 8).all()


@pytest.mark.parametrize(
    ("mode", "samples"), [("I", "32-bit or signed samples"), ("F", "floating-point samples"), ("LAB", "LAB colours")]
)
def test_refuses_colour_modes_whose_range_is_unknown(mode, samples):
    with pytest.raises(UnsupportedImageFormat, match=f"images of {samples} are not supported; save it as"):
        decode_image(encode(Image.new(mode, (4, 4)), "TIFF"))


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "TIFF"])
def test_takes_the_first_of_several_frames(image_format):
    first, second = colour_image("red"), colour_image("blue")
    options = {"lossless": True} if image_format == "WEBP" else {}

    decoded = decode_image(encode(first, image_format, save_all=True, append_images=[second], **options))

    assert decoded.getpixel((5, 5)) == (255, 0, 0)


def test_reads_the_multi_image_jpegs_of_phones():
    decoded = decode_with_format(
        encode(colour_image("red"), "MPO", save_all=True, append_images=[colour_image("blue")])
    )

    assert decoded.media_type == "image/jpeg"
    assert np.asarray(decoded.image)[5, 5, 0] > 250


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_orientation_is_applied_exactly(orientation, image_format):
    upright = scene()

    decoded = decode_image(with_orientation(upright, orientation, image_format))

    assert (np.asarray(decoded) == np.asarray(upright)).all()


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientations_are_ignored(orientation):
    image = scene()

    decoded = decode_image(with_orientation(image, orientation, "PNG"))

    assert (np.asarray(decoded) == np.asarray(image)).all()


def test_a_damaged_exif_block_is_ignored():
    image_bytes = encode(colour_image("red"), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")

    assert decode_image(image_bytes).getpixel((0, 0)) == (255, 0, 0)


def test_an_empty_file_is_reported_as_empty():
    with pytest.raises(InvalidImage, match="empty"):
        decode_image(b"")


@pytest.mark.parametrize("content", [b"hello", b"%PDF-1.7", b"\0" * 1000, b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_refuses_bytes_that_are_not_an_image(content):
    with pytest.raises(UnsupportedImageFormat, match="supported format"):
        decode_image(content)


@pytest.mark.parametrize("image_format", ["PPM", "ICO", "TGA", "PCX", "JPEG2000"])
def test_refuses_formats_outside_the_allow_list(image_format):
    image_bytes = encode(colour_image("red"), image_format)

    with pytest.raises(UnsupportedImageFormat):
        decode_image(image_bytes)


def test_the_byte_limit_error_names_both_sizes():
    with pytest.raises(ImageTooLarge, match="2,000 bytes; at most 1,999"):
        decode_image(b"x" * 2000, DecodingLimits(max_image_bytes=1999))


def test_the_pixel_limit_is_checked_from_the_header():
    limits = DecodingLimits(max_image_pixels=99)

    with pytest.raises(ImageTooLarge, match="10 × 10 pixels; at most 99"):
        decode_image(png_header(10, 10), limits)


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (10_000, 9_000), (2**31 - 1, 2**31 - 1)])
def test_an_image_of_gigapixels_is_refused(width, height):
    with pytest.raises(ImageTooLarge, match="at most 50,000,000"):
        decode_image(png_header(width, height))


def webp_header(width: int, height: int) -> bytes:
    """Return a lossless WebP that declares a size and contains the pixels of a tiny image."""
    image_bytes = bytearray(encode(Image.new("L", (4, 4)), "WEBP", lossless=True))
    # VP8L: after a signature byte, 14 bits of width - 1 and 14 bits of height - 1.
    position = image_bytes.index(b"VP8L") + 9
    assert image_bytes[position - 1] == 0x2F
    (bits,) = struct.unpack_from("<I", image_bytes, position)
    struct.pack_into("<I", image_bytes, position, (bits >> 28 << 28) | (height - 1) << 14 | (width - 1))
    return bytes(image_bytes)


@pytest.mark.long
def test_a_huge_webp_is_refused_without_using_memory():
    """The decoder of the format reserves a canvas when a file is opened; its pages must not be touched."""
    program = (
        "import resource, sys\nfrom embedding.decoding import decode_image\n"
        "from embedding.errors import ImageTooLarge\n"
        "data = sys.stdin.buffer.read(); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: decode_image(data)\nexcept ImageTooLarge: pass\nelse: raise SystemExit('not refused')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    image_bytes = webp_header(9_000, 9_000)

    done = subprocess.run([sys.executable, "-c", program], input=image_bytes, capture_output=True, check=True)

    assert int(done.stdout) < 40 * 1024  # KiB; the canvas would be 316 MiB


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_refuses_truncated_files(image_format, share):
    whole = encode(scene(), image_format)

    with pytest.raises(InvalidImage, match=r"damaged|truncated|no image"):
        decode_image(whole[: int(len(whole) * share)])


def test_a_jpeg_with_too_many_scans_is_refused_before_decoding():
    """Each scan of a few bytes refines the whole image, so that 300 kB would take minutes to decode."""
    progressive = encode(Image.new("L", (1000, 1000), 90), "JPEG", progressive=True)
    last_scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    bomb = progressive[:-2] + last_scan * 5000 + progressive[-2:]

    assert decode_image(progressive).size == (1000, 1000)
    with pytest.raises(InvalidImage, match="scans; at most 100"):
        decode_image(bomb)


@pytest.mark.long
def test_composing_a_large_transparent_image_needs_less_than_two_more_copies():
    program = (
        "import resource, sys\nfrom embedding.decoding import decode_image\n"
        "data = sys.stdin.buffer.read(); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "decode_image(data); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    image_bytes = encode(Image.new("RGBA", (4000, 4000)), "PNG", compress_level=1)

    done = subprocess.run([sys.executable, "-c", program], input=image_bytes, capture_output=True, check=True)

    assert int(done.stdout) * 1024 < 2.5 * 4000 * 4000 * 4


def test_invalid_limits_are_refused():
    with pytest.raises(ValueError, match="max_image_pixels"):
        DecodingLimits(max_image_pixels=0)
    with pytest.raises(ValueError, match="max_image_pixels"):
        DecodingLimits(max_image_pixels=10**12)
    with pytest.raises(ValueError, match="max_image_bytes"):
        DecodingLimits(max_image_bytes=0)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    mode=st.sampled_from(["RGB", "L", "LA", "RGBA", "P", "1", "CMYK", "I;16"]),
    data=st.data(),
)
def test_any_image_keeps_its_size_and_becomes_rgb(width, height, mode, data):
    formats = {
        "CMYK": ["TIFF", "JPEG"],
        "LA": ["PNG", "WEBP"],
        "RGBA": ["PNG", "WEBP", "TIFF"],
        "I;16": ["PNG", "TIFF"],
    }
    image_format = data.draw(st.sampled_from(formats.get(mode, ["PNG", "TIFF", "GIF"])))
    image = Image.new(mode, (width, height))

    decoded = decode_image(encode(image, image_format))

    assert decoded.mode == "RGB"
    assert decoded.size == (width, height)


SEEDS = [encode(scene(size=(60, 50)), name) for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
SEEDS += [with_orientation(scene(size=(60, 50)), 6), with_orientation(scene(size=(60, 50)), 5, "TIFF")]


@settings(max_examples=400, deadline=None)
@given(seed=st.sampled_from(SEEDS), data=st.data())
def test_damaged_files_are_decoded_or_refused(seed, data):
    """Whatever bytes are changed or removed, the outcome is an RGB image or InvalidImage."""
    damaged = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        if data.draw(st.booleans()):
            damaged[position] = data.draw(st.integers(0, 255))
        else:
            del damaged[position : position + data.draw(st.integers(1, 8))]
            damaged = damaged or bytearray(b"x")
    limits = DecodingLimits(max_image_pixels=1_000_000)

    with contextlib.suppress(InvalidImage):
        assert decode_image(bytes(damaged), limits).mode == "RGB"


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBP", b"GIF89a", b"BM", b"II*\0"]),
)
def test_arbitrary_bytes_are_decoded_or_refused(content, magic):
    with contextlib.suppress(InvalidImage):
        decode_image(magic + content, DecodingLimits(max_image_pixels=1_000_000))
