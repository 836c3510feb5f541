"""Images in base64, as clients write them: url-safe, unpadded, in lines, percent-encoded, or as a data: URL."""

import base64
import re
from urllib.parse import unquote_to_bytes

_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_OTHER = re.compile(rb"[^A-Za-z0-9+/=]")
_INDENTATION = re.compile(rb"[ \t]*[\r\n]+[ \t]*")
# Decoded at once: the interpreter lets no other thread run meanwhile. A multiple of four.
_SLICE_CHARACTERS = 2**20


def image_bytes_of(text: str) -> bytes:
    """Decode base64; every unambiguous spelling is accepted. Raises ValueError, which says what is wrong."""
    if not text.isascii():
        wrong = next(character for character in text if not character.isascii())
        raise ValueError(f"it contains {wrong!r}, which is not a character of base64")
    encoded = _without_data_url(text.strip()).encode("ascii")
    if b"%" in encoded:
        encoded = unquote_to_bytes(encoded)
    encoded = _without_blanks(encoded).translate(_URL_SAFE)
    content = encoded.rstrip(b"=")
    if found := _OTHER.search(content) or re.search(rb"=", content):
        wrong = found[0].decode("latin-1")
        raise ValueError(f"it contains {wrong!r} at character {found.start()} of {len(encoded)}")
    num_missing = -len(content) % 4
    if num_missing == 3 or len(encoded) - len(content) not in (0, num_missing):
        raise ValueError(f"its length of {len(encoded)} characters is not possible; it may be truncated")
    content += b"=" * num_missing
    slices = range(0, len(content), _SLICE_CHARACTERS)
    return b"".join(base64.b64decode(content[start : start + _SLICE_CHARACTERS]) for start in slices)


def _without_data_url(text: str) -> str:
    if text[:5].lower() != "data:":
        return text
    head, comma, content = text.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ValueError("it is a data: URL without ;base64")
    return content


def _without_blanks(encoded: bytes) -> bytes:
    """Remove line breaks and indentation; restore + where a form decoder has turned it into a space."""
    encoded = _INDENTATION.sub(b"", encoded).replace(b"\t", b"")
    if b" " not in encoded:
        return encoded
    removed, restored = encoded.replace(b" ", b""), encoded.replace(b" ", b"+")
    if len(removed) % 4 == 0 and len(restored) % 4 != 0:
        return removed
    if len(restored) % 4 == 0 and len(removed) % 4 != 0:
        return restored
    raise ValueError(
        "it contains spaces, which may have been + before they were decoded as a form; write %2B, or use the url-safe "
        "alphabet"
    )
