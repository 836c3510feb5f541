"""Check the health of a URL, for containers without curl: `python -m service.web.probe [URL [TEXT]]`.

Exit status 0 if the response is 2xx and contains the optional text; otherwise 1, with the reason on standard error. The
probe runs every few seconds beside the server, so it imports only the standard library. It ignores proxy settings.
"""

import http.client
import sys
from urllib.parse import urlsplit

_DEFAULT_URL = "http://127.0.0.1:8000/livez"
_TIMEOUT_SECONDS = 3.0
_READ_BYTES = 2**20
_SHOWN_CHARACTERS = 500


def complaint(url: str, wanted: str = "", *, timeout_seconds: float = _TIMEOUT_SECONDS) -> str:
    """Return what is wrong with the response of a URL, which must contain `wanted`; empty if nothing is."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        return f"{url!r} is not a URL such as {_DEFAULT_URL}"
    path = parts.path or "/"
    try:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_seconds)
        try:
            connection.request("GET", f"{path}?{parts.query}" if parts.query else path)
            response = connection.getresponse()
            body = response.read(_READ_BYTES).decode(errors="replace")
        finally:
            connection.close()
    # ValueError: the port is not a number.
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"no response from {url}: {error or type(error).__name__}"
    # Redirects are not followed: they would lead to another server.
    if not 200 <= response.status < 300:
        return f"{url} responds {response.status}: {body[:_SHOWN_CHARACTERS]}"
    return "" if wanted in body else f"the response of {url} does not contain {wanted!r}"


def main(arguments: list[str]) -> str | None:
    """Return the argument of `sys.exit`: None for status 0, or a message for status 1."""
    if len(arguments) > 2:
        return f"usage: python -m service.web.probe [URL [TEXT]]; default: {_DEFAULT_URL}"
    return complaint(*arguments or [_DEFAULT_URL]) or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
