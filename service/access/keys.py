"""API keys: create, list, rotate, revoke. A key is returned when it is created; only its hash is stored."""

import hashlib
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.access.errors import InvalidKeyRequest, KeyNameTaken, KeyNotFound, LastAdminKey
from service.access.masking import KEY_PREFIX, has_key, without_keys
from service.access.scopes import ANYBODY, Scope, parse_scopes
from service.errors import InvalidSetting
from service.installation.settings import Settings
from service.storage.database import Database, in_utc, now
from service.storage.tables.access import APIKey

FIRST_KEY = "admin"  # the name of the key that the first start creates
ACTIVE, EXPIRED, REVOKED = "active", "expired", "revoked"

# Names of other actors in logs and in the audit log.
_RESERVED = frozenset({FIRST_KEY, ANYBODY.name})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class KnownKey:
    """What checking a key needs: hashes, scopes and times (UTC)."""

    id: str
    name: str
    sha256: str
    scopes: frozenset[Scope]
    expires_at: datetime | None
    revoked_at: datetime | None
    previous_sha256: str | None
    previous_expires_at: datetime | None


def key_digest(key: str) -> str:
    """Return the hash under which a key is stored."""
    # Neither a salt nor a slow hash is needed: 256 random bits cannot be guessed from their hash.
    return hashlib.sha256(key.encode()).hexdigest()


def create_key(
    database: Database, name: str, scopes: Collection[str], *, actor: str, expires_at: datetime | None = None
) -> tuple[APIKey, str]:
    """Create a key; return its row and the key itself, which cannot be shown again.

    Raises KeyNameTaken, and InvalidKeyRequest for an invalid name, scope or time of expiry.
    """
    if not _NAME.fullmatch(name) or name in _RESERVED or has_key(name):
        raise InvalidKeyRequest(
            f"a key cannot be called {without_keys(name)!r:.80}; use 1 to 64 letters, digits and . _ -, beginning with "
            f"a letter or digit, and none of the reserved names {', '.join(sorted(_RESERVED))}"
        )
    try:
        wanted = parse_scopes(scopes)
    except ValueError as error:
        raise InvalidKeyRequest(str(error)) from error
    if not wanted:
        raise InvalidKeyRequest(f"a key needs at least one scope; scopes are {', '.join(Scope)}")
    key = _new_key()
    row = _new_row(name, key, wanted)
    row.created_by, row.expires_at = actor, _future(expires_at)
    try:
        with database.transaction() as session:
            session.add(row)
    except IntegrityError as error:
        raise KeyNameTaken(
            f"a key named {name!r} exists already (it may be revoked); use another name, or rotate that key"
        ) from error
    return row, key


def list_keys(database: Database, *, limit: int | None = None, after: str | None = None) -> list[APIKey]:
    """Return keys, revoked ones included, oldest first.

    `after` is the name of the last key of the previous page. Raises KeyNotFound if it is unknown.
    """
    query = select(APIKey).order_by(APIKey.created_at, APIKey.id).limit(limit)
    with database.reading() as session:
        if after is not None:
            last = get_key(session, after)
            is_same_time = and_(APIKey.created_at == last.created_at, APIKey.id > last.id)
            query = query.where(or_(APIKey.created_at > last.created_at, is_same_time))
        return list(session.scalars(query))


def show_key(database: Database, name: str) -> APIKey:
    """Return a key by its name or id; raises KeyNotFound."""
    with database.reading() as session:
        return get_key(session, name)


def get_key(session: Session, name: str, *, locked: bool = False) -> APIKey:
    """Return a key by its name or id; raises KeyNotFound. `locked` keeps others from changing it until the commit."""
    # Some databases reject a query for text that no name can contain, such as NUL.
    if _NAME.fullmatch(name):
        query = select(APIKey).where(or_(APIKey.name == name, APIKey.id == name))
        found = session.scalars(query.with_for_update() if locked else query).all()
        # If the text is the name of one key and the id of another, the name wins.
        for row in sorted(found, key=lambda row: row.name != name):
            return row
    raise KeyNotFound(f"there is no key {without_keys(name)!r:.80}; list all keys with `akin keys list`")


def revoke_key(database: Database, name: str, *, settings: Settings) -> APIKey:
    """Revoke a key permanently; idempotent.

    Raises KeyNotFound, and LastAdminKey if no other valid key, nor one in the settings, has the scope admin.
    """
    with database.transaction() as session:
        # Locks all keys, so that of two requests that revoke the last two admin keys the second one is refused.
        admins = _active_admins(session)
        row = get_key(session, name, locked=True)
        if row.revoked_at is None:
            if settings.admin_key is None and admins == [row.id]:
                raise LastAdminKey(
                    f"{row.name!r} is the only key with the scope admin; create another one first: "
                    "akin keys create NAME --scope admin"
                )
            row.revoked_at = now()
    return row


