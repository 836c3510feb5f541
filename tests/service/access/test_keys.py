"""Keys in the database: made, rotated, revoked; what is kept of them, and what cannot be."""

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from service.access.errors import InvalidKeyRequest, KeyNameTaken, KeyNotFound, LastAdminKey
from service.access.keys import (
    FIRST_KEY,
    create_key,
    ensure_admin_key,
    get_key,
    has_admin,
    has_key,
    key_state,
    list_keys,
    load_keys,
    previous_good_until,
    revoke_key,
    rotate_key,
    without_keys,
)
from service.storage.database import in_utc, now, open_database
from tests.service.fixtures.access import let_expire

HOUR = timedelta(hours=1)


def make(database, name="one", *scopes, **options):
    return create_key(database, name, scopes or ["admin"], actor="test", **options)


def row_of(database, name="one"):
    with database.reading() as session:
        return get_key(session, name)


def test_a_key_is_nowhere_in_the_database(database, settings):
    first = ensure_admin_key(database, settings)
    _, made = make(database)
    _, rotated = rotate_key(database, "one", grace=HOUR)

    with database.reading() as session:
        rows = [str(vars(row)) for row in list_keys(session)]
    text = "\n".join(rows).encode()
    for path in settings.home.glob("akin.db*"):
        text += path.read_bytes()

    assert len(rows) == 2
    for key in (first, made, rotated):
        assert key is not None
        assert len(key) == 48
        assert key.encode() not in text
        # Nor a part that would make it easier to guess.
        assert key[5:17].encode() not in text


def test_keys_can_be_told_from_other_text():
    assert has_key(f"GET /x?y=akin_{'a' * 43} HTTP/1.1")
    assert without_keys(f"/v1/admin/keys/akin_{'-' * 43}:rotate") == "/v1/admin/keys/akin_***:rotate"
    for text in ("akin_data", "akin_" + "a" * 31, "akin_summer-catalogue-2024-front"):
        assert not has_key(text)
        assert without_keys(text) == text


@pytest.mark.parametrize("key", ["akin_" + "a-_9" * 10 + "xyz", "akin_" + "0123456789abcdef" * 4])
@pytest.mark.parametrize("before", ["", "x%3D", "b", "-", "/"])
def test_a_key_is_seen_whatever_its_kind_and_what_stands_around_it(key, before):
    assert has_key(f"{before}{key}x")
    assert key[5:] not in without_keys(f"{before}{key}x")
    for underscore in ("%5F", "%5f", "%255F", "%25255f", "%%32%35%35f"):
        encoded = before + key.replace("_", underscore, 1)

        assert has_key(encoded)
        assert without_keys(encoded, instead="/route") == "/route"


@pytest.mark.parametrize("given", ["0123456789abcdef" * 3, "q83/ab+cd==ef9021xyzQWE", "50%25-off-and-more-of-it"])
def test_the_key_of_the_settings_is_seen_whatever_it_looks_like(given):
    key = SecretStr(given)
    for text in (f"/x/{given}:rotate", f"/x/{quote(given, safe='')}", f"/x/{quote(quote('/' + given))}"):
        assert has_key(text, key)
        assert given not in without_keys(text, key)
        assert quote(given, safe="") not in without_keys(text, key)
    assert without_keys(f"/x/{'0123456789abcdef' * 3}:rotate", SecretStr("0123456789abcdef" * 3)) == "/x/***:rotate"
    assert not has_key(f"/x/{given[:-1]}", key)


def test_text_that_is_encoded_without_end_is_taken_for_a_key():
    text = "/x"
    for _ in range(8):
        text = "".join(f"%{ord(letter):02x}" for letter in text)

    assert has_key(text)
    assert not has_key("/x" + "%25" * 10_000 + "2f")


