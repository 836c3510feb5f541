"""Permit web applications of other origins to use the interface (CORS), if the settings name them."""

from collections.abc import Callable
from functools import partial

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from service.web.authorization import API_KEY_HEADER

_METHODS = ("GET", "HEAD", "POST", "DELETE")
_REQUEST_HEADERS = (
    "Authorization",
    API_KEY_HEADER,
    "Content-Encoding",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "X-Request-ID",
)
_RESPONSE_HEADERS = ("ETag", "Location", "Retry-After", "WWW-Authenticate", "X-Request-ID")


def cross_origin(origins: tuple[str, ...]) -> Callable[[ASGIApp], ASGIApp]:
    """Return a middleware that permits these origins, or all with `*`; it does nothing if there are none.

    Cookies are not permitted: clients send a key in a header.
    """
    if not origins:
        return lambda app: app
    return partial(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=_METHODS,
        allow_headers=_REQUEST_HEADERS,
        expose_headers=_RESPONSE_HEADERS,
    )