def rotate_key(
    database: Database, name: str, *, grace: timedelta, expires_at: datetime | None = None
) -> tuple[APIKey, str]:
    """Replace the secret of a key; return its row and the new key. The old secret stays valid for `grace`.

    The time of expiry stays as it is unless `expires_at` is given. Of several rotations within `grace`, only the last
    replaced secret stays valid. Raises KeyNotFound, and InvalidKeyRequest for a key that is revoked, or that has
    expired and gets no new time of expiry.
    """
    key = _new_key()
    moment = now()
    expires_at = _future(expires_at)
    with database.transaction() as session:
        row = get_key(session, name, locked=True)
        if row.revoked_at is not None:
            raise InvalidKeyRequest(f"the key {row.name!r} was revoked, which is permanent; create another one")
        if expires_at is not None:
            row.expires_at = expires_at
        elif row.expires_at is not None and in_utc(row.expires_at) <= moment:
            raise InvalidKeyRequest(f"the key {row.name!r} has expired; give a new time of expiry")
        row.previous_sha256 = row.sha256 if grace else None
        row.previous_expires_at = moment + grace if grace else None
        row.sha256 = key_digest(key)
    return row, key


def ensure_admin_key(database: Database, settings: Settings) -> str | None:
    """Create the first admin key and return it, unless the settings have one or an admin key was ever created.

    A revoked or expired admin key counts: it was taken away on purpose.
    """
    if settings.admin_key is not None or any(Scope.ADMIN in row.scopes for row in list_keys(database)):
        return None
    key = _new_key()
    try:
        with database.transaction() as session:
            session.add(_new_row(FIRST_KEY, key, [Scope.ADMIN]))
    except IntegrityError:
        return None  # another process started at the same time, and shows the key that it created
    return key


def issue_admin_key(database: Database, settings: Settings, *, may_replace: bool) -> str:
    """Create the first admin key, or give it a new secret if it exists and `may_replace`; return the key.

    Raises InvalidSetting if the settings have the key, or if there is nothing to create or replace.
    """
    if settings.admin_key is not None:
        raise InvalidSetting("AKIN_ADMIN_KEY is set and is the admin key; change it there")
    key = ensure_admin_key(database, settings)
    if key is not None:
        return key
    if not may_replace:
        raise InvalidSetting("an admin key exists, and only its hash is stored; if it is lost: akin admin-key --new")
    try:
        return rotate_key(database, FIRST_KEY, grace=timedelta(0))[1]
    except KeyNotFound:
        raise InvalidSetting(
            "another key has the scope admin; find it with `akin keys list` and replace it with `akin keys rotate`"
        ) from None


def load_keys(database: Database) -> list[KnownKey]:
    """Return what checking needs of all keys."""
    return [known_key(row) for row in list_keys(database)]


def note_uses(database: Database, uses: Mapping[str, datetime]) -> None:
    """Store when keys, given by their ids, were last used."""
    with database.transaction() as session:
        # Rows are locked in the order of ids everywhere, against deadlocks. Another process may have seen a later use.
        for key_id, moment in sorted(uses.items()):
            is_later = or_(APIKey.last_used_at.is_(None), APIKey.last_used_at < moment)
            session.execute(update(APIKey).where(APIKey.id == key_id, is_later).values(last_used_at=moment))


def known_key(row: APIKey) -> KnownKey:
    """Return what checking needs of a key."""
    known = {scope.value for scope in Scope}
    return KnownKey(
        id=row.id,
        name=row.name,
        sha256=row.sha256,
        scopes=frozenset(Scope(name) for name in row.scopes if name in known),
        expires_at=in_utc(row.expires_at),
        revoked_at=in_utc(row.revoked_at),
        previous_sha256=row.previous_sha256,
        previous_expires_at=in_utc(row.previous_expires_at),
    )


def key_state(row: APIKey) -> str:
    """Return whether a key is ACTIVE, EXPIRED or REVOKED."""
    if row.revoked_at is not None:
        return REVOKED
    if row.expires_at is not None and in_utc(row.expires_at) <= now():
        return EXPIRED
    return ACTIVE


def old_secret_until(row: APIKey) -> datetime | None:
    """Return until when the secret that a rotation replaced stays valid; None if it is not valid."""
    if row.previous_expires_at is None or key_state(row) != ACTIVE:
        return None
    until = in_utc(row.previous_expires_at)
    if row.expires_at is not None:
        until = min(until, in_utc(row.expires_at))
    return until if until > now() else None


def is_first_key_active(database: Database) -> bool:
    """Return whether the key that a first start created exists and is valid."""
    return any(row.name == FIRST_KEY and key_state(row) == ACTIVE for row in list_keys(database))


def has_admin(database: Database, settings: Settings) -> bool:
    """Return whether any valid key has the scope admin."""
    return settings.admin_key is not None or any(
        Scope.ADMIN in row.scopes and key_state(row) == ACTIVE for row in list_keys(database)
    )


def _active_admins(session: Session) -> list[str]:
    """Lock all keys until the commit; return the ids of the valid ones with the scope admin."""
    # Rows are locked in the order of ids everywhere, against deadlocks.
    rows = session.scalars(select(APIKey).order_by(APIKey.id).with_for_update())
    return [row.id for row in rows if Scope.ADMIN in row.scopes and key_state(row) == ACTIVE]


def _future(moment: datetime | None) -> datetime | None:
    """Return a time of expiry in UTC, which SQLite takes stored times for; raises InvalidKeyRequest for a past time."""
    if moment is None:
        return None
    in_future = in_utc(moment)
    if in_future <= now():
        raise InvalidKeyRequest(f"the time of expiry is in the past: {in_future:%Y-%m-%d %H:%M} UTC")
    return in_future


def _new_row(name: str, key: str, scopes: Collection[Scope]) -> APIKey:
    return APIKey(
        id=secrets.token_hex(8),
        name=name,
        sha256=key_digest(key),
        scopes=[scope.value for scope in scopes],
        created_at=now(),
    )


def _new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
