"""Every format × colour mode × oddity: the pixels of the source, or one of a few reasons."""

import io
import re
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from embedding.decoding import DecodingLimits, decode_image
from embedding.errors import ImageTooLarge, InvalidImage, UnsupportedImageFormat
from tests.embedding.sources import (
    DATA,
    NOISE,
    blocks,
    chunk,
    difference,
    segment,
    tiff,
    with_chunks,
    with_segments,
    with_webp_chunk,
)
from tests.images import encode

# All reasons that a sender of an image can be given; docs/catalogue.md lists them.
REASONS = re.compile(
    r"is damaged or truncated|is truncated|at most [\d,]+ (pixels |scans )?are allowed|are not supported; save it"
    r"|not (an image in )?a supported format|is empty"
)
INTERNAL = re.compile(r"PIL|Plugin|Error|MAX_|codec|decoder|NoneType|unpack|b'|<.*>")
OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "MPO": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}
MODES = [
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "F",
    "I;16",
]
WITHOUT_A_RANGE = {"LAB", "I", "F"}
JPEG, PNG = encode(blocks(), "JPEG", **OPTIONS["JPEG"]), encode(blocks())


def check_reason(error: Exception) -> None:
    """Check that an error gives a documented reason, and no name of a program."""
    assert REASONS.search(str(error)), error
    assert not INTERNAL.search(str(error)), error


def in_mode(mode: str) -> Image.Image:
    """Return the blocks in a colour mode."""
    image = blocks()
    if mode in ("La", "RGBa"):
        return image.convert(mode.upper()).convert(mode)
    if mode == "PA":
        return image.convert("P", palette=Image.Palette.ADAPTIVE).convert("PA")
    if mode == "P":
        return image.convert("P", palette=Image.Palette.ADAPTIVE)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
        assert converted is not None
        return converted
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8)
    return image.convert(mode)


def expected_of(mode: str) -> Image.Image:
    """Return what remains of the blocks in a colour mode."""
    return blocks().convert({"1": "1", "L": "L", "LA": "L", "La": "L", "I;16": "L"}.get(mode, "RGB"))


@pytest.mark.parametrize("image_format", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_mode_that_pillow_writes_gives_its_pixels_or_a_reason(image_format):
    num_written = 0
    for mode in MODES:
        # Pillow saturates these when it writes 8 bits.
        if mode in WITHOUT_A_RANGE | {"I;16"} and image_format not in ("PNG", "TIFF"):
            continue
        try:
            image_bytes = encode(in_mode(mode), image_format, **OPTIONS.get(image_format, {}))
        except (OSError, KeyError, ValueError):
            continue  # Pillow does not write this mode
        num_written += 1
        if mode in WITHOUT_A_RANGE and image_format == "TIFF":
            with pytest.raises(UnsupportedImageFormat, match="not supported; save it as 8- or 16-bit RGB or grey"):
                decode_image(image_bytes)
            continue
        # Mode 1 is dithered: JPEG and AVIF blur it.
        tolerance = 12 if mode == "1" else 4 if image_format in OPTIONS else 1.5
        assert difference(decode_image(image_bytes), expected_of(mode)) < tolerance, mode
    assert num_written >= 5


def test_jpegs_of_cmyk_are_inverted_as_adobe_writes_them():
    image_bytes = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)

    assert np.abs(np.asarray(decode_image(image_bytes)).astype(int) - (255, 0, 0)).max() < 6


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_arrangement_of_tiff_samples_gives_its_pixels_or_a_reason(dtype, byte_order, is_big):
    """Colours × extra channels: 0 unspecified, 1 associated alpha, 2 alpha, in any number that occurs."""
    rgb = np.asarray(blocks())
    grey = np.asarray(blocks().convert("L"))[..., None]
    sources: dict[int, tuple[np.ndarray, Image.Image]] = {
        0: (255 - grey, blocks().convert("L")),
        1: (grey, blocks().convert("L")),
        2: (rgb, blocks()),
        5: (np.asarray(blocks().convert("CMYK")), blocks()),
        6: (np.asarray(blocks().convert("YCbCr")), blocks()),
        8: (rgb, blocks()),
        9: (rgb, blocks()),
    }
    read = set()
    for photometric, (samples, expected) in sources.items():
        for extras in ((), (0,), (1,), (2,), (0, 0), (2, 0), (1, 0)):
            # Opaque alpha; the other extra channels hold anything.
            extra = np.full((32, 48, len(extras)), 255, np.uint8)
            channels = np.concatenate([samples, extra], axis=2).astype(dtype)
            deep = channels << 8 | channels if dtype is np.uint16 else channels
            image_bytes = tiff(deep, photometric, extras, byte_order=byte_order, is_big=is_big)
            try:
                decoded = decode_image(image_bytes)
            except UnsupportedImageFormat as error:
                check_reason(error)
                continue
            read.add((photometric, extras))
            assert difference(decoded, expected) < 1.5, (photometric, extras)
    at_either_depth = {(0, ()), (1, ()), (2, ()), (2, (0,)), (2, (1,)), (2, (2,)), (5, ())}
    at_eight_bits = {(1, (0,)), (1, (1,)), (1, (2,)), (2, (0, 0)), (2, (1, 0)), (2, (2, 0)), (5, (0,)), (5, (0, 0))}
    if is_big and byte_order == ">":
        assert read == set()
    else:
        assert read == (at_either_depth if dtype is np.uint16 else at_either_depth | at_eight_bits)


