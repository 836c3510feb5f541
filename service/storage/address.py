"""How the address of a database is shown: without passwords."""

import re
from urllib.parse import unquote_plus

_HIDDEN = "***"
_SQLITE = "sqlite"
_SECRET_NAME = re.compile(r"pass|secret", re.IGNORECASE)  # password, sslpassword, passfile, oauth_client_secret
# Only a `?` that begins a parameter: a password may contain `?` too.
_QUERY = re.compile(r"\?(?=[^?&=@/:]+=)")


def shown_address(address: str) -> str:
    """Return an address, valid or not, without passwords, also in its query."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "", address
    begin = _QUERY.search(rest)
    head, query = (rest[: begin.start()], rest[begin.end() :]) if begin else (rest, "")
    if not scheme.startswith(_SQLITE):  # its path may contain an @
        if "@" not in head and "@" in query:
            head, query = rest, ""
        head = _without_password(head)
    shown = "&".join(_shown_parameter(part) for part in query.split("&"))
    return f"{scheme}{separator}{head}{'?' if query else ''}{shown}"


def _without_password(head: str) -> str:
    """Hide what is between the first colon and the last @."""
    user, at, place = head.rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{name}{colon}{_HIDDEN if colon else ''}{at}{place}"


def _shown_parameter(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return f"{name}{equals}{_HIDDEN}" if equals and _SECRET_NAME.search(unquote_plus(name)) else parameter
