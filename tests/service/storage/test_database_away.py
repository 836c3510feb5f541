"""A real PostgreSQL that stops, or hangs, and comes back while servers and workers run."""

import threading
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
from service.storage import database as database_module
from service.storage import postgresql
from service.storage.database import next_change_seqs, open_database
from service.storage.errors import DatabaseUnavailable
from service.web.app import create_app
from service.web.server import listen, running
from tests.databases import new_database, running_postgresql
from tests.images import encode
from tests.service.conftest import product_image, wait_for, write_shop
from tests.service.fixtures.learning import Works, stop_all
from tests.service.fixtures.tiny_model import save_tiny_checkpoint

ADMIN_KEY = "test-key-0123456789abcdef"
IMAGE = encode(product_image("birch"))
# Seconds that a condition may take on a machine with much else to do; nothing is measured.
PATIENCE = 120.0

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def server():
    """A server that these tests may stop."""
    with running_postgresql() as started:
        yield started


@pytest.fixture(scope="module")
def home(tmp_path_factory, server):
    """A shop with two releases, the first one active, and a key with the scope search."""
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
    """A server under test, and its client."""

    def __init__(self, address: str, key: str) -> None:
        self.client = httpx.Client(base_url=address, timeout=PATIENCE, limits=httpx.Limits(max_connections=None))
        self.key = key

    def search(self, key: str | None = None) -> int:
        """Search and return the status."""
        headers = {"Content-Type": "image/png"} | ({"X-API-Key": key} if key else {})
        return self.client.post("/search", content=IMAGE, headers=headers).status_code

    def write(self, name: str = "new") -> httpx.Response:
        """Send a request that needs a transaction."""
        return self.client.delete(f"/v1/admin/catalogue/no-such-{name}", headers={"X-API-Key": ADMIN_KEY})

    def is_writable(self) -> bool:
        return self.write().status_code == 404

    def release_id(self) -> str:
        return str(self.client.get("/version").json()["release_id"])


@pytest.fixture
def served(home, server):
    settings, (first, _), key = home
    with listen("127.0.0.1", 0) as listener, running(create_app(settings), listener) as address:
        opened = Served(address, key)
        wait_for(lambda: opened.client.get("/readyz").status_code == 200, PATIENCE)
        activate(opened, first)
        assert opened.search(key) == 200
        yield opened
        opened.client.close()


def activate(served, release_id):
    headers = {"X-API-Key": ADMIN_KEY}
    response = served.client.post(f"/v1/admin/releases/{release_id}:activate", headers=headers, json={})
    assert response.status_code == 200, response.text
    wait_for(lambda: served.release_id() == release_id, PATIENCE)


def test_while_the_database_is_stopped_searches_succeed_and_writes_answer_503(served, server, home):
    _, (_, second), key = home

    server.stop()
    try:
        searches = [served.search(key) for _ in range(5)] + [served.search() for _ in range(5)]
        refusals = [served.write() for _ in range(5)]
        listed = served.client.get("/v1/admin/releases", headers={"X-API-Key": ADMIN_KEY})
        wait_for(lambda: served.client.get("/readyz").json().get("status") == "degraded", PATIENCE)
        readiness = served.client.get("/readyz")
    finally:
        server.start()

    assert set(searches) == {200}
    for response in (*refusals, listed):
        assert (response.status_code, response.json()["code"]) == (503, "database-unavailable")
        assert int(response.headers["retry-after"]) >= 1
        # Clients do not learn where the database is, nor which user Akin has there.
        assert not any(secret in response.text for secret in ("127.0.0.1", "postgres", "refused"))
    assert readiness.status_code == 200
    assert "127.0.0.1" not in readiness.text
    wait_for(served.is_writable, PATIENCE)
    activate(served, second)