@pytest.mark.parametrize(
    "name",
    ["", "-x", ".x", "a b", "a/b", "a:rotate", "ä", "a\0", "a\n", "x" * 65, FIRST_KEY, "anybody", "akin_" + "a" * 43],
)
def test_a_name_that_cannot_be_is_refused(database, name):
    with pytest.raises(InvalidKeyRequest, match="cannot be called"):
        make(database, name)


@pytest.mark.parametrize("scopes", [[], ["searchh"], ["admin", ""], ["ADMIN"]])
def test_scopes_that_cannot_be_are_refused(database, scopes):
    with pytest.raises(InvalidKeyRequest, match="scopes are search, catalogue:write, admin"):
        create_key(database, "one", scopes, actor="test")


def test_a_time_of_expiry_in_the_past_is_refused(database):
    with pytest.raises(InvalidKeyRequest, match="expired already"):
        make(database, expires_at=now() - timedelta(seconds=1))
    make(database)
    with pytest.raises(InvalidKeyRequest, match="expired already"):
        rotate_key(database, "one", grace=HOUR, expires_at=now())


def test_a_time_of_expiry_keeps_its_zone(database):
    """SQLite stores the digits alone: a zone must be taken into account before."""
    in_zone = datetime(2100, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    without_zone = datetime(2100, 1, 1, 7)
    make(database, "zone", expires_at=in_zone)
    make(database, "none", expires_at=without_zone)

    found = {known.name: known.expires_at for known in load_keys(database)}

    assert found == dict.fromkeys(("zone", "none"), datetime(2100, 1, 1, 7, tzinfo=UTC))


def test_a_name_is_taken_for_good(database, settings):
    make(database)
    make(database, "two")
    with pytest.raises(KeyNameTaken):
        make(database, "one", "search")
    revoke_key(database, "one", settings=settings)

    with pytest.raises(KeyNameTaken, match="revoked ones included"):
        make(database)


def test_a_key_is_found_by_its_name_or_id_and_a_name_goes_first(database):
    row, _ = make(database)
    make(database, row.id, "search")

    assert row_of(database, "one").id == row.id
    assert row_of(database, row.id).name == row.id
    for unknown in ("nobody", "", "a\0b", "\ud800", "x" * 5000):
        with pytest.raises(KeyNotFound):
            row_of(database, unknown)


def test_rotating_with_grace_keeps_the_old_secret_for_a_while(database):
    old, _ = make(database)
    old_sha256 = old.sha256

    rotate_key(database, "one", grace=HOUR)

    row = row_of(database)
    assert row.previous_sha256 == old_sha256 != row.sha256
    until = previous_good_until(row)
    assert until is not None
    assert abs(until - now() - HOUR) < timedelta(minutes=1)


def test_rotating_without_grace_ends_the_old_secret_at_once(database):
    make(database)
    rotate_key(database, "one", grace=HOUR)

    rotate_key(database, "one", grace=timedelta(0))

    row = row_of(database)
    assert (row.previous_sha256, row.previous_expires_at, previous_good_until(row)) == (None, None, None)


def test_a_revoked_or_expired_key_has_no_old_secret(database, settings):
    make(database)
    make(database, "two", expires_at=now() + HOUR)
    for name in ("one", "two"):
        rotate_key(database, name, grace=HOUR)
    make(database, "three")

    revoke_key(database, "one", settings=settings)
    let_expire(database, "two")

    assert [previous_good_until(row_of(database, name)) for name in ("one", "two")] == [None, None]


def test_rotating_keeps_the_time_of_expiry_unless_another_is_given(database):
    end, later = now() + HOUR, now() + 2 * HOUR
    make(database, expires_at=end)

    rotate_key(database, "one", grace=HOUR)
    kept = row_of(database).expires_at
    rotate_key(database, "one", grace=HOUR, expires_at=later)

    assert kept is not None
    assert in_utc(kept) == end
    changed = row_of(database).expires_at
    assert changed is not None
    assert in_utc(changed) == later


def test_a_key_that_has_ended_is_not_rotated_back_to_life_by_mistake(database, settings):
    make(database, "gone")
    make(database, "late", expires_at=now() + HOUR)
    make(database)
    revoke_key(database, "gone", settings=settings)
    let_expire(database, "late")

    with pytest.raises(InvalidKeyRequest, match="was revoked, and stays so"):
        rotate_key(database, "gone", grace=HOUR, expires_at=now() + HOUR)
    with pytest.raises(InvalidKeyRequest, match="say how long"):
        rotate_key(database, "late", grace=HOUR)
    rotate_key(database, "late", grace=HOUR, expires_at=now() + HOUR)
    assert key_state(row_of(database, "late")) == "active"


def test_revoking_twice_is_revoking_once(database, settings):
    make(database)
    make(database, "two")

    first = revoke_key(database, "one", settings=settings).revoked_at
    second = revoke_key(database, "one", settings=settings).revoked_at

    assert first is not None
    assert second is not None
    assert in_utc(first) == in_utc(second)


def test_the_last_admin_key_is_not_revoked(database, settings):
    make(database)
    make(database, "writer", "catalogue:write")
    make(database, "late", expires_at=now() + HOUR)
    make(database, "gone")
    let_expire(database, "late")
    revoke_key(database, "gone", settings=settings)

    with pytest.raises(LastAdminKey, match="akin keys create NAME --scope admin"):
        revoke_key(database, "one", settings=settings)

    assert key_state(row_of(database)) == "active"
    revoke_key(database, "writer", settings=settings)
    revoke_key(database, "late", settings=settings)
    revoke_key(database, "one", settings=settings.model_copy(update={"admin_key": SecretStr("of-the-settings")}))
    assert not has_admin(database, settings)


@pytest.mark.parametrize("attempt", range(3))
def test_of_two_that_revoke_the_last_two_admin_keys_one_is_refused(database, settings, attempt):
    barrier, refused = threading.Barrier(2), []
    for name in ("one", "two"):
        make(database, name)

    def revoke(name):
        barrier.wait()
        try:
            revoke_key(database, name, settings=settings)
        except LastAdminKey:
            refused.append(name)

    threads = [threading.Thread(target=revoke, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (survivor,) = refused
    assert key_state(row_of(database, survivor)) == "active"


def test_the_first_key_is_made_once(database, settings):
    made = ensure_admin_key(database, settings)

    assert made is not None
    assert ensure_admin_key(database, settings) is None
    (known,) = load_keys(database)
    assert (known.name, sorted(known.scopes)) == (FIRST_KEY, ["admin"])


def test_no_first_key_is_made_where_there_is_or_was_another_way_in(database, settings):
    with_key = settings.model_copy(update={"admin_key": SecretStr("of-the-settings")})
    make(database, "writer", "catalogue:write")

    assert ensure_admin_key(database, with_key) is None
    make(database)
    revoke_key(database, "one", settings=with_key)
    assert ensure_admin_key(database, settings) is None, "whoever took it back meant it"
    assert not has_admin(database, settings)


def test_processes_that_start_together_make_one_first_key(settings, tmp_path):
    """Each opens the empty installation by itself, as `akin serve` does."""
    program = """
import sys, time
from pathlib import Path
from service.access.keys import ensure_admin_key
from service.database import open_database
from service.settings import load_settings
settings, flag = load_settings(), Path(sys.argv[1])
settings.home.mkdir(parents=True, exist_ok=True)
print("ready", flush=True)
while not flag.exists():
    time.sleep(0.001)
database = open_database(settings.database_address)
print(ensure_admin_key(database, settings), flush=True)
"""
    flag = tmp_path / "start"
    command = [sys.executable, "-c", program, str(flag)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    flag.touch()
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    (key,) = [line for line in printed if line != "None"]
    database = open_database(settings.database_address)
    assert has_key(key)
    assert [known.name for known in load_keys(database)] == [FIRST_KEY]
    database.close()
