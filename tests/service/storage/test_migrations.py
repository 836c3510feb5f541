"""Migrations up and down on both databases, by several processes at once, and by `akin migrate`."""

import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, select, text

from service.access.keys import key_digest
from service.cli.main import main
from service.installation.installation import open_for_dry_run, open_installation
from service.installation.settings import Settings
from service.storage import migration
from service.storage.database import open_database
from service.storage.errors import DatabaseUnavailable, DatabaseVersionError
from service.storage.migration import migrate, read_versions
from service.storage.postgresql import SESSION
from service.storage.tables.access import APIKey, AuditEvent
from service.storage.tables.catalogue import LabelChange, MediaObject, Product, ProductImage
from service.storage.tables.embeddings import StoredEmbedding
from service.storage.tables.evaluations import Evaluation
from service.storage.tables.operations import Operation, OperationRowError
from service.storage.tables.processes import Process
from service.storage.tables.releases import ActivationEvent, Release
from service.storage.tables.table import TABLES_REVISION, Table
from service.storage.tables.training import TrainingClass, TrainingImage
from tests.databases import new_database

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SHA256 = "a" * 64


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def address(request, tmp_path):
    """An empty database."""
    if request.param == "postgresql":
        return new_database(request.getfixturevalue("postgresql"))
    return f"sqlite:///{tmp_path}/akin.db"


@pytest.fixture
def engine(address):
    """A plain engine of SQLAlchemy for the database."""
    made = create_engine(address)
    yield made
    made.dispose()


@pytest.fixture
def look(engine):
    """Return the rows of a query."""

    def read(query):
        with engine.connect() as connection:
            return connection.execute(text(query)).all()

    return read


def fill(address):
    """Write rows into every table, with a value in every column."""
    database = open_database(address)
    with database.transaction() as session:
        session.add_all([
            Product(
                id="p", title="t", attributes={"a": 1}, label="l", change_seq=1, created_at=NOW, deleted_at=NOW,
            ),
            MediaObject(sha256=SHA256, extension="png", num_bytes=1, width=1, height=1, created_at=NOW),
            StoredEmbedding(space_id="s", sha256=SHA256, embedding=b"\0\0\0\0"),
            *(
                Release(
                    id=name, created_at=NOW, space_id="s", index_id="i", watermark=1, num_products=1, num_images=1,
                    operation_id="o", retired_at=NOW,
                )
                for name in ("r1", "r2")
            ),
            ActivationEvent(
                version=1, release_id="r1", previous_release_id="r2", activated_at=NOW, activated_by="a", reason="b",
                operation_id="o",
            ),
            Operation(
                id="o", kind="build", state="failed", step="s", request={}, request_sha256=SHA256, idempotency_key="k",
                created_by="a", created_at=NOW, started_at=NOW, updated_at=NOW, finished_at=NOW,
                cancel_requested_at=NOW, worker_id="w", attempts=1, progress={}, steps=[], result={}, error={},
            ),
            Operation(
                id="i", kind="import", state="queued", request={}, request_sha256=SHA256, created_by="a",
                created_at=NOW, updated_at=NOW, attempts=0, steps=[], result={},
            ),
            Process(
                id="w", kind="worker", host="h", pid=1, started_at=NOW, seen_at=NOW, stopped_at=NOW, release_id="r1",
                refusal="x",
            ),
            Evaluation(
                id="e", evaluation_set_id="s", space_id="s", release_id="r1", operation_id="o", created_at=NOW,
                num_queries=1, metrics={},
            ),
            *(
                APIKey(
                    id=name, name=name, sha256=key_digest(name), scopes=["admin"], created_at=NOW, created_by="a",
                    expires_at=expires_at, revoked_at=revoked_at, last_used_at=NOW, previous_sha256=SHA256,
                    previous_expires_at=NOW,
                )
                for name, expires_at, revoked_at in (("good", None, None), ("old", NOW, None), ("gone", NOW, NOW))
            ),
            TrainingImage(
                image_id="i", label="l", sha256=SHA256, role="example", change_seq=1, drawn_state=0, own_state=1,
                state=2,
            ),
            TrainingClass(
                label="l", test_hash=0.5, validation_hash=0.5, num_catalogue=0, num_examples=1, num_train=0,
                num_validation=0, num_test=1, num_drawn_test=0, num_drawn_validation=0,
            ),
            AuditEvent(
                at=NOW, actor="a", key_id="k", action="POST /x", target="/x", address="h", request_id="r", status=200,
                outcome="succeeded",
            ),
        ])  # fmt: skip
        session.flush()
        session.add(OperationRowError(operation_id="i", number=1, kind="failed", location="a.csv:2", message="m"))
        session.add(
            ProductImage(
                id="i", product_id="p", sha256=SHA256, role="example", label="l", change_seq=1, created_at=NOW,
                deleted_at=NOW, labelled_by="a", labelled_at=NOW, label_source="s",
            )
        )  # fmt: skip
        session.flush()
        session.add(LabelChange(image_id="i", old_label="a", new_label="b", changed_by="a", changed_at=NOW, source="s"))
        session.execute(
            text(
                "UPDATE activation SET version = 1, release_id = 'r1', previous_release_id = 'r2', "
                "activated_at = '2026-11-24 12:00:00+00:00'"
            )
        )
        session.execute(text("UPDATE change_counter SET value = 7"))
    with database.reading() as session:
        for table in Table.metadata.sorted_tables:
            rows = session.execute(select(table)).all()
            assert rows, f"no row in {table.name}"
            assert any(None not in row for row in rows), f"a value is missing in {table.name}"
    database.close()


