"""Ask one address whether it is well: `python -m service.web.probe [URL [TEXT]]`, for containers that have no curl.

Status 0 when the answer is 2xx and holds the text, where one is named; otherwise 1, with the reason on standard error.
Started every few seconds beside a server that needs the processor itself, so it loads nothing but the standard library,
and goes through no proxy.
"""

import http.client
import sys
from urllib.parse import urlsplit

_DEFAULT_URL = "http://127.0.0.1:8000/livez"
_TIMEOUT_SECONDS = 3.0
_READ_BYTES = 2**20
_SHOWN_CHARACTERS = 500


def complaint(url: str, wanted: str = "", *, timeout_seconds: float = _TIMEOUT_SECONDS) -> str:
    """Return what is wrong with the answer of a URL, which may have to hold a text; empty when it is well."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        return f"{url!r} is not an address such as {_DEFAULT_URL}"
    path = parts.path or "/"
    try:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_seconds)
        try:
            connection.request("GET", f"{path}?{parts.query}" if parts.query else path)
            response = connection.getresponse()
            body = response.read(_READ_BYTES).decode(errors="replace")
        finally:
            connection.close()
    # ValueError: a port that is no number.
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{url} does not answer: {error or type(error).__name__}"
    # A redirect is no answer either: it would lead to another server.
    if not 200 <= response.status < 300:
        return f"{url} answers {response.status}: {body[:_SHOWN_CHARACTERS]}"
    return "" if wanted in body else f"{url} answers without {wanted!r}"


def main(arguments: list[str]) -> str | None:
    """Return what `sys.exit` takes: None for status 0, or a message for status 1."""
    if len(arguments) > 2:
        return f"usage: python -m service.web.probe [URL [TEXT]]; default: {_DEFAULT_URL}"
    return complaint(*arguments or [_DEFAULT_URL]) or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
