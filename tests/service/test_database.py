import sqlite3
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

import service
from service.database import current_watermark, next_change_seqs, open_database
from service.errors import DatabaseUnavailable, DatabaseVersionError, InvalidSetting
from service.tables import Product, Table
from tests.databases import new_database

NEWEST = "0003"


@pytest.fixture
def address(tmp_path):
    return f"sqlite:///{tmp_path}/akin.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def address_on_both(request, tmp_path):
    if request.param == "postgresql":
        return new_database(request.getfixturevalue("postgresql"))
    return f"sqlite:///{tmp_path}/akin.db"


def test_migrations_make_the_tables_that_the_code_expects(address_on_both):
    open_database(address_on_both).close()

    engine = create_engine(address_on_both)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    engine.dispose()


def test_migrations_go_down_and_up_again_and_keep_the_catalogue(address_on_both):
    database = open_database(address_on_both)
    with database.transaction() as session:
        next_change_seqs(session, 3)
    database.close()
    engine = create_engine(address_on_both)
    config = Config()
    config.set_main_option("script_location", str(Path(service.__file__).parent / "migrations"))

    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    tables_before = set(inspect(engine).get_table_names())
    engine.dispose()
    again = open_database(address_on_both)

    assert "operations" not in tables_before
    with again.reading() as session:
        assert current_watermark(session) == 3
    assert again.revision() == NEWEST
    again.close()


def test_opening_again_keeps_everything(address):
    database = open_database(address)
    with database.transaction() as session:
        next_change_seqs(session, 5)
    database.close()

    again = open_database(address)

    with again.reading() as session:
        assert current_watermark(session) == 5
    assert again.revision() == NEWEST
    again.close()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(address, tmp_path):
    open_database(address).close()
    with sqlite3.connect(tmp_path / "akin.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()

    with pytest.raises(DatabaseVersionError, match=r"'9999'.*newer version: upgrade Akin"):
        open_database(address)

    connection = sqlite3.connect(tmp_path / "akin.db")
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    connection.close()


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("nonsense", InvalidSetting, "AKIN_DATABASE_URL"),
        ("oracle9://x", InvalidSetting, "AKIN_DATABASE_URL"),
        ("sqlite:////proc/nowhere/akin.db", DatabaseUnavailable, "cannot be made"),
    ],
)
def test_addresses_that_cannot_be_used_are_named(address, error, message):
    with pytest.raises(error, match=message):
        open_database(address)


def test_a_file_that_is_no_database_is_refused(tmp_path, address):
    (tmp_path / "akin.db").write_text("this is a text, and long enough to be taken for a header" * 100)

    with pytest.raises(DatabaseUnavailable, match="not a database"):
        open_database(address)


def test_an_error_rolls_the_transaction_back(address):
    database = open_database(address)

    def fail():
        with database.transaction() as session:
            next_change_seqs(session, 3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    with database.reading() as session:
        assert current_watermark(session) == 0
    database.close()


def test_change_numbers_of_concurrent_writers_never_overlap(address):
    """The counter's row is locked until the commit: numbers are handed out in the order of the commits."""
    database = open_database(address)
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


def test_readers_do_not_wait_for_a_writer(address):
    database = open_database(address)
    with database.transaction() as writing:
        next_change_seqs(writing, 1)
        with database.reading() as session:
            assert current_watermark(session) == 0
            assert session.query(Product).count() == 0
    database.close()


def test_several_processes_may_open_a_new_database_at_once(address):
    errors = []

    def open_it():
        try:
            open_database(address).close()
        except Exception as error:  # noqa: BLE001  # shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