def test_channels_that_a_tiff_does_not_describe_are_ignored():
    rgb = np.asarray(blocks())
    five = np.concatenate([rgb, rgb[..., :2]], axis=2)

    assert difference(decode_image(tiff(five, 2, (0,))), blocks()) == 0


def test_alpha_of_a_tiff_is_composed_on_white():
    grey = np.zeros((8, 8, 2), np.uint8)

    assert decode_image(tiff(grey, 1, (2,))).getpixel((2, 2)) == (255, 255, 255)
    assert decode_image(tiff(grey, 1, (1,))).getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({259: (3, struct.pack("<H", 33003))}, "JPEG 2000 compression are not supported"),
        ({259: (3, struct.pack("<H", 12345))}, "type 12345 compression are not supported"),
        ({339: (3, struct.pack("<H", 5))}, "samples of unknown type are not supported"),
        ({284: (3, struct.pack("<H", 2)), 338: (3, struct.pack("<H", 1)), 277: (3, b"\x04\0")}, "separate planes"),
        ({262: (3, struct.pack("<H", 4))}, "mask, 3 channels, 8 bits are not supported"),
        ({262: (3, struct.pack("<H", 6))}, "uncompressed YCbCr"),
    ],
)
def test_the_error_names_what_in_a_tiff_is_not_supported(tags, reason):
    with pytest.raises(UnsupportedImageFormat, match=f"{reason}.*save it as 8-bit RGB"):
        decode_image(tiff(np.asarray(blocks()), 2, tags=tags))


XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><broken"
ICC = b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, 40]) + NOISE[:65_000]) for i in range(40))
EXIF_NOISE = b"Exif\0\0MM\0*\0\0\0\x08\x40\x00" + NOISE[:60_000]
THUMBNAIL = segment(0xE1, b"Exif\0\0" + JPEG * 20) + segment(0xED, b"Photoshop 3.0\0" + JPEG * 20)
SCANS = b"\xff\xda" * 500
PROGRESSIVE = encode(blocks(), "JPEG", progressive=True, **OPTIONS["JPEG"])
VP8X = encode(blocks(), "WEBP", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
ORIENTED = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01"
ODDITIES = {
    "a video behind a JPEG": JPEG + b"MotionPhoto_Data\0\0\0\x18ftypmp42" + NOISE + SCANS,
    "further images behind a JPEG": JPEG + PROGRESSIVE * 30,
    "previews in a JPEG": with_segments(JPEG, THUMBNAIL),
    "scans in a JPEG's comment": with_segments(JPEG, segment(0xFE, SCANS)),
    "a profile of megabytes in a JPEG": with_segments(JPEG, ICC),
    "damaged EXIF in a JPEG": with_segments(JPEG, segment(0xE1, EXIF_NOISE)),
    "damaged XMP in a JPEG": with_segments(JPEG, segment(0xE1, XMP)),
    "a damaged MPO index": with_segments(JPEG, segment(0xE2, b"MPF\0II*\0" + NOISE[:300])),
    "an absurd orientation": with_segments(JPEG, segment(0xE1, b"Exif\0\0" + ORIENTED + b"\xff\xff\0\0\0\0\0\0")),
    "orientation as text": with_segments(
        JPEG, segment(0xE1, b"Exif\0\0" + ORIENTED.replace(b"\0\x03", b"\0\x02") + bytes(8))
    ),
    "fill bytes between segments": with_segments(JPEG, b"\xff\xff\xff"),
    "a JPEG without its end marker": JPEG[:-2],
    "a JPEG with half of its end marker": JPEG[:-1],
    "a progressive JPEG without its end marker": PROGRESSIVE[:-2],
    "zeros instead of the end marker": JPEG[:-2] + bytes(100),
    "a byte order mark first": b"\xef\xbb\xbf" + JPEG,
    "white space first": b"\r\n\r\n" + PNG,
    "text behind a PNG": PNG + b"<!-- cached -->" * 1000,
    "a profile of megabytes in a PNG": with_chunks(PNG, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**7) + NOISE))),
    "a damaged profile in a PNG": with_chunks(PNG, chunk(b"iCCP", b"x\0\0" + NOISE[:500])),
    "text of megabytes in a PNG": with_chunks(PNG, chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(10**7)))),
    "thousands of texts in a PNG": with_chunks(PNG, chunk(b"tEXt", b"a\0" + NOISE[:300].replace(b"\0", b"")) * 3000),
    "XMP of megabytes in a PNG": with_chunks(PNG, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + NOISE)),
    "damaged EXIF in a PNG": with_chunks(PNG, chunk(b"eXIf", EXIF_NOISE)),
    "a damaged chunk of a PNG's metadata": with_chunks(PNG, chunk(b"tEXt", b"a\0b")[:-4] + b"\0\0\0\0"),
    "chunks of an animation without content": with_chunks(PNG, chunk(b"acTL", b"\0"), chunk(b"fcTL", b"")),
    "a PNG without its end": PNG[:-12],
    "damaged EXIF in a WebP": with_webp_chunk(VP8X, b"EXIF", EXIF_NOISE),
    "a profile of megabytes in a WebP": with_webp_chunk(VP8X, b"ICCP", NOISE),
    "metadata of a WebP that is cut": with_webp_chunk(VP8X, b"XMP ", NOISE)[:-2_000_000],
    "bytes behind a WebP": VP8X + NOISE[:1000],
    "comments of megabytes in a GIF": (
        (gif := encode(blocks(), "GIF"))[: (palette := 13 + 3 * 2 ** ((gif[10] & 7) + 1))]
        + (b"\x21\xfe" + b"".join(b"\xff" + NOISE[i : i + 255] for i in range(0, 2_550_000, 255)) + b"\0")
        + gif[palette:]
    ),
    "a GIF without its end": gif[:-1] if gif[-1] == 0x3B else gif,
    "damaged metadata in a TIFF": tiff(
        np.asarray(blocks()), 2,
        tags={34675: (7, NOISE), 34665: (4, b"\xff" * 4), 700: (1, NOISE[:999]), 33723: (4, NOISE[:400])},
    ),
    "one number repeated for each channel of a TIFF": tiff(
        np.asarray(blocks()), 2, tags={259: (3, b"\x01\0\x01\0\x01\0")}
    ),
    "bytes behind a BMP": encode(blocks(), "BMP") + NOISE[:1000],
    "XMP that begins with a line feed in an AVIF": encode(
        blocks(), "AVIF", xmp=b"\n\x0b" + NOISE[:4000], **OPTIONS["AVIF"]
    ),
    "a HEIC": (DATA / "blocks.heic").read_bytes(),
    "a HEIC that is rotated": (DATA / "blocks-rotated.heic").read_bytes(),
    "a video behind a HEIC": (DATA / "blocks.heic").read_bytes() + struct.pack(">I", 1008) + b"mpvd" + NOISE[:1000],
}  # fmt: skip


