"""Keys to this installation: made, listed, rotated, revoked. A key is shown when it is made; only its hash is kept."""

import hashlib
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import unquote

from pydantic import SecretStr
from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.access.errors import InvalidKeyRequest, KeyNameTaken, KeyNotFound, LastAdminKey
from service.access.scopes import ANYBODY, Scope, parse_scopes
from service.installation.settings import Settings
from service.storage.database import Database, in_utc, now
from service.storage.tables.access import APIKey

FIRST_KEY = "admin"  # the name of the key that the first start makes
ACTIVE, EXPIRED, REVOKED = "active", "expired", "revoked"

# Other actors go by these in logs and records.
_RESERVED = frozenset({FIRST_KEY, ANYBODY.name})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PREFIX = "akin_"  # lets a scanner find a key that was committed by mistake
_SECRET_BYTES = 32
# As `_new_key` and deploy/make-secrets.sh make them, and what is left of one that was cut off or stuck to other text.
_KEY = re.compile(rf"{_PREFIX}[A-Za-z0-9_-]{{32,}}")
_NESTED_PERCENT = re.compile(r"%(?:25)+")
_MOST_DECODINGS = 4  # each undoes any number of plain nestings; who needs more has something to hide
WITH_A_KEY = "(with a key)"  # written instead of a text from which a key cannot be cut out


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


def has_key(text: str, admin_key: SecretStr | None = None) -> bool:
    """Say whether a text has something in it that looks like a key, or has the one of the settings.

    However often it was percent-encoded, and whatever stands around it.
    """
    readings = _readings(text)
    # A key of the settings may itself look percent-encoded.
    secrets_of_settings = _readings(admin_key.get_secret_value()) if admin_key else []
    return len(readings) > _MOST_DECODINGS or any(
        _KEY.search(reading) or any(secret in reading for secret in secrets_of_settings) for reading in readings
    )


def _readings(text: str) -> list[str]:
    """Return a text as it is and percent-decoded again and again, more than `_MOST_DECODINGS` where it has no end."""
    readings = [text]
    while "%" in text and len(readings) <= _MOST_DECODINGS:
        text = unquote(_NESTED_PERCENT.sub("%", text))
        if text == readings[-1]:
            break
        readings.append(text)
    return readings


def without_keys(text: str, admin_key: SecretStr | None = None, *, instead: str = WITH_A_KEY) -> str:
    """Return a text for a log or a record, each key in it masked; `instead`, where one is in it percent-encoded."""
    if not has_key(text, admin_key):
        return text
    if "%" in text:
        return instead
    if admin_key:
        text = text.replace(admin_key.get_secret_value(), "***")
    return _KEY.sub(f"{_PREFIX}***", text)


def create_key(
    database: Database, name: str, scopes: Collection[str], *, actor: str, expires_at: datetime | None = None
) -> tuple[APIKey, str]:
    """Make a key and return its row and the key itself, which nobody can be shown again.

    Raises InvalidKeyRequest for a name, a scope or a time that cannot be, KeyNameTaken.
    """
    if not _NAME.fullmatch(name) or name in _RESERVED or has_key(name):
        raise InvalidKeyRequest(
            f"a key cannot be called {without_keys(name)!r:.80}; take 1 to 64 letters, digits and . _ -, the first a "
            f"letter or digit, and none of {', '.join(sorted(_RESERVED))}"
        )
    try:
        wanted = parse_scopes(scopes)
    except ValueError as error:
        raise InvalidKeyRequest(str(error)) from error
    if not wanted:
        raise InvalidKeyRequest(f"a key needs a scope; scopes are {', '.join(Scope)}")
    expires_at = _future(expires_at)
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


