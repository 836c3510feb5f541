"""The keys as one server knows them: how fresh, how safe against guesses, and what it does without a database."""

import asyncio
import contextlib
import hmac
import threading
import time
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.access import key_ring
from service.access.errors import ExpiredKey, InvalidKey, KeysUnavailable, RevokedKey
from service.access.key_ring import BETWEEN_READS_SECONDS, FRESH_SECONDS, KeyRing
from service.access.keys import create_key, get_key, load_keys, revoke_key, rotate_key
from service.storage.database import in_utc, now, open_database
from service.storage.errors import DatabaseUnavailable
from service.web.app import create_app
from tests.fakes import Clock
from tests.service.fixtures.access import bearer, let_expire, make_keys


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def keys(database, settings):
    return make_keys(database, settings)


@pytest.fixture
def elsewhere(settings):
    """The same tables as another process has them open."""
    opened = open_database(settings.database_address)
    yield opened
    opened.close()


@pytest.fixture
def readings(monkeypatch):
    """What reads the table does so through here: counted, and failing or waiting where a test says so."""

    class Readings:
        def __init__(self):
            self.count = 0
            self.error, self.num_good = None, 0  # so many succeed before the error
            self.begun, self.go_on = threading.Event(), threading.Event()
            self.go_on.set()

        def read(self, database):
            self.count += 1
            keys = load_keys(database)
            self.begun.set()
            assert self.go_on.wait(10)
            if self.error is not None and self.count > self.num_good:
                raise self.error
            return keys

    made = Readings()
    monkeypatch.setattr(key_ring, "load_keys", made.read)
    return made


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """A busy machine is no database that is away."""
    monkeypatch.setattr(key_ring, "_PATIENCE_SECONDS", 15.0)


async def name_of(ring, key):
    found = await ring.find(key)
    return found.actor.name if found.refusal is None else type(found.refusal)


def test_tells_whose_a_key_is_and_what_is_wrong_with_it(database, settings, keys):
    async def asked():
        ring = KeyRing(database, settings)
        with pytest.raises(InvalidKey):
            await ring.find(keys["boss"] + "x")
        return {name: await ring.find(key) for name, key in keys.items()}

    found = asyncio.run(asked())

    assert {name: one.actor.name for name, one in found.items()} == {name: name for name in keys}
    assert {name: sorted(one.actor.scopes) for name, one in found.items() if one.refusal is None} == {
        "searcher": ["search"],
        "writer": ["catalogue:write"],
        "boss": ["admin"],
    }
    assert isinstance(found["late"].refusal, ExpiredKey)
    assert isinstance(found["gone"].refusal, RevokedKey)


def test_every_key_is_compared_whichever_is_right(database, settings, keys, monkeypatch):
    """How long it takes depends on how many keys there are, not on which of them fits, or how well."""
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

    async def all_of_them():
        ring = KeyRing(database, settings)
        await ring.refresh()
        return {name: await comparisons(ring, key) for name, key in {"wrong": "x", **keys}.items()}

    found = asyncio.run(all_of_them())

    # That of the settings, then the present and the previous secret of each.
    num_compared = 1 + 2 * len(keys)
    first = {name: digests[:num_compared] for name, digests in found.items()}
    assert {known.sha256 for known in load_keys(database)} < set(first["wrong"])
    assert all(digests == first["wrong"] for digests in first.values())
    assert len(found["searcher"]) == len(found["writer"]) == len(found["boss"])


def test_a_key_revoked_elsewhere_is_good_no_longer_than_promised(database, settings, keys, elsewhere, clock):
    async def follow():
        ring = KeyRing(database, settings, clock=clock)
        assert await name_of(ring, keys["searcher"]) == "searcher"
        revoke_key(elsewhere, "searcher", settings=settings)
        clock.seconds += FRESH_SECONDS - 0.01
        stale = await name_of(ring, keys["searcher"])
        clock.seconds += 0.02
        return stale, await name_of(ring, keys["searcher"])

    assert asyncio.run(follow()) == ("searcher", RevokedKey)


def test_a_key_made_elsewhere_is_good_at_once(database, settings, keys, elsewhere):
    async def follow():
        ring = KeyRing(database, settings)
        assert await name_of(ring, keys["searcher"]) == "searcher"
        _, made = create_key(elsewhere, "new", ["search"], actor="test")
        began = time.monotonic()
        return await name_of(ring, made), time.monotonic() - began

    name, seconds = asyncio.run(follow())

    assert name == "new"
    assert seconds < FRESH_SECONDS / 2


