"""The keys of an installation as one process knows them: read again every moment, kept while the database is away."""

import asyncio
import hmac
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from service.access.errors import AccessError, ExpiredKey, InvalidKey, KeysUnavailable, RevokedKey
from service.access.keys import FIRST_KEY, KnownKey, key_digest, known_key, load_keys, note_uses
from service.access.scopes import Actor, Scope
from service.errors import StorageFull, reason_of
from service.installation.settings import Settings
from service.storage.database import Database, now
from service.storage.errors import DatabaseError
from service.storage.tables.access import APIKey

# How long a revoked key may go on being good in other processes than the one that revoked it.
FRESH_SECONDS = 2.0
# Guesses must not read the table each time: they wait for each other.
BETWEEN_READS_SECONDS = 0.25
# A database that does not answer is not asked again for so long.
_AWAY_SECONDS = 2.0
# How long a reading is waited for: by who has a known key that is looked at anew, and by everybody else, who cannot be
# answered without it: a key that is not known, or was changed here.
_PATIENCE_SECONDS = 1.0
_GREAT_PATIENCE_SECONDS = 15.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FoundKey:
    """Whose a key is, and why it is good no longer, if that is so."""

    actor: Actor
    refusal: AccessError | None = None


class KeyRing:
    """Answers whose a key is, without a question to the database for each request.

    Belongs to one event loop; only that may call it.
    """

    def __init__(self, database: Database, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._settings_digest = key_digest(settings.admin_key.get_secret_value()) if settings.admin_key else None
        self._clock = clock
        self._keys: list[KnownKey] | None = None  # None: never read
        self._reading: asyncio.Task[None] | None = None
        self._asked_at = -math.inf  # when the present reading was asked for
        self._began_at = -math.inf  # when the last one began
        self._read_at = -math.inf  # what is in hand was true then, or later
        self._failed_at = -math.inf
        self._changes = 0
        self._changed: dict[str, KnownKey] = {}  # here, since the last reading that has all changes
        self._uses: dict[str, datetime] = {}

    async def find(self, key: str) -> FoundKey:
        """Return whose `key` is; raises InvalidKey, or KeysUnavailable where nobody can say."""
        digest = key_digest(key)
        if self._settings_digest is not None and hmac.compare_digest(digest, self._settings_digest):
            # Under the name of the key that it stands for.
            return FoundKey(Actor(FIRST_KEY, frozenset(Scope)))
        asked_at = self._clock()
        await self.refresh(since=asked_at - FRESH_SECONDS, may_be_old=self._read_at > -math.inf)
        if self._keys is None:
            raise KeysUnavailable("keys cannot be checked at present; the log has the reason")
        found = self._match(digest)
        if found is None:
            # Another process may have made it a moment ago.
            await self.refresh(since=asked_at)
            found = self._match(digest)
        if found is not None:
            return self._checked(found, digest)
        if self._read_at < asked_at:
            raise KeysUnavailable("the key is not known here, and a new one cannot be looked up at present")
        raise InvalidKey(
            "the key is not known here; `akin keys list` shows which there are, and `akin keys create` makes one"
        )

    def replace(self, row: APIKey) -> None:
        """Take over a key that was made, changed or revoked here: it counts at once, and without the database too."""
        key = known_key(row)
        self._changed[key.id] = _later(key, self._changed.get(key.id))
        if self._keys is not None:
            self._keys = self._with_changes(self._keys)
        # What others have changed about it meanwhile has to be read.
        self._changes += 1
        self._read_at = self._began_at = -math.inf

    async def refresh(self, since: float | None = None, *, may_be_old: bool = False) -> None:
        """Have the keys as they were at `since`, a time of the clock, or later; None: now.

        Those that were read before stay where the database does not answer, or not soon: where they `may_be_old`, not
        within a second.
        """
        since = self._clock() if since is None else since
        while self._read_at < since and self._clock() - self._failed_at >= _AWAY_SECONDS:
            if self._reading is None:
                self._reading, self._asked_at = asyncio.create_task(self._read()), self._clock()
            reading = self._reading
            patience = _PATIENCE_SECONDS if may_be_old else _GREAT_PATIENCE_SECONDS
            # So long in all, not for each request, and not at all once it has passed. The reading is not cancelled
            # with a request whose client leaves: others wait for it too.
            await asyncio.wait({reading}, timeout=max(0.0, self._asked_at + patience - self._clock()))
            if not reading.done():
                return
            reading.result()

    async def write_uses(self) -> None:
        """Write down which keys were used since this was last done, and when."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            await asyncio.to_thread(note_uses, self._database, uses)
        except (DatabaseError, StorageFull) as error:
            log.warning("uses_of_keys_not_written", reason=reason_of(error))
            self._uses = {**uses, **self._uses}

    async def _read(self) -> None:
        try:
            await asyncio.sleep(self._began_at + BETWEEN_READS_SECONDS - self._clock())
            self._began_at, changes = self._clock(), self._changes
            began_at = self._began_at
            keys = await asyncio.to_thread(load_keys, self._database)
        except (DatabaseError, StorageFull) as error:
            self._failed_at = self._clock()
            # Searches go on with the keys that were good a moment ago.
            log.warning("keys_not_read", reason=reason_of(error), are_known=self._keys is not None)
        else:
            if changes == self._changes:
                self._changed.clear()
                self._read_at = began_at
            # What was changed here meanwhile may be missing from it.
            self._keys = self._with_changes(keys)
        finally:
            self._reading = None

    def _with_changes(self, keys: list[KnownKey]) -> list[KnownKey]:
        read = {key.id: key for key in keys}
        return list((read | {key_id: _later(key, read.get(key_id)) for key_id, key in self._changed.items()}).values())

    def _match(self, digest: str) -> KnownKey | None:
        # All of them, and each as a whole: how long it takes tells nothing of a key.
        found = None
        for key in self._keys or ():
            is_current = hmac.compare_digest(digest, key.sha256)
            is_previous = hmac.compare_digest(digest, key.previous_sha256 or "")
            if is_current or is_previous:
                found = key
        return found

    def _checked(self, key: KnownKey, digest: str) -> FoundKey:
        actor = Actor(key.name, key.scopes, key.id)
        refusal = _refusal(key, digest, now())
        if refusal is None:
            self._uses[key.id] = now()
        return FoundKey(actor, refusal)


def _later(key: KnownKey, other: KnownKey | None) -> KnownKey:
    """Return `key`, revoked where `other` is: nothing that is done to a key at the same time makes it good again."""
    if other is None or other.revoked_at is None or key.revoked_at is not None:
        return key
    return replace(key, revoked_at=other.revoked_at)


def _refusal(key: KnownKey, digest: str, moment: datetime) -> AccessError | None:
    if key.revoked_at is not None:
        return RevokedKey(f"the key {key.name!r} was revoked on {key.revoked_at:%Y-%m-%d %H:%M} UTC")
    if key.expires_at is not None and key.expires_at <= moment:
        return ExpiredKey(f"the key {key.name!r} expired on {key.expires_at:%Y-%m-%d %H:%M} UTC; rotate it")
    is_replaced = not hmac.compare_digest(digest, key.sha256)
    if is_replaced and (key.previous_expires_at is None or key.previous_expires_at <= moment):
        return ExpiredKey(f"the key {key.name!r} was rotated, and the time of the old one is over")
    return None
