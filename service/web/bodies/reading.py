"""What all readers of bodies share: content types, and bodies that fit in memory."""

from fastapi import Request

from service.web.errors import UnsupportedContentType
from service.web.middleware.body_guard import read_chunks

FORM, JSON = "multipart/form-data", "application/json"
ZIP_TYPES = ("application/zip", "application/x-zip-compressed")


def content_type_of(request: Request) -> str:
    """Return the content type of a request in lower case without its parameters; empty if it has none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def unsupported_content_type(content_type: str, supported: str) -> UnsupportedContentType:
    """Return the error for a content type that a route does not read; `supported` lists the others."""
    shown = f"{content_type!r} is not supported" if content_type else "the request has no Content-Type"
    return UnsupportedContentType(f"{shown}; send {supported}")


async def read_small_body(request: Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes, which may be empty, into memory.

    Raises BodyTooLarge, BodyTooSlow, ClientLeft.
    """
    body = bytearray()
    async for chunk in read_chunks(request, limit, f"the body is larger than {limit:,} bytes", may_pause=False):
        body += chunk
    return bytes(body)