def test_what_is_changed_here_counts_at_once(database, settings, keys, clock):
    async def follow():
        ring = KeyRing(database, settings, clock=clock)
        assert await name_of(ring, keys["searcher"]) == "searcher"
        ring.replace(revoke_key(database, "searcher", settings=settings))
        return await name_of(ring, keys["searcher"])

    assert asyncio.run(follow()) is RevokedKey


def test_a_reading_that_began_before_a_change_does_not_hide_it(database, settings, keys, readings, clock):
    async def follow():
        ring = KeyRing(database, settings, clock=clock)
        readings.go_on.clear()
        first = asyncio.create_task(name_of(ring, keys["searcher"]))
        await asyncio.to_thread(readings.begun.wait, 10)
        ring.replace(revoke_key(database, "searcher", settings=settings))
        readings.go_on.set()
        return await first, await name_of(ring, keys["searcher"])

    assert asyncio.run(follow()) == (RevokedKey, RevokedKey)


@pytest.mark.parametrize("is_being_read", [False, True])
def test_what_is_changed_here_counts_though_the_database_then_goes_away(
    database, settings, keys, readings, clock, is_being_read
):
    async def follow():
        ring = KeyRing(database, settings, clock=clock)
        assert await name_of(ring, keys["boss"]) == "boss"
        if is_being_read:  # what this reading finds is from before the changes, and comes after them
            clock.seconds += FRESH_SECONDS + 1
            readings.begun.clear()
            readings.go_on.clear()
            reading = asyncio.create_task(ring.refresh())
            await asyncio.to_thread(readings.begun.wait, 10)
        ring.replace(revoke_key(database, "searcher", settings=settings))
        rotated, new = rotate_key(database, "writer", grace=timedelta(0))
        created, made = create_key(database, "made", ["search"], actor="test")
        ring.replace(rotated)
        ring.replace(created)
        readings.error, readings.num_good = DatabaseUnavailable("gone"), readings.count
        if is_being_read:
            readings.go_on.set()
            await reading
        found = [await name_of(ring, key) for key in (keys["boss"], keys["searcher"], new, made)]
        with pytest.raises(KeysUnavailable):
            await ring.find(keys["writer"])
        return found

    assert asyncio.run(follow()) == ["boss", RevokedKey, "writer", "made"]


def test_a_change_that_is_told_late_makes_no_revoked_key_good(database, settings, keys, readings):
    async def follow():
        ring = KeyRing(database, settings)
        assert await name_of(ring, keys["writer"]) == "writer"
        rotated, new = rotate_key(database, "writer", grace=timedelta(hours=1))
        ring.replace(revoke_key(database, "writer", settings=settings))
        ring.replace(rotated)
        readings.error = DatabaseUnavailable("gone")
        return [await name_of(ring, key) for key in (keys["writer"], new)]

    assert asyncio.run(follow()) == [RevokedKey, RevokedKey]


def test_guesses_do_not_read_the_table_each_time(database, settings, keys, readings):
    async def guess(ring, number):
        with pytest.raises(InvalidKey):
            await ring.find(f"guess-{number}")

    async def many():
        ring = KeyRing(database, settings)
        began = time.monotonic()
        await asyncio.gather(*(guess(ring, number) for number in range(500)))
        for number in range(3):
            await guess(ring, number)
        return time.monotonic() - began

    seconds = asyncio.run(many())

    # 503 guesses, and no more readings than there is time for.
    assert 2 <= readings.count <= 2 + seconds / BETWEEN_READS_SECONDS


def test_known_keys_go_on_while_the_database_is_away(database, settings, keys, readings, clock):
    async def follow():
        ring = KeyRing(database, settings, clock=clock)
        assert await name_of(ring, keys["searcher"]) == "searcher"
        readings.error = DatabaseUnavailable("gone")
        clock.seconds += 3600
        known = await name_of(ring, keys["searcher"])
        expired = await name_of(ring, keys["late"])
        # Whether there is such a key, nobody can say now.
        with pytest.raises(KeysUnavailable):
            await ring.find("unknown")
        asked = readings.count
        for _ in range(10):
            assert await name_of(ring, keys["searcher"]) == "searcher"
        assert readings.count == asked, "a database that is away is not asked for each request"
        readings.error = None
        revoke_key(database, "searcher", settings=settings)
        clock.seconds += FRESH_SECONDS
        return known, expired, await name_of(ring, keys["searcher"])

    assert asyncio.run(follow()) == ("searcher", ExpiredKey, RevokedKey)


