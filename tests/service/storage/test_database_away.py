"""A real PostgreSQL that stops, or stands still, while servers and workers run, and comes back."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from pydantic import SecretStr

from service.access.keys import create_key
from service.catalogue.importing import import_catalogue
from service.catalogue.sources import read_import_source
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.operations.kinds import BUILD
from service.releases.build import build_release
from service.storage.database import next_change_seqs, open_database
from service.storage.errors import DatabaseUnavailable
from service.web.app import create_app
from service.web.server import listen, running
from tests.databases import PostgreSQL, new_database
from tests.images import encode
from tests.service.conftest import product_image, wait_for, write_shop
from tests.service.fixtures.learning import Works, stop_all
from tests.service.fixtures.tiny_model import save_tiny_checkpoint

ADMIN_KEY = "test-key-0123456789abcdef"
IMAGE = encode(product_image("birch"))
# Seconds: asking a pooled connection, connecting anew, waiting for the row of the audit log; and a slow machine.
LONGEST_REFUSAL = 2 + 5 + 2 + 5
# Far from what a database that hangs takes, and time enough for a machine with much else to do.
AT_ONCE = 4.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of these tests' own."""
    started = PostgreSQL(tmp_path_factory.mktemp("server"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory, server):
    """A shop with two releases, the first one active, and a key that may search."""
    root = tmp_path_factory.mktemp("away")
    settings = Settings(
        home=root / "home",
        database_url=new_database(server.address),
        release_poll_seconds=0.1,
        admin_key=SecretStr(ADMIN_KEY),
        device="cpu",
    )
    checkpoint = save_tiny_checkpoint(root / "tiny")
    with open_installation(settings) as opened:
        import_catalogue(read_import_source(write_shop(root / "shop")), opened.database, opened.media_store)
        first = build_release(opened, checkpoint=checkpoint).release_id
        second = build_release(opened, checkpoint=checkpoint, activate=False).release_id
        _, key = create_key(opened.database, "searcher", ["search"], actor="test")
    return settings, (first, second), key


class Served:
    """A server under test, and how it is asked."""

    def __init__(self, address: str, key: str) -> None:
        self.client = httpx.Client(base_url=address, timeout=60, limits=httpx.Limits(max_connections=None))
        self.key = key

    def search(self, key: str | None = None) -> tuple[int, float]:
        """Search and return the status, and how many seconds it took."""
        headers = {"Content-Type": "image/png"} | ({"X-API-Key": key} if key else {})
        start = time.monotonic()
        response = self.client.post("/search", content=IMAGE, headers=headers)
        return response.status_code, time.monotonic() - start

    def write(self, name: str = "new") -> tuple[httpx.Response, float]:
        """Ask for something that is to be written down."""
        start = time.monotonic()
        response = self.client.delete(f"/v1/admin/catalogue/no-such-{name}", headers={"X-API-Key": ADMIN_KEY})
        return response, time.monotonic() - start

    def is_written(self) -> bool:
        return self.write()[0].status_code == 404

    def release_id(self) -> str:
        return str(self.client.get("/version").json()["release_id"])


@pytest.fixture
def served(home, server):
    settings, (first, _), key = home
    with listen("127.0.0.1", 0) as listener, running(create_app(settings), listener) as address:
        asked = Served(address, key)
        wait_for(lambda: asked.client.get("/readyz").status_code == 200)
        activate(asked, first)
        assert asked.search(key)[0] == 200
        yield asked
        asked.client.close()


def activate(served, release_id):
    headers = {"X-API-Key": ADMIN_KEY}
    response = served.client.post(f"/v1/admin/releases/{release_id}:activate", headers=headers, json={})
    assert response.status_code == 200, response.text
    wait_for(lambda: served.release_id() == release_id)


def test_a_server_whose_database_stops_goes_on_searching_and_refuses_to_write(served, server, home):
    _, (_, second), key = home

    server.stop()
    try:
        searches = [served.search(key) for _ in range(5)] + [served.search() for _ in range(5)]
        refusals = [served.write() for _ in range(5)]
        listed = served.client.get("/v1/admin/releases", headers={"X-API-Key": ADMIN_KEY})
        wait_for(lambda: served.client.get("/readyz").json().get("status") == "degraded")
        readiness = served.client.get("/readyz")
    finally:
        server.start()

    assert {status for status, _ in searches} == {200}
    assert max(seconds for _, seconds in searches) < AT_ONCE
    for response in (*(response for response, _ in refusals), listed):
        assert (response.status_code, response.json()["code"]) == (503, "database-unavailable")
        assert int(response.headers["retry-after"]) >= 1
        # Where the database is, and who Akin is there, is nothing for clients.
        assert not any(secret in response.text for secret in ("127.0.0.1", "postgres", "refused"))
    assert max(seconds for _, seconds in refusals) < AT_ONCE
    assert readiness.status_code == 200
    assert "127.0.0.1" not in readiness.text
    wait_for(served.is_written, 10)
    activate(served, second)


def test_a_database_that_hangs_holds_up_writes_for_seconds_and_searches_not_at_all(served, server, home):
    """Far more requests hang than there are threads; whoever searches does not wait behind them."""
    _, (_, second), key = home
    searches: list[tuple[int, float]] = []
    start = time.monotonic()

    server.freeze()
    try:
        with ThreadPoolExecutor(120) as pool:
            hanging = [pool.submit(served.write, str(number)) for number in range(120)]
            while not all(future.done() for future in hanging):
                searches += [served.search(key), served.search()]
                time.sleep(0.1)
        refusals = [future.result() for future in hanging]
        later = [served.write() for _ in range(20)]
        readiness = served.client.get("/readyz")
    finally:
        server.thaw()

    assert {status for status, _ in searches} == {200}
    assert max(seconds for _, seconds in searches) < AT_ONCE
    assert {response.status_code for response, _ in (*refusals, *later)} == {503}
    assert max(seconds for _, seconds in refusals) < LONGEST_REFUSAL
    # By then it is known to be away, and one request at a time at most finds out whether it still is.
    assert sorted(seconds for _, seconds in later)[-2] < AT_ONCE
    assert readiness.status_code == 200
    assert time.monotonic() - start < 60
    wait_for(served.is_written, 15)
    activate(served, second)


def test_an_answer_that_does_not_come_is_given_up_and_a_long_one_is_waited_for(server, monkeypatch):
    monkeypatch.setattr("service.storage.postgresql._SILENCE_SECONDS", 1.0)
    database = open_database(f"{new_database(server.address)}?connect_timeout=2")

    def hang():
        with database.transaction() as session:
            next_change_seqs(session, 1)
            server.freeze()
            next_change_seqs(session, 1)

    start = time.monotonic()
    try:
        with pytest.raises(DatabaseUnavailable) as raised:
            hang()
    finally:
        server.thaw()
    seconds = time.monotonic() - start

    assert "the server does not answer" in raised.value.reason
    assert 3 <= seconds < 6
    assert database.is_away
    wait_for(lambda: _is_well(database), 10)
    with database.transaction() as session:
        # Longer than a server may be silent, if it answers others.
        session.connection().exec_driver_sql("SELECT pg_sleep(2.5)")
        assert list(next_change_seqs(session, 1)) == [1]
    database.close()


def _is_well(database):
    try:
        return database.revision() is not None
    except DatabaseUnavailable:
        return False


def test_who_asks_a_database_that_is_away_while_another_does_is_told_at_once(server):
    database = open_database(f"{new_database(server.address)}?connect_timeout=2")
    server.freeze()
    try:
        assert not _is_well(database)
        time.sleep(1.1)  # until it is to be asked again
        asking = threading.Thread(target=_is_well, args=(database,))
        asking.start()
        time.sleep(0.2)
        start = time.monotonic()
        assert not any(_is_well(database) for _ in range(100))
        assert time.monotonic() - start < 0.5
        assert asking.is_alive()
    finally:
        server.thaw()
    asking.join()
    wait_for(lambda: _is_well(database), 15)
    database.close()


def test_a_worker_whose_database_stops_and_later_hangs_goes_on_when_it_is_back(server, tmp_path):
    works = Works(tmp_path / "home", new_database(server.address))
    try:
        checkpoint = save_tiny_checkpoint(tmp_path / "tiny")
        with works.open() as opened:
            import_catalogue(read_import_source(write_shop(tmp_path / "shop")), opened.database, opened.media_store)
            build_release(opened, checkpoint=checkpoint)
        operation_id = works.ask(kind=BUILD)
        worker = works.start_worker("--pause-at", "within embed-1", "--pause-at", "within build")

        wait_for(lambda: "point: within embed-1" in works.last_log(), 60)
        server.stop()
        time.sleep(4)
        server.start()
        wait_for(lambda: "point: within build" in works.last_log(), 60)
        server.freeze()
        time.sleep(4)
        server.thaw()

        assert worker.wait(120) == 0, works.last_log()[-3000:]
        operation = works.operation(operation_id)
        assert (operation.state, operation.attempts) == ("succeeded", 1), operation.error
        names = [step["name"] for step in operation.steps]
        assert names == ["plan", "embed-1", "build", "catch-up", "activate", "converge", "tidy"]
    finally:
        server.thaw()
        stop_all(works)
