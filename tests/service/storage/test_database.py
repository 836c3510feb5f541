"""Connections, transactions and errors, on both databases where they could differ."""

import re
import threading
from contextlib import ExitStack

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import InternalError, ProgrammingError

from service.errors import InvalidSetting, StorageFull, reason_of
from service.storage.connections import POOL_OVERFLOW, POOL_SIZE
from service.storage.database import (
    current_watermark,
    database_time,
    in_utc,
    insert_missing,
    next_change_seqs,
    now,
    open_database,
)
from service.storage.errors import DatabaseUnavailable
from service.storage.tables.catalogue import Product
from service.storage.tables.embeddings import StoredEmbedding
from service.storage.tables.table import TABLES_REVISION
from tests.databases import new_database


@pytest.fixture
def address(tmp_path):
    return f"sqlite:///{tmp_path}/akin.db"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def address_on_both(request, tmp_path):
    if request.param == "postgresql":
        return new_database(request.getfixturevalue("postgresql"))
    return f"sqlite:///{tmp_path}/akin.db"


@pytest.fixture
def on_postgresql(postgresql):
    database = open_database(new_database(postgresql))
    yield database
    database.close()


def test_opening_again_keeps_everything(address):
    database = open_database(address)
    with database.transaction() as session:
        next_change_seqs(session, 5)
    database.close()

    again = open_database(address)

    with again.reading() as session:
        assert current_watermark(session) == 5
    again.close()


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("nonsense", InvalidSetting, "AKIN_DATABASE_URL"),
        ("oracle9://x", InvalidSetting, "AKIN_DATABASE_URL"),
        ("mysql://akin:s3cret@db/akin", InvalidSetting, "begins with neither postgresql:// nor sqlite:///"),
        ("postgresql://akin:s3cret@db:port/akin", InvalidSetting, "such as postgresql://user:password@host:5432/akin"),
        ("postgresql://akin:s3cret@db", InvalidSetting, "names no database"),
        ("sqlite:////proc/nowhere/akin.db", DatabaseUnavailable, "cannot be created"),
        ("postgresql://akin:s3cret@127.0.0.1:1/akin", DatabaseUnavailable, r"akin:\*\*\*@127.0.0.1:1/akin .*refused"),
        ("postgresql://akin:s3cret@no-such-host.invalid/akin", DatabaseUnavailable, "no-such-host"),
        (
            "postgresql://akin@127.0.0.1:1/akin?password=s3cret",
            DatabaseUnavailable,
            r"/akin\?password=\*\*\* .*refused",
        ),
        (
            "postgresql://akin:x/s3cret:y@127.0.0.1:1/akin",
            DatabaseUnavailable,
            r"akin:\*\*\*@127.0.0.1:1/akin .*refused",
        ),
        ("postgresql://akin:x@s3cret@127.0.0.1:1/akin", InvalidSetting, "write %40 for @"),
        ("postgresql://akin/x:s3cret@127.0.0.1:1/akin", InvalidSetting, "write %40 for @"),
        ("postgresql://akin/s3cret@127.0.0.1:1/akin", InvalidSetting, "write %40 for @, %3A for : and %2F for /"),
    ],
)
def test_an_unusable_address_is_reported_without_the_password(address, error, message):
    with pytest.raises(error) as raised:
        open_database(address)

    reason = reason_of(raised.value)
    assert re.search(message, reason, re.DOTALL), reason
    assert "s3cret" not in reason


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_may_be_spelt_in_three_ways(postgresql, scheme):
    database = open_database(new_database(postgresql).replace("postgresql", scheme, 1))

    with database.reading() as session:
        assert session.execute(text("SELECT current_setting('application_name')")).scalar_one() == "akin"
    database.close()


def test_a_file_that_is_not_a_database_is_refused(tmp_path, address):
    (tmp_path / "akin.db").write_text("this is a text, long enough to be read as a header" * 100)

    with pytest.raises(DatabaseUnavailable) as raised:
        open_database(address)

    assert "not a database" in raised.value.reason


