import struct

import pytest
from PIL import Image

from embedding import decoding
from embedding.decoding import DecodingLimits, decode_image, decode_with_format
from embedding.errors import ImageTooLarge, InvalidImage
from tests.embedding.sources import DATA, blocks, difference
from tests.images import encode


def test_the_rotation_of_a_heic_is_applied_once_and_its_alpha_composed():
    transparent = blocks()
    transparent.paste((255, 255, 255), (32, 0, 48, 32))

    assert difference(decode_image((DATA / "blocks-alpha.heic").read_bytes()), transparent) < 4
    assert decode_with_format((DATA / "blocks.heic").read_bytes()).media_type == "image/heic"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_of_an_avif_is_applied_once(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encode(blocks(), "AVIF", exif=exif, quality=95, subsampling="4:4:4")
    transposition = decoding._TRANSPOSITIONS.get(orientation)
    upright = blocks() if transposition is None else blocks().transpose(transposition)

    assert difference(decode_image(stored), upright) < 4


@pytest.mark.parametrize("name", ["blocks.heic", "AVIF"])
def test_the_pixels_of_heic_and_avif_are_counted_before_decoding(name):
    image_bytes = encode(blocks(), "AVIF") if name == "AVIF" else (DATA / name).read_bytes()

    with pytest.raises(ImageTooLarge, match="48 × 32 pixels; at most 1,000 pixels"):
        decode_image(image_bytes, DecodingLimits(max_image_pixels=1000))


@pytest.mark.parametrize("frames", [1, 3])
def test_the_size_that_an_avif_declares_in_its_coded_data_counts(frames):
    """The decoder would reserve memory for the coded image, and scale it to the size that the container declares."""
    large = Image.new("RGB", (640, 512))
    options = {"save_all": True, "append_images": [large.rotate(180)] * (frames - 1)} if frames > 1 else {}
    honest = encode(large, "AVIF", **options)
    small = honest.replace(struct.pack(">II", 640, 512), struct.pack(">II", 64, 48))
    small = small.replace(struct.pack(">II", 640 << 16, 512 << 16), struct.pack(">II", 64 << 16, 48 << 16))
    assert small != honest

    with pytest.raises(ImageTooLarge, match="640 × 512 pixels; at most 100,000"):
        decode_image(small, DecodingLimits(max_image_pixels=100_000))


@pytest.mark.parametrize("name", ["blocks-grey.heic", "blocks-deep.heic"])
def test_grey_heic_of_eight_and_ten_bits_keeps_its_high_byte(name):
    assert difference(decode_image((DATA / name).read_bytes()), blocks().convert("L")) < 4


@pytest.mark.parametrize("bits", range(9, 16))
def test_a_heic_whose_samples_are_narrower_than_its_header_says_is_refused(bits):
    """The decoder's library would write beyond the samples when it widens them."""
    grey = (DATA / "blocks-grey.heic").read_bytes()
    declared = grey.replace(b"\xf8\xf8\0\0\x0f", bytes([0xF8 | bits - 8]) + b"\xf8\0\0\x0f")
    assert declared != grey

    for _ in range(20):
        with pytest.raises(InvalidImage, match="damaged or truncated"):
            decode_image(declared)


def test_metadata_of_a_heic_with_an_unreadable_name_is_ignored():
    """The decoder's library ends the process where the name of a metadata item is not text."""
    rotated = (DATA / "blocks-rotated.heic").read_bytes()
    unnamed = rotated.replace(b"Exif", b"Ex\xc4f", 1)
    assert unnamed != rotated

    assert difference(decode_image(unnamed), blocks()) < 4
