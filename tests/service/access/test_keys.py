"""Keys in the database: created, rotated, revoked, and what is stored of them."""

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import SecretStr

from service.access.errors import InvalidKeyRequest, KeyNameTaken, KeyNotFound, LastAdminKey
from service.access.keys import (
    FIRST_KEY,
    create_key,
    ensure_admin_key,
    has_admin,
    key_state,
    list_keys,
    load_keys,
    old_secret_until,
    revoke_key,
    rotate_key,
    show_key,
)
from service.storage.database import in_utc, now
from tests.service.fixtures.access import let_expire

HOUR = timedelta(hours=1)


def make(database, name="one", *scopes, **options):
    return create_key(database, name, scopes or ["admin"], actor="test", **options)


def row_of(database, name="one"):
    return show_key(database, name)


def test_no_key_is_stored_in_the_database(database, settings):
    first = ensure_admin_key(database, settings)
    _, made = make(database)
    _, rotated = rotate_key(database, "one", grace=HOUR)

    rows = [str(vars(row)) for row in list_keys(database)]
    text = "\n".join(rows).encode()
    for path in settings.home.glob("akin.db*"):
        text += path.read_bytes()

    assert len(rows) == 2
    for key in (first, made, rotated):
        assert key is not None
        assert len(key) == 48
        assert key.encode() not in text
        # Nor is a part of it, which would make it easier to guess.
        assert key[5:17].encode() not in text


@pytest.mark.parametrize(
    "name",
    ["", "-x", ".x", "a b", "a/b", "a:rotate", "ä", "a\0", "a\n", "x" * 65, FIRST_KEY, "anybody", "akin_" + "a" * 43],
)
def test_invalid_names_are_refused(database, name):
    with pytest.raises(InvalidKeyRequest, match="cannot be called"):
        make(database, name)


@pytest.mark.parametrize("scopes", [[], ["searchh"], ["admin", ""], ["ADMIN"]])
def test_invalid_scopes_are_refused(database, scopes):
    with pytest.raises(InvalidKeyRequest, match="scopes are search, catalogue:write, admin"):
        create_key(database, "one", scopes, actor="test")


def test_a_time_of_expiry_in_the_past_is_refused(database):
    with pytest.raises(InvalidKeyRequest, match="in the past"):
        make(database, expires_at=now() - timedelta(seconds=1))
    make(database)
    with pytest.raises(InvalidKeyRequest, match="in the past"):
        rotate_key(database, "one", grace=HOUR, expires_at=now())


def test_a_time_of_expiry_is_stored_in_utc(database):
    """SQLite drops the zone, so the time must be converted before it is stored."""
    in_zone = datetime(2100, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    without_zone = datetime(2100, 1, 1, 7)
    make(database, "zone", expires_at=in_zone)
    make(database, "none", expires_at=without_zone)

    found = {known.name: known.expires_at for known in load_keys(database)}

    assert found == dict.fromkeys(("zone", "none"), datetime(2100, 1, 1, 7, tzinfo=UTC))


def test_a_name_is_taken_permanently(database, settings):
    make(database)
    make(database, "two")
    with pytest.raises(KeyNameTaken):
        make(database, "one", "search")
    revoke_key(database, "one", settings=settings)

    with pytest.raises(KeyNameTaken, match="may be revoked"):
        make(database)


def test_a_key_is_found_by_name_or_id_and_a_name_wins(database):
    row, _ = make(database)
    make(database, row.id, "search")

    assert row_of(database, "one").id == row.id
    assert row_of(database, row.id).name == row.id
    for unknown in ("nobody", "", "a\0b", "\ud800", "x" * 5000):
        with pytest.raises(KeyNotFound):
            row_of(database, unknown)


def test_rotating_with_grace_keeps_the_old_secret_until_then(database):
    old, _ = make(database)
    old_sha256 = old.sha256

    rotate_key(database, "one", grace=HOUR)

    row = row_of(database)
    assert row.previous_sha256 == old_sha256 != row.sha256
    until = old_secret_until(row)
    assert until is not None
    assert abs(until - now() - HOUR) < timedelta(minutes=1)


def test_rotating_without_grace_ends_the_old_secret_at_once(database):
    make(database)
    rotate_key(database, "one", grace=HOUR)

    rotate_key(database, "one", grace=timedelta(0))

    row = row_of(database)
    assert (row.previous_sha256, row.previous_expires_at, old_secret_until(row)) == (None, None, None)


def test_a_revoked_or_expired_key_has_no_old_secret(database, settings):
    make(database)
    make(database, "two", expires_at=now() + HOUR)
    for name in ("one", "two"):
        rotate_key(database, name, grace=HOUR)
    make(database, "three")

    revoke_key(database, "one", settings=settings)
    let_expire(database, "two")

    assert [old_secret_until(row_of(database, name)) for name in ("one", "two")] == [None, None]


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


def test_a_revoked_or_expired_key_is_not_revived_by_a_rotation(database, settings):
    make(database, "gone")
    make(database, "late", expires_at=now() + HOUR)
    make(database)
    revoke_key(database, "gone", settings=settings)
    let_expire(database, "late")

    with pytest.raises(InvalidKeyRequest, match="was revoked, which is permanent"):
        rotate_key(database, "gone", grace=HOUR, expires_at=now() + HOUR)
    with pytest.raises(InvalidKeyRequest, match="give a new time of expiry"):
        rotate_key(database, "late", grace=HOUR)
    rotate_key(database, "late", grace=HOUR, expires_at=now() + HOUR)
    assert key_state(row_of(database, "late")) == "active"


def test_revoking_is_idempotent(database, settings):
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


def test_one_of_two_concurrent_revocations_of_the_last_admin_keys_is_refused(database, settings):
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


def test_the_first_key_is_created_once(database, settings):
    made = ensure_admin_key(database, settings)

    assert made is not None
    assert ensure_admin_key(database, settings) is None
    (known,) = load_keys(database)
    assert (known.name, sorted(known.scopes)) == (FIRST_KEY, ["admin"])


def test_no_first_key_is_created_if_there_is_or_was_another_admin_key(database, settings):
    with_key = settings.model_copy(update={"admin_key": SecretStr("of-the-settings")})
    make(database, "writer", "catalogue:write")

    assert ensure_admin_key(database, with_key) is None
    make(database)
    revoke_key(database, "one", settings=with_key)
    assert ensure_admin_key(database, settings) is None, "it was revoked on purpose"
    assert not has_admin(database, settings)


def test_of_two_processes_that_start_at_once_one_creates_the_first_key(database, settings, monkeypatch):
    # Each has seen that there is no key before the other creates it.
    monkeypatch.setattr("service.access.keys.list_keys", lambda _: [])

    assert ensure_admin_key(database, settings) is not None
    assert ensure_admin_key(database, settings) is None
    monkeypatch.undo()
    assert [known.name for known in load_keys(database)] == [FIRST_KEY]