def test_an_error_rolls_the_transaction_back(address_on_both):
    database = open_database(address_on_both)

    def fail():
        with database.transaction() as session:
            next_change_seqs(session, 3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    with database.reading() as session:
        assert current_watermark(session) == 0
    database.close()


def test_change_numbers_of_concurrent_writers_never_overlap(address_on_both):
    """The row of the counter is locked until the commit, so that numbers are given in the order of commits."""
    database = open_database(address_on_both)
    taken: list[int] = []

    def write():
        for _ in range(20):
            with database.transaction() as session:
                seqs = next_change_seqs(session, 2)
                session.execute(text("SELECT 1"))
                taken.extend(seqs)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(taken) == list(range(1, 161))
    database.close()


def test_readers_do_not_wait_for_a_writer(address_on_both):
    database = open_database(address_on_both)
    with database.transaction() as writing:
        next_change_seqs(writing, 1)
        with database.reading() as session:
            assert current_watermark(session) == 0
            assert session.query(Product).count() == 0
    database.close()


@pytest.mark.long
def test_a_reading_transaction_cannot_write(on_postgresql):
    with pytest.raises(DatabaseUnavailable), on_postgresql.reading() as session:
        next_change_seqs(session, 1)


@pytest.mark.long
def test_a_reading_transaction_sees_one_consistent_state(on_postgresql):
    with on_postgresql.reading() as session:
        before = current_watermark(session)
        with on_postgresql.transaction() as writing:
            next_change_seqs(writing, 1)
        session.expire_all()
        assert current_watermark(session) == before


@pytest.mark.long
def test_inserting_missing_rows_skips_rows_of_a_concurrent_transaction(on_postgresql):
    def row(digest, embedding):
        return {"space_id": "s", "sha256": digest, "embedding": embedding}

    def insert_more():
        with on_postgresql.transaction() as session:
            insert_missing(session, StoredEmbedding, [row("b", b"2"), row("c", b"3")])

    with on_postgresql.transaction() as session:
        insert_missing(session, StoredEmbedding, [row("a", b"1"), row("b", b"1")])
        other = threading.Thread(target=insert_more)
        other.start()
        session.execute(text("SELECT pg_sleep(0.3)"))
    other.join()

    with on_postgresql.reading() as session:
        found = {stored.sha256: stored.embedding for stored in session.scalars(select(StoredEmbedding))}
    assert found == {"a": b"1", "b": b"1", "c": b"3"}


def test_the_time_is_that_of_the_server(address_on_both):
    database = open_database(address_on_both)
    began = now()
    with database.reading() as session:
        moment = in_utc(database_time(session))

    # In the tests, the server runs on the same machine.
    assert began <= moment <= now()
    database.close()


@pytest.mark.long
def test_of_two_deadlocked_transactions_one_fails_with_a_request_to_try_again(on_postgresql):
    """The server ends one of the two, which has written nothing, and the other continues."""
    with on_postgresql.transaction() as session:
        session.add_all([_product("a"), _product("b")])
    barrier = threading.Barrier(2)
    outcomes = []

    def write(first, second):
        try:
            with on_postgresql.transaction() as session:
                session.execute(text("UPDATE products SET title = 'new' WHERE id = :id"), {"id": first})
                barrier.wait()
                session.execute(text("UPDATE products SET title = 'new' WHERE id = :id"), {"id": second})
            outcomes.append("written")
        except DatabaseUnavailable as error:
            outcomes.append(str(error) if "deadlock" in error.reason else error.reason)

    threads = [threading.Thread(target=write, args=order) for order in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == [
        "the database cannot be used at present; try again in a moment (the log has the reason)", "written",
    ]  # fmt: skip
    with on_postgresql.reading() as session:
        assert current_watermark(session) == 0


@pytest.mark.long
def test_a_connection_lost_in_a_transaction_is_an_error_and_the_next_transaction_works(on_postgresql):
    def lose_it():
        with on_postgresql.transaction() as session:
            next_change_seqs(session, 1)
            with on_postgresql.transaction() as other:
                end = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE 'idle in%'")
                other.execute(end)
            current_watermark(session)
            session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        lose_it()

    with on_postgresql.transaction() as session:
        assert list(next_change_seqs(session, 1)) == [1]


@pytest.mark.long
def test_a_connection_in_use_when_the_database_is_closed_is_closed_once_returned(postgresql):
    database = open_database(new_database(postgresql))
    with database.reading() as session:
        connection = session.connection().connection.driver_connection
        assert connection is not None
        database.close()
        assert not connection.closed

    assert connection.closed


@pytest.mark.long
def test_an_exhausted_pool_is_an_error_after_a_bounded_wait(on_postgresql, monkeypatch):
    monkeypatch.setattr(on_postgresql._engine.pool, "_timeout", 0.2)
    with ExitStack() as held:
        for _ in range(POOL_SIZE + POOL_OVERFLOW):
            held.enter_context(on_postgresql.reading())
        with pytest.raises(DatabaseUnavailable) as raised, on_postgresql.reading():
            pass

    assert "all connections of this process" in raised.value.reason
    assert on_postgresql.revision() == TABLES_REVISION, "not taken for a database that is away"


@pytest.mark.long
def test_waiting_too_long_for_a_lock_is_an_error(on_postgresql):
    def wait():
        with on_postgresql.transaction() as session:
            session.execute(text("SET LOCAL lock_timeout = '100ms'"))
            next_change_seqs(session, 1)

    with on_postgresql.transaction() as session:
        next_change_seqs(session, 1)
        with pytest.raises(DatabaseUnavailable) as raised:
            wait()

    assert "lock timeout" in raised.value.reason


@pytest.mark.long
def test_the_server_releases_locks_of_processes_and_machines_that_are_gone(on_postgresql):
    query = text("SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp_keep%' OR name LIKE '%_timeout'")
    with on_postgresql.reading() as session:
        found = {row.name: row.setting for row in session.execute(query)}

    assert found["lock_timeout"] == "30000"
    assert found["idle_in_transaction_session_timeout"] == "300000"
    assert (found["tcp_keepalives_idle"], found["tcp_keepalives_interval"]) == ("10", "5")


def test_a_full_disk_is_reported_as_such(address):
    database = open_database(address)
    with database.transaction() as session:
        session.execute(text("PRAGMA max_page_count = 1"))

    def fill():
        with database.transaction() as session:
            session.execute(text("CREATE TABLE t AS SELECT randomblob(10000000) AS b"))

    with pytest.raises(StorageFull, match="disk of the database is full"):
        fill()
    database.close()


def test_an_error_in_a_statement_is_not_taken_for_an_outage(address_on_both):
    database = open_database(address_on_both)

    with pytest.raises((ProgrammingError, InternalError)), database.transaction() as session:
        session.execute(text("SELECT * FROM products WHERE id = :id"), {"id": object()})

    assert database.revision() == TABLES_REVISION, "not taken for a database that is away"
    database.close()


def _product(name):
    return Product(id=name, title=name, attributes={}, change_seq=1, created_at=now())
