"""The keys of an installation as one process knows them: read again every moment, kept while the database is away."""

import asyncio
import hmac
import math
import time
from collections.abc import Callable
from datetime import datetime

import structlog

from service.access.keys import KnownKey, key_digest, load_keys, note_uses
from service.access.scopes import Actor, Scope
from service.database import Database, now
from service.errors import DatabaseError, ExpiredKey, InvalidKey, KeysUnavailable, RevokedKey
from service.settings import Settings

# How long a revoked key may go on being good in other processes than the one that revoked it.
FRESH_SECONDS = 2.0
# A key that is not known may have been made a moment ago by another process; guesses must not read the table each time.
_MISSED_SECONDS = 0.25
_USES_WRITTEN_SECONDS = 60.0

SETTINGS_KEY = "admin"  # the name under which the key of the settings acts

log = structlog.get_logger(__name__)


class KeyRing:
    """Answers whose a key is, without a question to the database for each request."""

    def __init__(self, database: Database, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._settings_digest = key_digest(settings.admin_key.get_secret_value()) if settings.admin_key else None
        self._clock = clock
        self._keys: list[KnownKey] | None = None  # None: never read
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        self._uses: dict[str, datetime] = {}
        self._uses_written_at = clock()

    async def find(self, key: str) -> Actor:
        """Return who holds `key`; raises InvalidKey, ExpiredKey, RevokedKey, or KeysUnavailable."""
        digest = key_digest(key)
        if self._settings_digest is not None and hmac.compare_digest(digest, self._settings_digest):
            return Actor(SETTINGS_KEY, frozenset(Scope))
        await self._refresh(FRESH_SECONDS)
        found = self._match(digest)
        if found is None:
            await self._refresh(_MISSED_SECONDS)
            found = self._match(digest)
        if found is None:
            raise InvalidKey(
                "the key is not known here; `akin keys list` shows which there are, and `akin keys create` makes one"
            )
        return self._checked(found, digest)

    def forget(self) -> None:
        """Read the keys again at the next question: one was made, changed or revoked here."""
        self._read_at = -math.inf

    def _match(self, digest: str) -> KnownKey | None:
        # All of them, and each as a whole: how long it takes tells nothing of a key.
        found = None
        for key in self._keys or ():
            if hmac.compare_digest(digest, key.sha256) or (
                key.previous_sha256 is not None and hmac.compare_digest(digest, key.previous_sha256)
            ):
                found = key
        return found

    def _checked(self, key: KnownKey, digest: str) -> Actor:
        moment = now()
        if key.revoked_at is not None:
            raise RevokedKey(f"the key {key.name!r} was revoked on {key.revoked_at:%Y-%m-%d %H:%M} UTC")
        if key.expires_at is not None and key.expires_at <= moment:
            raise ExpiredKey(f"the key {key.name!r} expired on {key.expires_at:%Y-%m-%d %H:%M} UTC; rotate it")
        is_replaced = not hmac.compare_digest(digest, key.sha256)
        if is_replaced and (key.previous_expires_at is None or key.previous_expires_at <= moment):
            raise ExpiredKey(f"the key {key.name!r} was rotated, and the time of the old one is over")
        self._uses[key.id] = moment
        return Actor(key.name, key.scopes, key.id)

    async def _refresh(self, older_than_seconds: float) -> None:
        if self._keys is not None and self._clock() - self._read_at < older_than_seconds:
            return
        async with self._reading:
            if self._keys is not None and self._clock() - self._read_at < older_than_seconds:
                return  # whoever had the lock has read them
            started = self._clock()
            try:
                self._keys = await asyncio.to_thread(self._load)
            except DatabaseError as error:
                if self._keys is None:
                    log.error("keys_unavailable", reason=str(error))
                    raise KeysUnavailable("keys cannot be checked at present; the log has the reason") from error
                # Searches go on with the keys that were good a moment ago.
                log.warning("keys_not_refreshed", reason=str(error))
            self._read_at = started

    def _load(self) -> list[KnownKey]:
        keys = load_keys(self._database)
        if self._uses and self._clock() - self._uses_written_at > _USES_WRITTEN_SECONDS:
            uses, self._uses = self._uses, {}
            self._uses_written_at = self._clock()
            note_uses(self._database, uses)
        return keys