def test_while_the_database_hangs_searches_are_not_delayed_and_writes_answer_503(served, server, home):
    """More writes than there are threads hang; searches do not wait behind them."""
    _, (_, second), key = home
    searches: list[int] = []

    server.freeze()
    try:
        with ThreadPoolExecutor(120) as pool:
            hanging = [pool.submit(served.write, str(number)) for number in range(120)]
            while not all(future.done() for future in hanging):
                searches += [served.search(key), served.search()]
        refusals = [future.result() for future in hanging]
        later = [served.write() for _ in range(20)]
        readiness = served.client.get("/readyz")
    finally:
        server.thaw()

    assert set(searches) == {200}
    assert len(searches) > 2, "a search that waits for the writes would be the only one"
    assert {response.status_code for response in (*refusals, *later)} == {503}
    assert readiness.status_code == 200
    wait_for(served.is_writable, PATIENCE)
    activate(served, second)


def test_a_transaction_on_a_server_that_hangs_is_given_up(server):
    database = open_database(f"{new_database(server.address)}?connect_timeout=2")

    def hang():
        with database.transaction() as session:
            next_change_seqs(session, 1)
            server.freeze()
            next_change_seqs(session, 1)

    try:
        with pytest.raises(DatabaseUnavailable) as raised:
            hang()
        with pytest.raises(DatabaseUnavailable) as refused:
            database.revision()
    finally:
        server.thaw()

    assert "the server does not answer" in raised.value.reason
    assert refused.value.reason == raised.value.reason, "remembered, not tried again at once"
    wait_for(lambda: is_answering(database), PATIENCE)
    database.close()


def test_a_long_statement_on_a_server_that_answers_others_is_waited_for(server, monkeypatch):
    monkeypatch.setattr(postgresql, "_SILENCE_SECONDS", 0.2)
    database = open_database(f"{new_database(server.address)}?connect_timeout=60")

    with database.transaction() as session:
        session.connection().exec_driver_sql("SELECT pg_sleep(1)")
        assert list(next_change_seqs(session, 1)) == [1]
    database.close()


def is_answering(database):
    try:
        return database.revision() is not None
    except DatabaseUnavailable:
        return False


def test_while_one_caller_tries_a_database_that_is_away_the_others_fail_at_once(server, monkeypatch):
    monkeypatch.setattr(database_module, "_SECONDS_BETWEEN_ATTEMPTS", 0.0)
    database = open_database(f"{new_database(server.address)}?connect_timeout=2")
    server.freeze()
    try:
        assert not is_answering(database)
        before = database._outage._try_at
        attempt = threading.Thread(target=is_answering, args=(database,))
        attempt.start()
        wait_for(lambda: database._outage._try_at > before)
        # An attempt takes two seconds at least, each of these no time.
        assert not any(is_answering(database) for _ in range(100))
        assert attempt.is_alive()
    finally:
        server.thaw()
    attempt.join()
    wait_for(lambda: is_answering(database), PATIENCE)
    database.close()


def test_a_worker_continues_after_its_database_stopped_and_after_it_hung(server, tmp_path):
    """The worker holds within a step until its heartbeat has noticed that the database is away."""
    works = Works(tmp_path / "home", new_database(server.address))

    def wait_for_log(text):
        try:
            wait_for(lambda: text in works.last_log(), PATIENCE)
        except AssertionError:
            pytest.fail(f"the worker did not log {text!r}:\n{works.last_log()[-3000:]}")

    try:
        checkpoint = save_tiny_checkpoint(tmp_path / "tiny")
        with works.open() as opened:
            import_catalogue(read_import_source(write_shop(tmp_path / "shop")), opened.database, opened.media_store)
            build_release(opened, checkpoint=checkpoint)
        operation_id = works.ask(kind=BUILD)
        worker = works.start_worker("--hold-at", "within embed-1", "--hold-at", "within build")

        wait_for_log("point: within embed-1")
        server.stop()
        wait_for_log("refused")
        (tmp_path / "pass within embed-1").touch()
        server.start()
        wait_for_log("point: within build")
        server.freeze()
        wait_for_log("connection timeout expired")
        (tmp_path / "pass within build").touch()
        server.thaw()

        assert worker.wait(2 * PATIENCE) == 0, works.last_log()[-3000:]
        operation = works.operation(operation_id)
        assert (operation.state, operation.attempts) == ("succeeded", 1), operation.error
        names = [step["name"] for step in operation.steps]
        assert names == ["plan", "embed-1", "build", "catch-up", "activate", "converge", "tidy"]
    finally:
        server.thaw()
        stop_all(works)