@pytest.mark.parametrize("name", ODDITIES)
def test_what_is_not_decoded_does_not_cost_the_image(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decoded = decode_image(ODDITIES[name])

    assert difference(decoded, blocks()) < 4
    assert caught == []


REFUSED = {
    "many scans": (
        PROGRESSIVE[:-2] + PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2] * 150 + b"\xff\xd9",
        InvalidImage, "at most 100 are allowed",
    ),
    "other bytes first": (
        b"HTTP/1.1 200 OK\r\n\r\n" + JPEG, UnsupportedImageFormat, "begins after 19 other bytes: send it alone",
    ),
    "a GIF whose frame reaches beyond its screen": (
        gif.replace(b"\x2c\0\0\0\0\x30\0\x20\0", b"\x2c\xff\x24\xff\x24\x30\0\x20\0"),
        ImageTooLarge, "9,519 × 9,503 pixels; at most",
    ),
    "a web page": (b"<!DOCTYPE html><html>404</html>", UnsupportedImageFormat, "web page: not a supported format"),
    "a video": (b"\0\0\0\x18ftypmp42" + NOISE[:500], UnsupportedImageFormat, "MP4 video: not.*save one frame"),
    "a raw image": (b"II*\0\x10\0\0\0CR\x02\0" + NOISE[:500], UnsupportedImageFormat, "CR2 raw.*export it as JPEG"),
    "a JPEG of 12 bits": (
        JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), UnsupportedImageFormat, "of 12 bits",
    ),
    "a lossless JPEG": (JPEG.replace(b"\xff\xc0\0\x11", b"\xff\xc3\0\x11"), UnsupportedImageFormat, "lossless"),
    "a progressive JPEG without its last scan": (
        PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")], InvalidImage, "later scans are missing",
    ),
    "the header of a HEIC": (b"\0\0\0\x18ftypheic", InvalidImage, "HEIC image is damaged or truncated"),
    "Apple's PNG": (PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:], UnsupportedImageFormat, "Apple's application form"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_decoded_is_refused_with_the_reason(name):
    image_bytes, error, reason = REFUSED[name]

    with pytest.raises(error, match=reason) as raised:
        decode_image(image_bytes)

    check_reason(raised.value)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC"])
def test_files_cut_anywhere_are_read_whole_or_refused(image_format):
    """No part of an image passes for the whole: with bytes missing, the pixels are all there or it is refused."""
    if image_format == "HEIC":
        whole = (DATA / "blocks.heic").read_bytes()
    else:
        whole = encode(blocks(), image_format, **OPTIONS.get(image_format, {}))
    complete = decode_image(whole)
    for length in {len(whole) * i // 40 for i in range(1, 40)} | set(range(len(whole) - 30, len(whole))):
        try:
            decoded = decode_image(whole[:length])
        except InvalidImage as error:
            check_reason(error)
        else:
            assert difference(decoded, complete) < 0.1, length


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC"])
def test_changed_headers_give_an_image_or_a_reason_without_warnings(image_format):
    if image_format == "HEIC":
        whole = (DATA / "blocks.heic").read_bytes()
    else:
        whole = encode(blocks(), image_format, **OPTIONS.get(image_format, {}))
    limits = DecodingLimits(max_image_pixels=1_000_000)
    generator = np.random.default_rng(3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(150):
            changed = bytearray(whole)
            for position in generator.integers(0, min(len(whole), 400), 2):
                changed[position] = generator.choice([0, 1, 0x7F, 0x80, 0xFF, int(generator.integers(256))])
            try:
                decode_image(bytes(changed), limits)
            except InvalidImage as error:
                check_reason(error)

    assert caught == []


def test_sixteen_bit_grey_where_zero_is_white_is_inverted():
    samples = np.asarray(blocks().convert("L")).astype(np.uint16)[..., None]

    for byte_order in "<>":
        decoded = decode_image(tiff(65535 - (samples << 8 | samples), 0, byte_order=byte_order))
        assert difference(decoded, blocks().convert("L")) == 0


def test_twelve_bit_grey_keeps_its_high_byte():
    # Two samples of 12 bits fill three bytes.
    packed = np.tile(np.array([0xAB, 0xCA, 0xBC], np.uint8), (8, 4))[..., None]
    image_bytes = tiff(packed, 1, tags={256: (3, b"\x08\0"), 258: (3, b"\x0c\0")})

    assert decode_image(image_bytes).getpixel((3, 3)) == (0xAB, 0xAB, 0xAB)


def test_pillow_was_built_with_all_formats():
    """The tests above need each decoder, as every release of Akin has it."""
    assert features.check("webp")
    assert features.check("avif")
    assert Image.open(io.BytesIO(JPEG)).format == "JPEG"
