import struct
import subprocess
import sys

import pytest
from PIL import Image, features

from embedding.image_format import (
    FORMATS,
    HEAD_BYTES,
    MEDIA_TYPES,
    READ_NAMES,
    ImageFormat,
    _in_this_installation,
    image_format,
)
from tests.images import colour_image, encode


def found(head: bytes) -> ImageFormat:
    """Return the format of bytes that have one."""
    known = image_format(head)
    assert known is not None
    return known


def ftyp(*brands: bytes) -> bytes:
    """Return the first box of an ISO media file."""
    content = brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", 8 + len(content)) + b"ftyp" + content + bytes(100)


def raw_tiff(make: bytes = b"", *, tags: dict[int, int]) -> bytes:
    """Return a TIFF whose first directory has these tags and the name of a camera's maker."""
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    make_position = 8 + 2 + 12 * (len(entries) + 1) + 4
    entries.append(struct.pack("<HHII", 271, 2, len(make), make_position))
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4) + make


PREVIEW = {254: 1, 262: 2, 330: 1000}


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_recognises_what_pillow_writes_and_reads(name):
    if name in ("AVIF", "WEBP") and not features.check(name.lower()):
        pytest.skip(f"this build of Pillow has no {name}")

    known = found(encode(colour_image("red"), name)[:HEAD_BYTES])

    assert known == FORMATS[name]
    assert known.is_read
    assert known.remedy == ""
    assert MEDIA_TYPES[known.extension] == f"image/{name.lower()}"


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in READ_NAMES])
def test_each_format_that_is_not_read_has_a_remedy(name):
    assert not FORMATS[name].is_read
    assert FORMATS[name].remedy
    assert FORMATS[name].media_type == ""


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (ftyp(b"heic", b"mif1", b"heic"), "HEIC"),
        (ftyp(b"mif1", b"mif1", b"heic"), "HEIC"),
        (ftyp(b"mif1", b"mif1", b"avif"), "AVIF"),
        (ftyp(b"avis", b"avis"), "AVIF"),
        (ftyp(b"crx ", b"crx ", b"isom"), "CR3 raw image"),
        (ftyp(b"mp42", b"isom", b"mp42"), "MP4 video"),
        (ftyp(b"isom", b"isom", b"avc1"), "MP4 video"),
        (ftyp(b"qt  ", b"qt  "), "QuickTime video"),
        (struct.pack(">I", 8) + b"wide" + bytes(50), "QuickTime video"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(50), "CR2 raw image"),
        (raw_tiff(b"NIKON CORPORATION\0", tags=PREVIEW), "NEF raw image"),
        (raw_tiff(b"SONY\0", tags=PREVIEW), "ARW raw image"),
        (raw_tiff(b"Hasselblad\0", tags=PREVIEW), "raw image in a TIFF container"),
        (raw_tiff(b"Hasselblad\0", tags={262: 32803}), "raw image in a TIFF container"),
        (raw_tiff(b"Apple\0", tags={262: 34892, 50706: 0x00000401}), "DNG raw image"),
        (raw_tiff(b"NIKON CORPORATION\0", tags={254: 0, 262: 2}), "TIFF"),
        (b"II+\0\x08\0\0\0" + bytes(100), "TIFF"),
        (b"II*\0" + bytes(100), "TIFF"),
        (b"IIRO\x08\0\0\0" + bytes(50), "ORF raw image"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(50), "RAF raw image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "JPEG XL"),
        (b"\xff\x0a" + bytes(50), "JPEG XL"),
        (b"\xff\xd8\xff\xf7" + bytes(50), "JPEG-LS"),
        (b"8BPS\0\x01" + bytes(50), "Photoshop document"),
        (b"%PDF-1.7\n", "PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG drawing"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg width='5'>", "SVG drawing"),
        (b"<!DOCTYPE html><title>Not found</title>", "web page"),
        (b"\r\n<HTML>", "web page"),
        (b"PK\x03\x04" + bytes(50), "zip archive"),
        (b"\x1a\x45\xdf\xa3" + bytes(50), "Matroska video"),
    ],
)
def test_recognises_formats_by_content(head, name):
    assert found(head).name == name


@pytest.mark.parametrize(
    ("pillow_name", "name"), [("ICO", "icon"), ("PPM", "PPM"), ("PCX", "PCX"), ("JPEG2000", "JPEG 2000")]
)
def test_recognises_what_pillow_writes_and_akin_does_not_read(pillow_name, name):
    assert found(encode(colour_image("red"), pillow_name)).name == name


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"hello",
        b"BMW,Munich,1916,cars and engines",
        b"id,image\n1,a.jpg\n",
        b"<?xml version='1.0'?><rows/>",
        bytes(5000),
        b"Preis;P6 15",
        b"\xff\xd8",
        b"GIF",
        b'{"image": 1}',
    ],
)
def test_other_content_is_no_known_format(head):
    assert image_format(head) is None


@pytest.mark.parametrize("leading", [b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n", b" " * 16])
def test_white_space_and_a_byte_order_mark_may_come_first(leading):
    assert found(leading + encode(colour_image("red"), "JPEG")).name == "JPEG"


def test_other_leading_bytes_hide_the_format():
    assert image_format(b"x" + encode(colour_image("red"), "JPEG")) is None
    assert image_format(b"\n" * 17 + encode(colour_image("red"), "JPEG")) is None


def test_any_part_of_a_file_is_recognised_or_not_without_an_error():
    whole = encode(Image.new("RGB", (8, 8)), "TIFF", description="x" * 300)

    for length in range(len(whole)):
        image_format(whole[:length])


def test_a_format_whose_decoder_is_missing_is_not_read(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    _in_this_installation.cache_clear()
    try:
        heic, avif = found(ftyp(b"heic")), found(ftyp(b"avif"))
    finally:
        _in_this_installation.cache_clear()

    assert not heic.is_read
    assert "pip install pi-heif" in heic.remedy
    assert not avif.is_read
    assert "save it as JPEG" in avif.remedy


def test_the_table_is_read_without_torch():
    program = "import sys, embedding.image_format; raise SystemExit('torch' in sys.modules)"

    subprocess.run([sys.executable, "-c", program], check=True)
