"""Keys in the memory of a server: how fresh, how safe against guesses, and what happens without a database."""

import asyncio
import contextlib
import hmac
import threading
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.access import key_ring
from service.access.errors import ExpiredKey, InvalidKey, KeysUnavailable, RevokedKey
from service.access.key_ring import BETWEEN_READS_SECONDS, FRESH_SECONDS, POLL_SECONDS, KeyRing
from service.access.keys import create_key, list_keys, load_keys, revoke_key, rotate_key
from service.storage.database import in_utc, now, open_database
from service.storage.errors import DatabaseUnavailable
from service.web.app import create_app
from tests.service.fixtures.access import bearer, let_expire, make_keys


@pytest.fixture
def keys(database, settings):
    return make_keys(database, settings)


@pytest.fixture
def elsewhere(settings):
    """The same database, opened as another process would."""
    opened = open_database(settings.database_address)
    yield opened
    opened.close()


@pytest.fixture
def table(monkeypatch):
    """The table as the ring reads it: counts the reads, and lets a test make them fail or wait."""

    class ReadTable:
        def __init__(self):
            self.num_reads = 0
            self.error = None
            self.has_begun, self.may_end = threading.Event(), threading.Event()
            self.may_end.set()

        def read(self, database):
            self.num_reads += 1
            keys = load_keys(database)
            self.has_begun.set()
            assert self.may_end.wait(60)
            if self.error is not None:
                raise self.error
            return keys

    replacement = ReadTable()
    monkeypatch.setattr(key_ring, "load_keys", replacement.read)
    return replacement


@contextlib.asynccontextmanager
async def following_ring(database, settings):
    """Yield a ring that has read the keys and goes on doing so, as in a server."""
    ring = KeyRing(database, settings)
    await ring.read()

    async def follow():
        while True:
            await ring.wait_until_due()
            await ring.read()

    task = asyncio.create_task(follow())
    try:
        yield ring
    finally:
        task.cancel()
        await asyncio.wait({task})


async def name_of(ring, key):
    """Return the name of the holder, or the class of the refusal."""
    found = await ring.find(key)
    return found.actor.name if found.refusal is None else type(found.refusal)


def test_finds_the_holder_of_a_key_and_the_reason_to_refuse_it(database, settings, keys):
    async def find_all():
        async with following_ring(database, settings) as ring:
            with pytest.raises(InvalidKey):
                await ring.find(keys["boss"] + "x")
            return {name: await ring.find(key) for name, key in keys.items()}

    found = asyncio.run(find_all())

    assert {name: one.actor.name for name, one in found.items()} == {name: name for name in keys}
    assert {name: sorted(one.actor.scopes) for name, one in found.items() if one.refusal is None} == {
        "searcher": ["search"],
        "writer": ["catalogue:write"],
        "boss": ["admin"],
    }
    assert isinstance(found["late"].refusal, ExpiredKey)
    assert isinstance(found["gone"].refusal, RevokedKey)


def test_every_key_is_compared_whichever_matches(database, settings, keys, monkeypatch):
    """The time taken depends on the number of keys, not on which of them matches or how much of it."""
    rotate_key(database, "writer", grace=timedelta(hours=1))
    compared = []
    settings = settings.model_copy(update={"admin_key": SecretStr("of-the-settings")})

    def counted(a, b):
        compared.append(b)
        return real(a, b)

    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", counted)

    async def comparisons(ring, key):
        compared.clear()
        with contextlib.suppress(InvalidKey):
            await ring.find(key)
        return list(compared)

    async def compare_all():
        async with following_ring(database, settings) as ring:
            return {name: await comparisons(ring, key) for name, key in {"wrong": "x", **keys}.items()}

    found = asyncio.run(compare_all())

    # The key of the settings, then the current and the previous secret of each key.
    num_compared = 1 + 2 * len(keys)
    first = {name: digests[:num_compared] for name, digests in found.items()}
    assert {known.sha256 for known in load_keys(database)} < set(first["wrong"])
    assert all(digests == first["wrong"] for digests in first.values())
    assert len(found["searcher"]) == len(found["writer"]) == len(found["boss"])