def test_a_database_that_does_not_answer_holds_nobody_up_for_long(database, settings, keys, readings, monkeypatch):
    monkeypatch.setattr(key_ring, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(key_ring, "_PATIENCE_SECONDS", 0.3)

    async def follow():
        ring = KeyRing(database, settings)
        assert await name_of(ring, keys["searcher"]) == "searcher"
        readings.go_on.clear()
        waited = []
        for _ in range(3):
            began = time.monotonic()
            assert await name_of(ring, keys["searcher"]) == "searcher"
            waited.append(time.monotonic() - began)
        readings.go_on.set()
        return waited

    first, *others = asyncio.run(follow())

    assert 0.2 < first < 2
    assert max(others) < 0.2


def test_keys_that_were_never_read_are_not_refused_but_unknown(database, settings, keys, readings, clock):
    readings.error = DatabaseUnavailable("gone")

    async def follow():
        ring = KeyRing(database, settings, clock=clock)
        for _ in range(2):
            with pytest.raises(KeysUnavailable):
                await ring.find(keys["boss"])
        assert readings.count == 1
        readings.error = None
        clock.seconds += 2
        return await name_of(ring, keys["boss"])

    assert asyncio.run(follow()) == "boss"


def test_a_server_without_its_keys_says_so_and_when_to_ask_again(settings, keys, readings):
    readings.error = DatabaseUnavailable("host db.internal")

    with TestClient(create_app(settings, is_loopback=False)) as client:
        response = client.get("/v1/admin/keys", headers=bearer(keys["boss"]))

    assert (response.status_code, response.json()["code"]) == (503, "keys-unavailable")
    assert response.headers["retry-after"] == "1"
    assert "db.internal" not in response.text


def test_a_key_ends_at_its_time_without_a_reading(database, settings, clock, monkeypatch):
    """Times are compared at each request; only changes wait for the next reading."""
    end = now() + timedelta(hours=1)
    _, short = create_key(database, "short", ["search"], actor="test", expires_at=end)

    async def follow():
        ring = KeyRing(database, settings, clock=clock)
        before = await name_of(ring, short)
        monkeypatch.setattr(key_ring, "now", lambda: end)
        return before, await name_of(ring, short)

    assert asyncio.run(follow()) == ("short", ExpiredKey)


def test_the_old_secret_is_good_for_the_grace_and_no_longer(database, settings, keys, clock, monkeypatch):
    _, new = rotate_key(database, "searcher", grace=timedelta(hours=1))
    end = now() + timedelta(hours=1)

    async def follow():
        ring = KeyRing(database, settings, clock=clock)
        within = [await name_of(ring, key) for key in (keys["searcher"], new)]
        monkeypatch.setattr(key_ring, "now", lambda: end)
        return within, [await name_of(ring, key) for key in (keys["searcher"], new)]

    assert asyncio.run(follow()) == (["searcher", "searcher"], [ExpiredKey, "searcher"])


def test_writes_down_when_keys_were_last_used(database, settings, keys):
    async def use():
        ring = KeyRing(database, settings)
        for name in ("searcher", "late", "gone"):
            await ring.find(keys[name])
        await ring.write_uses()
        await ring.write_uses()

    began = now()
    asyncio.run(use())

    with database.reading() as session:
        used = {name: get_key(session, name).last_used_at for name in keys}
    assert used["searcher"] is not None
    assert timedelta(0) <= in_utc(used["searcher"]) - began < timedelta(seconds=20)
    assert used["late"] is used["gone"] is used["boss"] is None, "refused, or not used"


def test_a_use_is_written_by_a_server_that_ends(settings, database, keys):
    with TestClient(create_app(settings)) as client:
        assert client.get("/v1/admin/keys", headers=bearer(keys["boss"])).status_code == 200

    with database.reading() as session:
        assert get_key(session, "boss").last_used_at is not None


def test_uses_are_kept_until_they_can_be_written(database, settings, keys, monkeypatch):
    written = []

    def fail(*_):
        raise DatabaseUnavailable("gone")

    async def use():
        ring = KeyRing(database, settings)
        await ring.find(keys["boss"])
        monkeypatch.setattr(key_ring, "note_uses", fail)
        await ring.write_uses()
        monkeypatch.setattr(key_ring, "note_uses", lambda _, uses: written.append(dict(uses)))
        await ring.write_uses()

    asyncio.run(use())

    assert [len(uses) for uses in written] == [1]


def test_an_expired_key_that_is_rotated_is_good_again(database, settings, keys):
    let_expire(database, "searcher")
    _, new = rotate_key(database, "searcher", grace=timedelta(hours=1), expires_at=now() + timedelta(hours=1))

    async def asked():
        ring = KeyRing(database, settings)
        return await name_of(ring, new)

    assert asyncio.run(asked()) == "searcher"
