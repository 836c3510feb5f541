"""The format of a file by its first bytes: one table of what is read, and of what is not, with the remedy.

The ending of a file's name says nothing here. This module imports neither torch nor a decoder, so that a folder can be
listed cheaply.
"""

import functools
import importlib.util
import re
import struct
from dataclasses import dataclass, replace

from PIL import features

from embedding.tiff_tags import tiff_tags

# As many bytes of a file as `image_format` wants; it uses more where it gets more.
HEAD_BYTES = 4096
# Bytes that editors, shells and templates put before a file: a byte order mark and white space.
_LEADING = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]{0,16}")


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A file format: whether this installation reads it, its usual file extension, and what to do if it is not read."""

    name: str
    is_read: bool
    extension: str
    remedy: str
    media_type: str = ""  # empty for formats that are not read


_SAVE = "save it as JPEG or PNG"
_EXPORT = "export it as JPEG from the program that develops raw images"
_FRAME = "save one frame of it as JPEG or PNG"


def _unread(name: str, extension: str, remedy: str = _SAVE) -> ImageFormat:
    return ImageFormat(name, False, extension, remedy)


_READ_FORMATS = (
    ImageFormat("JPEG", True, "jpg", "", "image/jpeg"),
    ImageFormat("PNG", True, "png", "", "image/png"),
    ImageFormat("WEBP", True, "webp", "", "image/webp"),
    ImageFormat("GIF", True, "gif", "", "image/gif"),
    ImageFormat("BMP", True, "bmp", "", "image/bmp"),
    ImageFormat("TIFF", True, "tif", "", "image/tiff"),
    ImageFormat("HEIC", True, "heic", "", "image/heic"),
    ImageFormat("AVIF", True, "avif", "", "image/avif"),
)
FORMATS = {
    image_format.name: image_format
    for image_format in (
        *_READ_FORMATS,
        _unread("CR2 raw image", "cr2", _EXPORT),
        _unread("CR3 raw image", "cr3", _EXPORT),
        _unread("CRW raw image", "crw", _EXPORT),
        _unread("NEF raw image", "nef", _EXPORT),
        _unread("ARW raw image", "arw", _EXPORT),
        _unread("PEF raw image", "pef", _EXPORT),
        _unread("DNG raw image", "dng", _EXPORT),
        _unread("ORF raw image", "orf", _EXPORT),
        _unread("RW2 raw image", "rw2", _EXPORT),
        _unread("RAF raw image", "raf", _EXPORT),
        _unread("raw image in a TIFF container", "tif", _EXPORT),
        _unread("JPEG XL", "jxl"),
        _unread("JPEG 2000", "jp2"),
        _unread("JPEG XR", "jxr"),
        _unread("JPEG-LS", "jls"),
        _unread("Photoshop document", "psd"),
        _unread("GIMP document", "xcf"),
        _unread("SVG drawing", "svg"),
        _unread("PostScript document", "eps"),
        _unread("PDF document", "pdf", "save the page or its image as JPEG or PNG"),
        _unread("icon", "ico"),
        _unread("Apple icon", "icns"),
        _unread("PPM", "ppm"),
        _unread("PCX", "pcx"),
        _unread("OpenEXR", "exr"),
        _unread("Radiance HDR", "hdr"),
        _unread("DirectDraw surface", "dds"),
        _unread("QOI", "qoi"),
        _unread("DICOM", "dcm"),
        _unread("Windows metafile", "emf"),
        _unread("MP4 video", "mp4", _FRAME),
        _unread("QuickTime video", "mov", _FRAME),
        _unread("Matroska video", "mkv", _FRAME),
        _unread("AVI video", "avi", _FRAME),
        _unread("web page", "html", "save the image itself instead of the page that shows it"),
        _unread("zip archive", "zip", "unpack it first"),
    )
}
# Names of the formats that Akin reads where their decoder is installed, in the order of the documentation.
READ_NAMES = tuple(image_format.name for image_format in _READ_FORMATS)
# File extension -> media type of the formats that Akin reads.
MEDIA_TYPES = {image_format.extension: image_format.media_type for image_format in _READ_FORMATS}

_SIGNATURES = (
    (rb"\xff\xd8\xff\xf7", "JPEG-LS"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"RIFF.{4}WEBP", "WEBP"),
    (rb"RIFF.{4}AVI ", "AVI video"),
    (rb"GIF8[79]a", "GIF"),
    # Two letters are too few: the size of the second header follows at byte 14.
    (rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),
    (rb"(?:II\*\0|MM\0\*)....CR\x02", "CR2 raw image"),
    (rb"II\x1a\0\0\0HEAPCCDR", "CRW raw image"),
    (rb"IIRO|IIRS|MMOR", "ORF raw image"),
    (rb"IIU\0", "RW2 raw image"),
    (rb"FUJIFILMCCD-RAW", "RAF raw image"),
    (rb"II\xbc[\0\x01]", "JPEG XR"),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"8BPS\0[\x01\x02]", "Photoshop document"),
    (rb"gimp xcf", "GIMP document"),
    (rb"%PDF-", "PDF document"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript document"),
    (rb"\0\0[\x01\x02]\0[^\0]\0..\0", "icon"),
    (rb"icns", "Apple icon"),
    (rb"P[1-6fF]\s+[#\d]|P7\s+WIDTH", "PPM"),
    (rb"\x0a[\0\x02-\x05][\0\x01][\x01\x02\x04\x08].{61}[\x01-\x04]", "PCX"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"#\?(?:RADIANCE|RGBE)", "Radiance HDR"),
    (rb"DDS \x7c", "DirectDraw surface"),
    (rb"qoif", "QOI"),
    (rb".{128}DICM", "DICOM"),
    (rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", "Windows metafile"),
    (rb"\x1a\x45\xdf\xa3", "Matroska video"),
    (rb"....(?:moov|mdat|wide|free|skip|pnot).{4}", "QuickTime video"),
    (rb"PK\x03\x04", "zip archive"),
    (rb"(?:<\?xml|<!--|<!DOCTYPE svg|<svg).*?(?<=<)svg[\s>]|<svg[\s>]", "SVG drawing"),
    (rb"(?i:<!doctype html|<html[\s>]|<head[\s>])", "web page"),
)
_PATTERNS = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in _SIGNATURES)
_TIFF = re.compile(rb"II[*+]\0|MM\0[*+]", re.DOTALL)
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})

_NEW_SUBFILE_TYPE, _PHOTOMETRIC, _MAKE, _SUB_DIRECTORIES, _DNG_VERSION = 254, 262, 271, 330, 50706
_PHOTOMETRIC_CFA, _PHOTOMETRIC_LINEAR_RAW = 32803, 34892
_RAW_MAKERS = {b"NIKON": "NEF raw image", b"SONY": "ARW raw image", b"PENTAX": "PEF raw image"}


def image_format(head: bytes) -> ImageFormat | None:
    """Recognise a format by the first HEAD_BYTES of a file, or all of them; None if no known format begins so.

    A byte order mark and up to 16 characters of white space may come first.
    """
    name = _name_of(head)
    if name is None and (start := start_of_content(head)):
        name = _name_of(head[start:])
    return None if name is None else _in_this_installation(name)


def start_of_content(head: bytes) -> int:
    """Return how many bytes of white space and byte order mark come before the content."""
    match = _LEADING.match(head)
    return match.end() if match else 0


@functools.cache
def _in_this_installation(name: str) -> ImageFormat:
    known = FORMATS[name]
    if name == "HEIC" and importlib.util.find_spec("pi_heif") is None:
        return replace(known, is_read=False, remedy="install its decoder (pip install pi-heif), or save it as JPEG")
    if name == "AVIF" and not features.check("avif"):
        return replace(known, is_read=False, remedy="install a build of Pillow with AVIF, or save it as JPEG")
    if name == "WEBP" and not features.check("webp"):
        return replace(known, is_read=False, remedy="install a build of Pillow with WebP, or save it as JPEG")
    return known


def _name_of(head: bytes) -> str | None:
    for pattern, name in _PATTERNS:
        if pattern.match(head):
            return name
    if _TIFF.match(head):
        return _name_of_tiff(head)
    if head[4:8] == b"ftyp":
        return _name_of_iso_media(head)
    return None


def _name_of_tiff(head: bytes) -> str:
    """Tell raw images, whose first directory often holds a small preview, from TIFF."""
    tags = tiff_tags(head)
    if _DNG_VERSION in tags:
        return "DNG raw image"
    photometric = tags[_PHOTOMETRIC].number if _PHOTOMETRIC in tags else None
    is_preview = _SUB_DIRECTORIES in tags and _NEW_SUBFILE_TYPE in tags and tags[_NEW_SUBFILE_TYPE].number == 1
    if not is_preview and photometric not in (_PHOTOMETRIC_CFA, _PHOTOMETRIC_LINEAR_RAW):
        return "TIFF"
    make = tags[_MAKE].content.upper() if _MAKE in tags else b""
    return next((name for maker, name in _RAW_MAKERS.items() if maker in make), "raw image in a TIFF container")


def _name_of_iso_media(head: bytes) -> str:
    (size,) = struct.unpack(">I", head[:4])
    major, compatible = head[8:12], head[16 : max(16, min(size, 256))]
    brands = {major} | {compatible[i : i + 4] for i in range(0, len(compatible), 4)}
    if major in _HEIC_BRANDS:
        return "HEIC"
    if major in _AVIF_BRANDS:
        return "AVIF"
    if major == b"crx ":
        return "CR3 raw image"
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & (_HEIC_BRANDS | {b"mif1", b"msf1"}):
        return "HEIC"
    return "QuickTime video" if major == b"qt  " else "MP4 video"