def test_a_key_revoked_elsewhere_is_refused_after_the_next_read(database, settings, keys, elsewhere):
    async def revoke():
        async with following_ring(database, settings) as ring:
            revoke_key(elsewhere, "searcher", settings=settings)
            async with asyncio.timeout(60):
                while (found := await name_of(ring, keys["searcher"])) == "searcher":
                    await asyncio.sleep(0.01)
            return found

    assert asyncio.run(revoke()) is RevokedKey
    assert POLL_SECONDS < FRESH_SECONDS, "leaves time for the read"


def test_a_key_created_elsewhere_is_accepted_at_its_first_use(database, settings, keys, elsewhere):
    async def create():
        async with following_ring(database, settings) as ring:
            _, new = create_key(elsewhere, "new", ["search"], actor="test")
            return await name_of(ring, new)

    assert asyncio.run(create()) == "new"


def test_a_read_that_began_before_a_change_does_not_undo_it(database, settings, keys, table):
    async def revoke():
        async with following_ring(database, settings) as ring:
            table.may_end.clear()
            table.has_begun.clear()
            read = asyncio.create_task(ring.read())
            await asyncio.to_thread(table.has_begun.wait, 60)
            ring.replace(revoke_key(database, "searcher", settings=settings))
            meanwhile = await name_of(ring, keys["searcher"])
            table.may_end.set()
            await read
            return meanwhile, await name_of(ring, keys["searcher"])

    assert asyncio.run(revoke()) == (RevokedKey, RevokedKey)


def test_a_change_made_here_counts_at_once_even_if_the_database_then_goes_away(database, settings, keys, table):
    async def change():
        async with following_ring(database, settings) as ring:
            table.error = DatabaseUnavailable("gone")
            ring.replace(revoke_key(database, "searcher", settings=settings))
            rotated, new = rotate_key(database, "writer", grace=timedelta(0))
            created, created_key = create_key(database, "new", ["search"], actor="test")
            ring.replace(rotated)
            ring.replace(created)
            await ring.read()
            with pytest.raises(KeysUnavailable):
                await ring.find(keys["writer"])
            return [await name_of(ring, key) for key in (keys["boss"], keys["searcher"], new, created_key)]

    assert asyncio.run(change()) == ["boss", RevokedKey, "writer", "new"]


def test_a_rotation_reported_after_a_revocation_does_not_undo_it(database, settings, keys):
    async def change():
        async with following_ring(database, settings) as ring:
            rotated, new = rotate_key(database, "writer", grace=timedelta(hours=1))
            ring.replace(revoke_key(database, "writer", settings=settings))
            ring.replace(rotated)
            return [await name_of(ring, key) for key in (keys["writer"], new)]

    assert asyncio.run(change()) == [RevokedKey, RevokedKey]


def test_many_guesses_share_one_read(database, settings, keys, table):
    async def guess(ring, number):
        with pytest.raises(InvalidKey):
            await ring.find(f"guess-{number}")

    async def guess_all():
        async with following_ring(database, settings) as ring:
            table.may_end.clear()
            guesses = [asyncio.create_task(guess(ring, number)) for number in range(500)]
            await asyncio.sleep(0)
            num_reads = table.num_reads
            table.may_end.set()
            await asyncio.wait(guesses)
            return table.num_reads - num_reads

    assert asyncio.run(guess_all()) < 10
    assert BETWEEN_READS_SECONDS > 0


def test_known_keys_are_accepted_while_the_database_is_away(database, settings, keys, table):
    async def use():
        async with following_ring(database, settings) as ring:
            table.error = DatabaseUnavailable("gone")
            await ring.read()
            num_reads = table.num_reads
            accepted = {await name_of(ring, keys["searcher"]) for _ in range(100)}
            expired = await name_of(ring, keys["late"])
            assert table.num_reads <= num_reads + 1, "a known key needs no read"
            # An unknown key may be new: it is neither accepted nor refused as invalid.
            with pytest.raises(KeysUnavailable):
                await ring.find("unknown")
            table.error = None
            revoke_key(database, "searcher", settings=settings)
            await ring.read()
            return accepted, expired, await name_of(ring, keys["searcher"])

    assert asyncio.run(use()) == ({"searcher"}, ExpiredKey, RevokedKey)


