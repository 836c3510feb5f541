"""What all readers of bodies share: content types, bodies that fit in memory, and JSON."""

import codecs
import json
from collections.abc import Callable

from fastapi import Request

from service.errors import InvalidParameter
from service.web.errors import UnsupportedContentType
from service.web.middleware.body_guard import read_chunks

FORM, JSON, OCTETS = "multipart/form-data", "application/json", "application/octet-stream"
ZIP_TYPES = ("application/zip", "application/x-zip-compressed")
_OTHER_JSON_TYPES = ("text/json", "application/x-json")


def content_type_of(request: Request) -> str:
    """Return the content type of a request in lower case without its parameters; empty if it has none.

    All names of JSON are returned as `JSON`.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = content_type.startswith("application/") and content_type.endswith("+json")
    return JSON if is_json or content_type in _OTHER_JSON_TYPES else content_type


def unsupported_content_type(content_type: str, supported: str) -> UnsupportedContentType:
    """Return the error for a content type that a route does not read; `supported` lists the others."""
    shown = f"{content_type!r:.80} is not supported" if content_type else "the request has no Content-Type"
    return UnsupportedContentType(f"{shown}; send {supported}")


async def read_small_body(request: Request, limit: int, *, arrived: Callable[[int], None] | None = None) -> bytes:
    """Read a body of at most `limit` bytes, which may be empty, into memory.

    `arrived` is called with the size of each chunk. Raises BodyTooLarge, BodyTooSlow, ClientLeft.
    """
    body = bytearray()
    async for chunk in read_chunks(request, limit, f"the body is larger than {limit:,} bytes", may_pause=False):
        if arrived is not None:
            arrived(len(chunk))
        body += chunk
    return bytes(body)


async def read_json_body(request: Request, limit: int, *, supported: str = JSON) -> bytes:
    """Read a JSON body of at most `limit` bytes, as UTF-8 without a byte order mark; empty if the request has none.

    Raises RequestError, InvalidParameter.
    """
    content_type = content_type_of(request)
    if content_type not in ("", JSON):
        raise unsupported_content_type(content_type, supported)
    body = await read_small_body(request, limit)
    return json_text(body).encode() if body else b""


def json_text(body: bytes) -> str:
    """Decode a JSON document that is not empty; raises InvalidParameter."""
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in body[:4]:
        raise InvalidParameter("the JSON body is UTF-16 or UTF-32; send UTF-8")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidParameter(f"the JSON body is not UTF-8 (byte {error.start:,}); send UTF-8") from None
    if not text.strip():
        raise InvalidParameter("the body is blank; send JSON, or no body at all")
    return text


def parse_json(text: str) -> object:
    """Parse a JSON document; raises InvalidParameter, for a repeated name and for NaN too."""
    try:
        return json.loads(text, object_pairs_hook=_without_repetitions, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        near = text[max(0, error.pos - 10) : error.pos + 20]
        raise InvalidParameter(
            f"the body is not JSON: line {error.lineno}, column {error.colno}, near {near!r}"
        ) from None
    except RecursionError:
        raise InvalidParameter("the JSON body is nested too deeply") from None
    except ValueError:  # the interpreter limits the digits of a number
        raise InvalidParameter("the JSON body has a number with too many digits") from None


def _without_repetitions(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    if repeated := next((name for name in names if names.count(name) > 1), None) if len(pairs) < 100 else None:
        raise InvalidParameter(f"the JSON body has the name {repeated!r:.80} twice")
    return dict(pairs)


def _refuse_constant(constant: str) -> object:
    raise InvalidParameter(f"the JSON body contains {constant}, which is not a JSON number")
