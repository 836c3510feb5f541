"""Addresses of databases and of the store of images: made from paths, and shown without credentials."""

import re
from pathlib import Path
from urllib.parse import unquote, unquote_plus

from sqlalchemy import URL

_HIDDEN = "***"
_SQLITE = "sqlite"
_SECRET_NAME = re.compile(r"pass|secret", re.IGNORECASE)  # password, sslpassword, passfile, oauth_client_secret
# Only a `?` that begins a parameter: a password may contain `?` too.
_QUERY = re.compile(r"\?(?=[^?&=@/:]+=)")


def sqlite_address(path: Path) -> str:
    """Return the SQLAlchemy address of a SQLite file; the path may contain `%`, `?`, `#`, `::` and spaces."""
    url = URL.create(_SQLITE, database=str(path.absolute()))
    return url.render_as_string(hide_password=False)


def shown_address(address: str) -> str:
    """Return an address, valid or not, without passwords, also in its query."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "", address
    begin = _QUERY.search(rest)
    head, query = (rest[: begin.start()], rest[begin.end() :]) if begin else (rest, "")
    if scheme.startswith(_SQLITE):  # its path may contain an @
        head = unquote(head)
    else:
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


def shown_media_address(address: str) -> str:
    """Return a folder or fsspec URL, valid or not, without user, password and values of its query."""
    if "://" not in address:
        return address
    return "::".join(_shown_url(part) for part in address.split("::"))


def without_credentials(text: str, address: str) -> str:
    """Remove from a message, such as one of an object store's client, what `shown_media_address` hides."""
    for part in address.split("::"):
        for secret in sorted(_secrets_of(part), key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
    return text


def _shown_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    head, question_mark, query = rest.partition("?")
    user = _user_of(head)
    shown = "&".join(_HIDDEN if "=" not in part else f"{part.partition('=')[0]}={_HIDDEN}" for part in query.split("&"))
    return f"{scheme}://{f'{_HIDDEN}@' if user else ''}{head[len(user) :]}{question_mark}{shown if query else ''}"


def _user_of(head: str) -> str:
    """Return "user:password@" from the part of a URL after its scheme; a password may contain an unescaped slash."""
    authority, _, _ = head.partition("/")
    if "@" in authority:
        return authority[: authority.rindex("@") + 1]
    return head[: head.rindex("@") + 1] if "@" in head and ":" in authority else ""


def _secrets_of(url: str) -> set[str]:
    head, _, query = url.partition("://")[2].partition("?")
    user = _user_of(head).removesuffix("@")
    given = {user, *user.split(":", 1), *(part.partition("=")[2] for part in query.split("&"))}
    return {secret for text in given for secret in (text, unquote(text), unquote_plus(text)) if secret}