def test_the_migrated_tables_are_those_that_the_code_declares(address, engine):
    migrate(address)

    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []


def test_the_declared_revision_is_the_newest(tmp_path):
    assert list(read_versions(f"sqlite:///{tmp_path}/none.db").titles)[-1] == TABLES_REVISION


@pytest.mark.long
def test_opening_a_current_database_does_not_import_alembic(tmp_path):
    """Commands that only read would otherwise start noticeably later."""
    address = f"sqlite:///{tmp_path}/akin.db"
    migrate(address)
    program = (
        "import sys; from service.storage.database import open_database; open_database(sys.argv[1]).close(); "
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in ('alembic', 'mako')))"
    )

    done = subprocess.run([sys.executable, "-c", program, address], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_down_through_all_revisions_and_up_again_with_rows_in_all_tables(address, engine, look):
    """What the older tables can hold is kept; revoked keys do not become valid again."""
    fill(address)
    steps = list(read_versions(address).titles)[-2::-1]

    for revision in steps:
        migrate(address, revision, may_lose_data=True)
        assert read_versions(address).current == revision
    kept = look("SELECT id, label, change_seq FROM product_images"), look("SELECT value FROM change_counter")
    tables_of_the_first = set(inspect(engine).get_table_names())
    migrate(address)

    assert kept == ([("i", "l", 1)], [(7,)])
    assert "operations" not in tables_of_the_first
    assert look("SELECT id, title FROM products") == [("p", "t")]
    assert look("SELECT release_id, previous_release_id, version FROM activation") == [("r1", "r2", 1)]
    assert read_versions(address).current == TABLES_REVISION
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []


def test_one_step_down_keeps_all_but_what_the_newest_revision_added(address, look):
    fill(address)

    migrate(address, "0002", may_lose_data=True)

    assert look("SELECT name FROM api_keys") == [("good",)]
    assert look("SELECT id, state FROM operations") == [("o", "failed")]
    assert look("SELECT old_label, new_label FROM label_changes") == [("a", "b")]


def test_down_to_nothing_and_up_again(address, engine, look):
    fill(address)

    migrate(address, "base", may_lose_data=True)

    assert set(inspect(engine).get_table_names()) == {"alembic_version"}
    assert read_versions(address).current is None
    open_database(address).close()
    assert look("SELECT value FROM change_counter") == [(0,)]


def test_a_downgrade_needs_permission_to_lose_data(address, look):
    fill(address)

    with pytest.raises(DatabaseVersionError, match=rf"downgrade from {TABLES_REVISION} to 0002 deletes .* add --yes"):
        migrate(address, "0002")

    assert look("SELECT count(*) FROM audit_events") == [(1,)]


def test_processes_that_start_at_once_migrate_one_after_the_other(address, monkeypatch):
    """Otherwise the second process would create tables that the first one has created but not committed."""
    is_second_reading, first_is_done, may_commit = threading.Event(), threading.Event(), threading.Event()
    results = []

    def upgrade(*arguments):
        real_upgrade(*arguments)
        first_is_done.set()
        assert may_commit.wait(60)

    def read_revision(connection):
        if first_is_done.is_set():
            is_second_reading.set()
        return real_revision(connection)

    real_upgrade, real_revision = command.upgrade, migration.current_revision
    monkeypatch.setattr(command, "upgrade", upgrade)
    monkeypatch.setattr(migration, "current_revision", read_revision)
    first, second = (threading.Thread(target=lambda: results.append(migrate(address))) for _ in range(2))

    first.start()
    assert first_is_done.wait(60)
    second.start()
    has_read = is_second_reading.wait(0.3)
    may_commit.set()
    first.join()
    second.join()

    assert not has_read
    assert results == [(None, TABLES_REVISION), (TABLES_REVISION, TABLES_REVISION)]


@pytest.mark.long
def test_a_migration_gives_up_on_a_table_in_use_and_changes_nothing(postgresql, monkeypatch):
    """A migration that waits for a table makes all later users of the table wait behind it."""
    monkeypatch.setitem(SESSION, "lock_timeout", "200ms")
    address = new_database(postgresql)
    migrate(address, "0002")
    other = create_engine(address)

    with other.begin() as connection:
        connection.execute(text("LOCK TABLE api_keys"))
        with pytest.raises(DatabaseUnavailable) as raised:
            migrate(address)
    other.dispose()

    assert "the tables were in use for 200ms" in raised.value.reason
    assert read_versions(address).current == "0002"


def test_an_older_or_empty_database_is_refused_if_it_may_not_be_migrated(address):
    with pytest.raises(DatabaseVersionError, match=rf"has no tables, .* needs {TABLES_REVISION}, .* run: akin migrate"):
        open_database(address, may_migrate=False)
    migrate(address, "0002")

    with pytest.raises(
        DatabaseVersionError, match=rf"has revision 0002, .* needs {TABLES_REVISION}, .* run: akin migrate"
    ):
        open_database(address, may_migrate=False)

    assert read_versions(address).current == "0002"
    migrate(address)
    open_database(address, may_migrate=False).close()


def test_a_database_of_a_newer_version_is_refused_and_not_changed(address, engine, look):
    migrate(address)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    for function in (open_database, migrate):
        with pytest.raises(DatabaseVersionError, match=r"'9999'.*newer version: upgrade Akin"):
            function(address)

    assert look("SELECT version_num FROM alembic_version") == [("9999",)]
    assert read_versions(address).is_newer


def test_the_setting_decides_whether_an_installation_is_migrated(tmp_path):
    settings = Settings(home=tmp_path / "home", auto_migrate=False)

    with pytest.raises(DatabaseVersionError, match="run: akin migrate"), open_installation(settings):
        pass

    # A dry run without an installation compares with an empty one.
    with open_for_dry_run(settings.model_copy(update={"home": tmp_path / "none"})):
        pass


@pytest.fixture
def akin(address, tmp_path, monkeypatch, capsys):
    """Run a command on the database, which only `akin migrate` may migrate."""
    home = tmp_path if address.startswith("sqlite") else tmp_path / "home"
    monkeypatch.setenv("AKIN_HOME", str(home))
    monkeypatch.setenv("AKIN_AUTO_MIGRATE", "false")
    if not address.startswith("sqlite"):
        monkeypatch.setenv("AKIN_DATABASE_URL", address)

    def run(*arguments, status=0):
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        assert (ended.value.code or 0) == status, captured.err + captured.out
        return captured.out + captured.err

    return run


def test_akin_migrate_upgrades_shows_the_revision_and_downgrades_only_with_permission(akin):
    assert "error: the database has no tables" in akin("catalogue", "show", status=1)
    shown = akin("migrate", "--show")
    assert shown.splitlines()[:3] == [
        "current: no tables", f"newest:  {TABLES_REVISION}", "pending: 0001  Catalogue, stored embeddings and releases",
    ]  # fmt: skip
    assert akin("migrate", "--to", "0002") == "base → 0002\n"
    pending = [step["revision"] for step in json.loads(akin("migrate", "--show", "--json"))["pending"]]
    assert (pending[0], pending[-1]) == ("0003", TABLES_REVISION)
    assert akin("migrate") == f"0002 → {TABLES_REVISION}\n"
    assert f"nothing to do: the tables have revision {TABLES_REVISION}" in akin("migrate")
    assert "0 products" in akin("catalogue", "show")

    assert "add --yes" in akin("migrate", "--to", "0001", status=1)
    assert "there is no revision '7'; revisions are base, 0001" in akin("migrate", "--to", "7", status=1)
    assert "leave out --to" in akin("migrate", "--show", "--to", "0001", status=1)
    assert json.loads(akin("migrate", "--to", "0001", "--yes", "--json")) == {
        "before": TABLES_REVISION,
        "after": "0001",
    }
    assert "run: akin migrate" in akin("catalogue", "show", status=1)


def test_akin_migrate_show_does_not_create_an_installation(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AKIN_HOME", str(tmp_path / "home"))

    with pytest.raises(SystemExit):
        main(["migrate", "--show"])

    assert "no tables" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


WORKER = """
from service.installation.settings import load_settings
from service.storage.errors import DatabaseVersionError
from service.worker.job_engine import migrate_jobs
from service.worker.process import WorkerOptions, run_worker

try:
    run_worker(load_settings(), WorkerOptions(until_idle=True))
except DatabaseVersionError as error:
    assert "the workers' tables are not of this version" in str(error), error
else:
    raise SystemExit("a worker ran without its tables")
migrate_jobs(load_settings())
run_worker(load_settings(), WorkerOptions(until_idle=True))
"""


@pytest.mark.long
def test_a_worker_without_permission_to_migrate_uses_the_tables_of_akin_migrate(postgresql, tmp_path):
    """Also the tables of DBOS: the user of a worker needs no permission to create tables."""
    address = new_database(postgresql)
    migrate(address)
    environment = {
        **os.environ,
        "AKIN_HOME": str(tmp_path / "home"),
        "AKIN_DATABASE_URL": address,
        "AKIN_AUTO_MIGRATE": "false",
    }

    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, env=environment, timeout=120)

    assert done.returncode == 0, done.stderr
