"""Conditional requests (RFC 9110 section 13): whether the client has a response already."""

import re

from starlette.datastructures import Headers
from starlette.staticfiles import StaticFiles

# An entity tag may contain commas, so a list of them cannot be split there.
_ETAG = re.compile(r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


def is_not_modified(request_headers: Headers, etag: str) -> bool:
    """Return whether `If-None-Match` matches the entity tag, given without quotes; by weak comparison, as for GET."""
    given = ",".join(request_headers.getlist("if-none-match"))
    return given.strip() == "*" or etag in _ETAG.findall(given)


class ConditionalFiles(StaticFiles):
    """Static files, with the same comparison of entity tags as other routes."""

    def is_not_modified(self, response_headers: Headers, request_headers: Headers) -> bool:
        """Return whether the client has the file already; `If-Modified-Since` counts only without `If-None-Match`."""
        if "if-none-match" in request_headers:
            return is_not_modified(request_headers, response_headers["etag"].strip('"'))
        return super().is_not_modified(response_headers, request_headers)