def get_key(session: Session, name: str, *, locked: bool = False) -> APIKey:
    """Return a key by its name or id; raises KeyNotFound. `locked`: nobody else changes it before the commit."""
    # What cannot be a name is not looked for: some databases refuse to be asked for it.
    if _NAME.fullmatch(name):
        query = select(APIKey).where(or_(APIKey.name == name, APIKey.id == name))
        found = session.scalars(query.with_for_update() if locked else query).all()
        # An id that is another key's name: the name has it.
        for row in sorted(found, key=lambda row: row.name != name):
            return row
    raise KeyNotFound(f"there is no key {without_keys(name)!r:.80}; `akin keys list` shows all")


def revoke_key(database: Database, name: str, *, settings: Settings) -> APIKey:
    """Take a key back for good; twice is once. Raises KeyNotFound, and LastAdminKey while no other key has `admin`."""
    with database.transaction() as session:
        # Of two that revoke the last two keys at once, the second must see what the first has done.
        admins = _good_admins(session)
        row = get_key(session, name, locked=True)
        if row.revoked_at is None:
            if settings.admin_key is None and admins == [row.id]:
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

    A time of expiry stays as it is unless another is given. Rotated again within its grace, the oldest secret ends at
    once. Raises KeyNotFound, and InvalidKeyRequest for a key that was revoked, or has expired and gets no later time.
    """
    key = _new_key()
    moment = now()
    expires_at = _future(expires_at)
    with database.transaction() as session:
        row = get_key(session, name, locked=True)
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
        return [known_key(row) for row in list_keys(session)]


def note_uses(database: Database, uses: Mapping[str, datetime]) -> None:
    """Write down when keys, by their ids, were last used."""
    with database.transaction() as session:
        # In the order of ids, as whoever locks several keys does; another process may have seen a later use.
        for key_id, moment in sorted(uses.items()):
            is_later = or_(APIKey.last_used_at.is_(None), APIKey.last_used_at < moment)
            session.execute(update(APIKey).where(APIKey.id == key_id, is_later).values(last_used_at=moment))


def known_key(row: APIKey) -> KnownKey:
    """Return a key as it is checked."""
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
    """Say whether a key is good."""
    if row.revoked_at is not None:
        return REVOKED
    if row.expires_at is not None and in_utc(row.expires_at) <= now():
        return EXPIRED
    return ACTIVE


def previous_good_until(row: APIKey) -> datetime | None:
    """Return until when the secret that a rotation replaced is good yet; None where it is not."""
    if row.previous_expires_at is None or key_state(row) != ACTIVE:
        return None
    until = in_utc(row.previous_expires_at)
    if row.expires_at is not None:
        until = min(until, in_utc(row.expires_at))
    return until if until > now() else None


def good_first_key(database: Database) -> APIKey | None:
    """Return the key that an earlier first start made, if it is still good."""
    with database.reading() as session:
        row = session.scalars(select(APIKey).where(APIKey.name == FIRST_KEY)).one_or_none()
    return row if row is not None and key_state(row) == ACTIVE else None


def has_admin(database: Database, settings: Settings) -> bool:
    """Say whether anybody has a key that is good for the admin routes."""
    if settings.admin_key is not None:
        return True
    with database.reading() as session:
        return any(Scope.ADMIN in row.scopes and key_state(row) == ACTIVE for row in list_keys(session))


def _good_admins(session: Session) -> list[str]:
    """Return the ids of the keys that are good for the admin routes, which nobody changes before the commit."""
    # In the order of ids, so that two that lock them do not wait for each other.
    rows = session.scalars(select(APIKey).order_by(APIKey.id).with_for_update())
    return [row.id for row in rows if Scope.ADMIN in row.scopes and key_state(row) == ACTIVE]


def _future(moment: datetime | None) -> datetime | None:
    """Return a time of expiry in UTC, as which SQLite reads what it stores; raises InvalidKeyRequest for the past."""
    if moment is None:
        return None
    in_future = in_utc(moment)
    if in_future <= now():
        raise InvalidKeyRequest(f"the key would have expired already, at {in_future:%Y-%m-%d %H:%M} UTC")
    return in_future


def _new_key() -> str:
    return _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