def test_a_database_that_hangs_does_not_delay_known_keys_and_delays_unknown_ones_for_a_bounded_time(
    database, settings, keys, table, monkeypatch
):
    monkeypatch.setattr(key_ring, "_PATIENCE_SECONDS", 0.1)

    async def use():
        async with following_ring(database, settings) as ring:
            table.may_end.clear()
            table.has_begun.clear()
            await asyncio.to_thread(table.has_begun.wait, 60)
            accepted = await name_of(ring, keys["searcher"])
            with pytest.raises(KeysUnavailable):
                await ring.find("unknown")
            is_hanging = not table.may_end.is_set()
            table.may_end.set()
            return accepted, is_hanging

    assert asyncio.run(use()) == ("searcher", True)


def test_keys_that_were_never_read_are_unavailable_rather_than_invalid(database, settings, keys, table):
    table.error = DatabaseUnavailable("gone")

    async def use():
        async with following_ring(database, settings) as ring:
            with pytest.raises(KeysUnavailable):
                await ring.find(keys["boss"])
            table.error = None
            return await name_of(ring, keys["boss"])

    assert asyncio.run(use()) == "boss"


def test_a_server_that_cannot_read_the_keys_answers_503_with_retry_after(settings, keys, table):
    table.error = DatabaseUnavailable("host db.internal")

    with TestClient(create_app(settings, is_loopback=False)) as client:
        response = client.get("/v1/admin/keys", headers=bearer(keys["boss"]))

    assert (response.status_code, response.json()["code"]) == (503, "keys-unavailable")
    assert response.headers["retry-after"] == "1"
    assert "db.internal" not in response.text


def test_a_key_expires_at_its_time_without_a_read(database, settings, monkeypatch):
    """Times are compared at each request; only changes need a read."""
    end = now() + timedelta(hours=1)
    _, short = create_key(database, "short", ["search"], actor="test", expires_at=end)

    async def use():
        async with following_ring(database, settings) as ring:
            before = await name_of(ring, short)
            monkeypatch.setattr(key_ring, "now", lambda: end)
            return before, await name_of(ring, short)

    assert asyncio.run(use()) == ("short", ExpiredKey)


def test_the_old_secret_is_accepted_for_the_grace_and_no_longer(database, settings, keys, monkeypatch):
    _, new = rotate_key(database, "searcher", grace=timedelta(hours=1))
    end = now() + timedelta(hours=1)

    async def use():
        async with following_ring(database, settings) as ring:
            within = [await name_of(ring, key) for key in (keys["searcher"], new)]
            monkeypatch.setattr(key_ring, "now", lambda: end)
            return within, [await name_of(ring, key) for key in (keys["searcher"], new)]

    assert asyncio.run(use()) == (["searcher", "searcher"], [ExpiredKey, "searcher"])


def test_stores_when_keys_were_last_used(database, settings, keys):
    async def use():
        async with following_ring(database, settings) as ring:
            for name in ("searcher", "late", "gone"):
                await ring.find(keys[name])
            await ring.write_uses()
            await ring.write_uses()

    began = now()
    asyncio.run(use())

    used = {key.name: key.last_used_at for key in list_keys(database)}
    assert used["searcher"] is not None
    assert began <= in_utc(used["searcher"]) <= now()
    assert used["late"] is used["gone"] is used["boss"] is None, "refused, or not used"


def test_uses_are_kept_until_they_can_be_stored(database, settings, keys, monkeypatch):
    written = []

    def fail(*_):
        raise DatabaseUnavailable("gone")

    async def use():
        async with following_ring(database, settings) as ring:
            await ring.find(keys["boss"])
            monkeypatch.setattr(key_ring, "note_uses", fail)
            await ring.write_uses()
            monkeypatch.setattr(key_ring, "note_uses", lambda _, uses: written.append(dict(uses)))
            await ring.write_uses()

    asyncio.run(use())

    assert [len(uses) for uses in written] == [1]


def test_an_expired_key_is_accepted_after_a_rotation_with_a_new_time_of_expiry(database, settings, keys):
    let_expire(database, "searcher")
    _, new = rotate_key(database, "searcher", grace=timedelta(hours=1), expires_at=now() + timedelta(hours=1))

    async def use():
        async with following_ring(database, settings) as ring:
            return await name_of(ring, new)

    assert asyncio.run(use()) == "searcher"
