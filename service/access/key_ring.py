"""The keys of an installation as one process knows them: read every second, kept while the database is away."""

import asyncio
import contextlib
import hmac
from concurrent.futures import Executor
from dataclasses import dataclass
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

# Within this time a key is refused everywhere after any process has revoked it.
FRESH_SECONDS = 2.0
# Half of that time; the read itself may take the other half.
POLL_SECONDS = FRESH_SECONDS / 2
# Requests with unknown keys, guesses among them, make the table be read at most this often.
BETWEEN_READS_SECONDS = 0.25
# How long a request with an unknown key waits for the next read: longer than a read of a hanging database can take.
_PATIENCE_SECONDS = 15.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FoundKey:
    """The holder of a key, and the reason to refuse the key if there is one."""

    actor: Actor
    refusal: AccessError | None = None


class KeyRing:
    """Looks keys up in memory; `read` and `wait_until_due`, in a loop, keep the memory up to date.

    Must be created in an event loop and used only from it.
    """

    def __init__(self, database: Database, settings: Settings, *, executor: Executor | None = None) -> None:
        """Read keys in `executor`, or in the event loop's own."""
        self._database = database
        self._executor = executor
        self._settings_digest = key_digest(settings.admin_key.get_secret_value()) if settings.admin_key else None
        self._keys: dict[str, KnownKey] = {}  # by id
        self._is_read_wanted = asyncio.Event()
        self._next_read: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._num_changes = 0
        self._uses: dict[str, datetime] = {}

    async def find(self, key: str) -> FoundKey:
        """Return the holder of `key`; raises InvalidKey, or KeysUnavailable if the key is unknown and may be new."""
        digest = key_digest(key)
        if self._settings_digest is not None and hmac.compare_digest(digest, self._settings_digest):
            # The key of the settings replaces the first key and is reported under the same name.
            return FoundKey(Actor(FIRST_KEY, frozenset(Scope)))
        known = self._match(digest)
        if known is None:
            # Another process may have created the key a moment ago.
            if not await self._wait_for_read():
                raise KeysUnavailable("the key is not known here, and a new one cannot be looked up at present")
            known = self._match(digest)
        if known is None:
            raise InvalidKey(
                "the key is unknown; list the keys with `akin keys list`, create one with `akin keys create`"
            )
        refusal = _refusal(known, digest, now())
        if refusal is None:
            self._uses[known.id] = now()
        return FoundKey(Actor(known.name, known.scopes, known.id), refusal)

    def replace(self, row: APIKey) -> None:
        """Store a key that this process has created, changed or revoked; takes effect at once, without a read."""
        self._num_changes += 1
        known = self._keys.get(row.id)
        # A concurrent rotation and revocation may arrive in either order; the key must stay revoked.
        if known is None or known.revoked_at is None:
            self._keys[row.id] = known_key(row)

    async def read(self) -> None:
        """Read all keys; while the database is away, the keys in memory stay as they are."""
        self._is_read_wanted.clear()
        this_read, self._next_read = self._next_read, asyncio.get_running_loop().create_future()
        is_read = False
        try:
            while not is_read:
                num_changes = self._num_changes
                loop = asyncio.get_running_loop()
                keys = await loop.run_in_executor(self._executor, load_keys, self._database)
                # A change that `replace` stored during the read may be missing from its result: read again.
                is_read = num_changes == self._num_changes
            self._keys = {key.id: key for key in keys}
        except (DatabaseError, StorageFull) as error:
            log.warning("keys_not_read", reason=reason_of(error), num_known=len(self._keys))
        finally:
            this_read.set_result(is_read)

    async def wait_until_due(self) -> None:
        """Wait until the keys are to be read again: soon if an unknown key was sent."""
        await asyncio.sleep(BETWEEN_READS_SECONDS)
        # Unlike wait_for in Python 3.11, this never loses a cancellation.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS - BETWEEN_READS_SECONDS):
                await self._is_read_wanted.wait()

    async def write_uses(self) -> None:
        """Store when keys were used since this was last done."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._executor, note_uses, self._database, uses)
        except (DatabaseError, StorageFull) as error:
            log.warning("uses_of_keys_not_written", reason=reason_of(error))
            self._uses = {**uses, **self._uses}

    async def _wait_for_read(self) -> bool:
        """Wait for a read that begins after this call; return whether it succeeded, and in time."""
        next_read = self._next_read
        self._is_read_wanted.set()
        # Unlike wait_for, this leaves the future alone, which other requests wait for too.
        await asyncio.wait({next_read}, timeout=_PATIENCE_SECONDS)
        return next_read.done() and next_read.result()

    def _match(self, digest: str) -> KnownKey | None:
        # Every key is compared, each in constant time, so that the time taken says nothing about the keys.
        found = None
        for key in self._keys.values():
            is_current = hmac.compare_digest(digest, key.sha256)
            is_previous = hmac.compare_digest(digest, key.previous_sha256 or "")
            if is_current or is_previous:
                found = key
        return found


def _refusal(key: KnownKey, digest: str, moment: datetime) -> AccessError | None:
    if key.revoked_at is not None:
        return RevokedKey(f"the key {key.name!r} was revoked on {key.revoked_at:%Y-%m-%d %H:%M} UTC")
    if key.expires_at is not None and key.expires_at <= moment:
        return ExpiredKey(f"the key {key.name!r} expired on {key.expires_at:%Y-%m-%d %H:%M} UTC; rotate it")
    is_replaced = not hmac.compare_digest(digest, key.sha256)
    if is_replaced and (key.previous_expires_at is None or key.previous_expires_at <= moment):
        return ExpiredKey(f"the key {key.name!r} was rotated, and its old secret is no longer valid")
    return None
