"""The key to the admin routes: from AKIN_ADMIN_KEY, or made at the first start and shown once."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from service.database import Database, now
from service.errors import InvalidKey, MissingKey
from service.settings import Settings
from service.tables import APIKey

ADMIN = "admin"  # the scope, and the name of the first key

_PREFIX = "akin_"  # lets a scanner find a key that was committed by mistake


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: the name of the key."""

    name: str


def ensure_admin_key(database: Database, settings: Settings) -> str | None:
    """Make the first admin key where there is none yet and the settings give none; return it, for nobody else knows it.

    Only its hash is stored: returned once, it can never be shown again.
    """
    if settings.admin_key is not None:
        return None
    with database.reading() as session:
        if session.scalar(select(APIKey.id).limit(1)) is not None:
            return None
    key = _PREFIX + secrets.token_urlsafe(32)
    try:
        with database.transaction() as session:
            session.add(
                APIKey(id=secrets.token_hex(8), name=ADMIN, sha256=_digest(key), scopes=[ADMIN], created_at=now())
            )
    except IntegrityError:
        return None  # another process that started at the same time was first, and shows its own
    return key


def remove_admin_keys(database: Database) -> None:
    """Forget the keys that were made here, so that the next start makes a new one: a key that was lost is no use."""
    with database.transaction() as session:
        for key in session.scalars(select(APIKey)):
            session.delete(key)


def check_admin_key(database: Database, settings: Settings, authorization: str | None) -> Actor:
    """Return who holds the key in an Authorization header; raises MissingKey or InvalidKey with what to send."""
    scheme, _, key = (authorization or "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise MissingKey("this route needs the admin key; send it as the header: Authorization: Bearer KEY")
    digest = _digest(key)
    if settings.admin_key is not None:
        # Hashes of equal length: how long it takes to compare tells nothing of the key.
        if hmac.compare_digest(digest, _digest(settings.admin_key.get_secret_value())):
            return Actor(ADMIN)
    else:
        # Found by its hash, which a guess would have to be, whole.
        with database.reading() as session:
            found = session.scalar(select(APIKey).where(APIKey.sha256 == digest))
            if found is not None and ADMIN in found.scopes:
                return Actor(found.name)
    raise InvalidKey(
        "the key is not known here; it is the value of AKIN_ADMIN_KEY, or what the first start showed; "
        "lost it? akin admin-key --new makes another"
    )


def _digest(key: str) -> str:
    # No salt and no slow hash: a key of 256 random bits cannot be guessed from its hash.
    return hashlib.sha256(key.encode()).hexdigest()
