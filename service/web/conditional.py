"""Conditional requests (RFC 9110 section 13): whether the client has a response already."""

import re

from fastapi import Request

# An entity tag may contain commas, so a list of them cannot be split there.
_ETAG = re.compile(r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


def is_not_modified(request: Request, etag: str) -> bool:
    """Return whether `If-None-Match` matches the entity tag, given without quotes; by weak comparison, as for GET."""
    given = ",".join(request.headers.getlist("if-none-match"))
    return given.strip() == "*" or etag in _ETAG.findall(given)
