"""Keys to this installation: made, listed, rotated, revoked. A key is shown when it is made; only its hash is kept."""

import hashlib
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.access.scopes import Scope, parse_scopes
from service.database import Database, in_utc, now
from service.errors import InvalidKeyRequest, KeyNameTaken, KeyNotFound, LastAdminKey
from service.settings import Settings
from service.tables import APIKey

FIRST_KEY = "admin"  # the name of the key that the first start makes

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PREFIX = "akin_"  # lets a scanner find a key that was committed by mistake


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key as it is checked: hashes, rights and times (UTC)."""

    id: str
    name: str
    sha256: str
    scopes: frozenset[Scope]
    expires_at: datetime | None
    revoked_at: datetime | None
    previous_sha256: str | None
    previous_expires_at: datetime | None


def key_digest(key: str) -> str:
    """Return the hash under which a key is kept."""
    # No salt and no slow hash: a key of 256 random bits cannot be guessed from its hash.
    return hashlib.sha256(key.encode()).hexdigest()


def create_key(
    database: Database, name: str, scopes: Collection[str], *, actor: str, expires_at: datetime | None = None
) -> tuple[APIKey, str]:
    """Make a key and return its row and the key itself, which nobody can be shown again.

    Raises InvalidKeyRequest for a name, a scope or a time that cannot be, KeyNameTaken.
    """
    if not _NAME.fullmatch(name) or name == FIRST_KEY:
        raise InvalidKeyRequest(
            f"a key cannot be called {name!r:.80}; take 1 to 64 letters, digits and . _ -, and not {FIRST_KEY!r}"
        )
    try:
        wanted = parse_scopes(scopes)
    except ValueError as error:
        raise InvalidKeyRequest(str(error)) from error
    if not wanted:
        raise InvalidKeyRequest(f"a key needs a scope; scopes are {', '.join(Scope)}")
    _require_future(expires_at)
    key = _new_key()
    row = APIKey(
        id=secrets.token_hex(8),
        name=name,
        sha256=key_digest(key),
        scopes=[scope.value for scope in wanted],
        created_at=now(),
        created_by=actor,
        expires_at=expires_at,
    )
    try:
        with database.transaction() as session:
            session.add(row)
    except IntegrityError as error:
        raise KeyNameTaken(
            f"there is a key {name!r} already, revoked ones included; take another name, or rotate it"
        ) from error
    return row, key


def list_keys(session: Session) -> list[APIKey]:
    """Return all keys, revoked ones included, the oldest first."""
    return list(session.scalars(select(APIKey).order_by(APIKey.created_at, APIKey.id)))


def get_key(session: Session, name: str) -> APIKey:
    """Return a key by its name or id; raises KeyNotFound."""
    found = session.scalars(select(APIKey).where(or_(APIKey.name == name, APIKey.id == name))).all()
    # An id that is another key's name: the name has it.
    for row in sorted(found, key=lambda row: row.name != name):
        return row
    raise KeyNotFound(f"there is no key {name!r:.80}; `akin keys list` shows all")


def revoke_key(database: Database, name: str, *, settings: Settings) -> APIKey:
    """Take a key back for good; twice is once. Raises KeyNotFound, and LastAdminKey while no other key has `admin`."""
    with database.transaction() as session:
        row = get_key(session, name)
        if row.revoked_at is None:
            if settings.admin_key is None and _is_last_admin(session, row):
                raise LastAdminKey(
                    f"{row.name!r} is the only key with the scope admin; make another one first: "
                    "akin keys create NAME --scope admin"
                )
            row.revoked_at = now()
    return row


def rotate_key(
    database: Database, name: str, *, grace: timedelta, expires_at: datetime | None = None
) -> tuple[APIKey, str]:
    """Give a key a new secret, and return both; the old secret is good for `grace` yet.

    A time of expiry stays as it is unless another is given. Raises KeyNotFound, and InvalidKeyRequest for a key that
    was revoked, or has expired and gets no later time.
    """
    key = _new_key()
    moment = now()
    _require_future(expires_at)
    with database.transaction() as session:
        row = get_key(session, name)
        if row.revoked_at is not None:
            raise InvalidKeyRequest(f"the key {row.name!r} was revoked, and stays so; make another one")
        if expires_at is not None:
            row.expires_at = expires_at
        elif row.expires_at is not None and in_utc(row.expires_at) <= moment:
            raise InvalidKeyRequest(f"the key {row.name!r} has expired; say how long the new one is to be good")
        row.previous_sha256 = row.sha256 if grace else None
        row.previous_expires_at = moment + grace if grace else None
        row.sha256 = key_digest(key)
    return row, key


def ensure_admin_key(database: Database, settings: Settings) -> str | None:
    """Make the first admin key where there has been none and the settings give none; return it, the only time.

    A key that was revoked or has expired counts as one that there has been: whoever took it back meant it.
    """
    if settings.admin_key is not None:
        return None
    with database.reading() as session:
        if any(Scope.ADMIN in row.scopes for row in list_keys(session)):
            return None
    key = _new_key()
    try:
        with database.transaction() as session:
            session.add(
                APIKey(
                    id=secrets.token_hex(8),
                    name=FIRST_KEY,
                    sha256=key_digest(key),
                    scopes=[Scope.ADMIN.value],
                    created_at=now(),
                )
            )
    except IntegrityError:
        return None  # another process that started at the same time was first, and shows its own
    return key


def load_keys(database: Database) -> list[KnownKey]:
    """Return all keys as they are checked."""
    with database.reading() as session:
        return [_known(row) for row in list_keys(session)]


def note_uses(database: Database, uses: Mapping[str, datetime]) -> None:
    """Write down when keys, by their ids, were last used."""
    with database.transaction() as session:
        for key_id, moment in uses.items():
            session.execute(update(APIKey).where(APIKey.id == key_id).values(last_used_at=moment))


def _known(row: APIKey) -> KnownKey:
    def utc(moment: datetime | None) -> datetime | None:
        return in_utc(moment) if moment is not None else None

    known = {scope.value for scope in Scope}
    return KnownKey(
        id=row.id,
        name=row.name,
        sha256=row.sha256,
        scopes=frozenset(Scope(name) for name in row.scopes if name in known),
        expires_at=utc(row.expires_at),
        revoked_at=utc(row.revoked_at),
        previous_sha256=row.previous_sha256,
        previous_expires_at=utc(row.previous_expires_at),
    )


def _is_last_admin(session: Session, row: APIKey) -> bool:
    moment = now()
    good = [
        other.id
        for other in list_keys(session)
        if Scope.ADMIN in other.scopes
        and other.revoked_at is None
        and (other.expires_at is None or in_utc(other.expires_at) > moment)
    ]
    return good == [row.id]


def _require_future(moment: datetime | None) -> None:
    if moment is not None and moment <= now():
        raise InvalidKeyRequest(f"the key would have expired already, at {moment:%Y-%m-%d %H:%M} UTC")


def _new_key() -> str:
    return _PREFIX + secrets.token_urlsafe(32)
