"""A running server follows the active release and reports what it serves."""

import gc
import hashlib
import threading
import weakref
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from service.access.keys import create_key
from service.catalogue.editing import remove_products
from service.catalogue.importing import import_catalogue
from service.catalogue.sources import ImportSource, SourceRow
from service.installation.processes import list_processes
from service.releases.build import build_release
from service.releases.files import load_release
from service.releases.records import activate_release
from service.storage.errors import DatabaseUnavailable
from service.web.app import create_app
from tests.images import encode, png
from tests.service.conftest import product_image, wait_for

IMAGE = encode(product_image("birch"))


@pytest.fixture
def shop(copied_shop):
    """An installation whose catalogue holds the three products, without a release."""
    return copied_shop(0)[0]


@pytest.fixture
def settings(shop):
    return shop.settings


@pytest.fixture
def client(settings):
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def build(shop, tiny_checkpoint):
    return lambda **options: build_release(shop, checkpoint=tiny_checkpoint, **options).release_id


def serving(client):
    response = client.get("/readyz")
    return response.json()["release_id"] if response.status_code == 200 else None


def activate(shop, release_id):
    with shop.database.transaction() as session:
        activate_release(session, release_id)


def damage(shop, release_id):
    path = shop.settings.releases_dir / release_id / "rows.arrow"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def test_is_alive_but_not_ready_before_the_first_release(client, shop):
    assert client.get("/livez").status_code == 200
    ready, search = client.get("/readyz"), client.post("/search", files={"image": IMAGE})
    assert (ready.json()["code"], search.json()["code"]) == ("not-ready", "no-active-release")
    for response in (ready, search):
        assert response.status_code == 503
        assert "akin index build" in response.json()["detail"]


def test_serves_new_releases_and_rollbacks_without_a_restart(client, shop, build):
    first = build()
    wait_for(lambda: serving(client) == first)
    with shop.database.transaction() as session:
        remove_products(session, ["birch"])
    second = build()
    wait_for(lambda: serving(client) == second)
    products = [hit["product_id"] for hit in client.post("/search", files={"image": IMAGE}).json()["hits"]]
    assert sorted(products) == ["amber", "cedar"]

    activate(shop, first)

    wait_for(lambda: serving(client) == first)
    best = client.post("/search", files={"image": IMAGE}).json()["hits"][0]
    assert best["product_id"] == "birch"


def test_images_of_the_previous_release_are_still_served(client, shop, build, monkeypatch):
    first = build()
    wait_for(lambda: serving(client) == first)
    url = client.post("/search", files={"image": IMAGE}).json()["hits"][0]["image_url"]
    with shop.database.transaction() as session:
        remove_products(session, ["birch"])
    second = build()
    wait_for(lambda: serving(client) == second)

    assert client.get(url).status_code == 200

    # The database shows images of removed products for a day: other servers' results may name them.
    monkeypatch.setattr("service.catalogue.shown_images.REMOVED_FOR", timedelta(0))
    third = build()
    wait_for(lambda: serving(client) == third)
    assert client.get(url).status_code == 404


def test_images_of_results_of_other_servers_are_served_before_this_one_has_switched(settings, shop, build, tmp_path):
    first = build()
    with TestClient(create_app(settings.model_copy(update={"release_poll_seconds": 3600}))) as behind:
        wait_for(lambda: serving(behind) == first)
        rows = [
            SourceRow("1", "dogwood", tmp_path / "front.png"),
            SourceRow("2", "dogwood", tmp_path / "customer.png", role="example"),
        ]
        for row, colour in zip(rows, ("red", "green"), strict=True):
            row.image.write_bytes(png(colour))
        import_catalogue(ImportSource("new", rows, len(rows)), shop.database, shop.media_store)
        second = build()
        with TestClient(create_app(settings)) as ahead:
            wait_for(lambda: serving(ahead) == second)
            best = ahead.post("/search", files={"image": png("red")}).json()["hits"][0]
        assert best["product_id"] == "dogwood"
        assert serving(behind) == first

        assert behind.get(best["image_url"]).content == png("red")
        assert behind.get(f"/media/{hashlib.sha256(png('green')).hexdigest()}.png").status_code == 404


def test_the_previous_release_is_freed_at_once_and_not_in_the_event_loop(client, build):
    first = build()
    wait_for(lambda: serving(client) == first)
    client.post("/search", files={"image": IMAGE}).raise_for_status()
    freed_in = []
    engine = client.app.state.akin.live.current()
    finalizer = weakref.finalize(engine.release.index, lambda: freed_in.append(threading.current_thread().name))
    del engine
    gc.disable()
    try:
        second = build()
        wait_for(lambda: serving(client) == second)
        wait_for(lambda: not finalizer.alive)
    finally:
        gc.enable()

    assert freed_in[0].startswith("close-release")


def test_swaps_and_heartbeats_continue_while_requests_occupy_all_their_threads(client, shop, build, monkeypatch):
    monkeypatch.setattr("service.serving.watcher._HEARTBEAT_SECONDS", 0.05)
    first, second = build(), build(activate=False)
    wait_for(lambda: reported(shop) == (first, None))
    pools, may_end = client.app.state.akin.pools, threading.Event()
    occupied = [
        pool.submit(may_end.wait, 60) for pool in (pools.requests, pools.images, pools.lookups) for _ in range(20)
    ]
    try:
        activate(shop, second)
        wait_for(lambda: reported(shop) == (second, None))
        for _ in range(2):
            seen = processes(shop)[0].seen_at
            wait_for(lambda seen=seen: processes(shop)[0].seen_at > seen)
        _, key = create_key(shop.database, "new", ["search"], actor="test")
        headers = {"X-API-Key": key}
        wait_for(lambda: client.post("/search", files={"image": IMAGE}, headers=headers).status_code == 200)
        assert not any(future.done() for future in occupied)
    finally:
        may_end.set()


def test_a_damaged_release_is_refused_and_the_previous_one_served(client, shop, build):
    first = build()
    wait_for(lambda: serving(client) == first)
    second = build(activate=False)
    damage(shop, second)

    activate(shop, second)

    wait_for(lambda: client.get("/readyz").json().get("warning"))
    ready = client.get("/readyz").json()
    assert ready["release_id"] == first
    assert f"{second} is refused" in ready["warning"]
    assert "rows.arrow" in ready["warning"]
    assert client.post("/search", files={"image": IMAGE}).status_code == 200
    activate(shop, first)
    wait_for(lambda: client.get("/readyz").json()["warning"] is None)


def test_readiness_reports_why_no_release_is_served(client, shop, build):
    release_id = build(activate=False)
    damage(shop, release_id)

    activate(shop, release_id)

    wait_for(lambda: "refused" in client.get("/readyz").json()["detail"])
    assert client.get("/readyz").status_code == 503
    assert str(shop.settings.home) not in client.get("/readyz").text


def test_answers_during_swaps_come_from_one_release_each(client, shop, build):
    """The number of hits tells the releases apart."""
    whole = build()
    with shop.database.transaction() as session:
        remove_products(session, ["birch"])
    small = build(activate=False)
    wait_for(lambda: serving(client) == whole)
    answers = []
    stop = threading.Event()

    def search():
        while not stop.is_set():
            answers.append(client.post("/search", files={"image": IMAGE}))

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for release_id in (small, whole) * 3:
        activate(shop, release_id)
        wait_for(lambda release_id=release_id: serving(client) == release_id)
    stop.set()
    for thread in threads:
        thread.join()

    assert all(answer.status_code == 200 for answer in answers)
    seen = {(answer.json()["release_id"], len(answer.json()["hits"])) for answer in answers}
    assert seen == {(whole, 3), (small, 2)}


def test_searches_succeed_while_the_database_is_unavailable(client, shop, build, monkeypatch):
    release_id = build()
    wait_for(lambda: serving(client) == release_id)
    monkeypatch.setattr("service.serving.watcher.active_release", lambda _: 1 / 0)

    assert client.post("/search", files={"image": IMAGE}).status_code == 200
    assert serving(client) == release_id


def processes(shop):
    with shop.database.reading() as session:
        return list_processes(session, kind="api")


def reported(shop):
    """Return what the server reports of itself: (release, refusal)."""
    found = processes(shop)
    return (found[0].release_id, found[0].refusal) if found else None


def test_reports_the_served_release_when_it_changes(client, shop, build):
    wait_for(lambda: reported(shop) == (None, None))
    first = build()
    wait_for(lambda: reported(shop) == (first, None))
    second = build()
    wait_for(lambda: reported(shop) == (second, None))

    (process,) = processes(shop)
    assert process.stopped_at is None


def test_reports_a_refusal_until_it_is_resolved(client, shop, build):
    first = build()
    wait_for(lambda: reported(shop) == (first, None))
    second = build(activate=False)
    damage(shop, second)

    activate(shop, second)

    wait_for(lambda: "rows.arrow" in (reported(shop)[1] or ""))
    assert reported(shop)[0] == first
    activate(shop, first)
    wait_for(lambda: reported(shop) == (first, None))


def test_reports_that_it_has_stopped(settings, shop):
    with TestClient(create_app(settings)):
        wait_for(lambda: processes(shop))
        assert processes(shop)[0].stopped_at is None

    assert processes(shop)[0].stopped_at is not None


def test_sends_heartbeats_while_a_release_loads(settings, shop, build, monkeypatch):
    monkeypatch.setattr("service.serving.watcher._HEARTBEAT_SECONDS", 0.05)
    first, second = build(), build(activate=False)
    may_load = threading.Event()

    def load_slowly(releases_dir, release_id, **options):
        if release_id == second:
            may_load.wait(20)
        return load_release(releases_dir, release_id, **options)

    monkeypatch.setattr("service.serving.following.load_release", load_slowly)
    with TestClient(create_app(settings)):
        wait_for(lambda: reported(shop) == (first, None))
        activate(shop, second)
        for _ in range(2):
            seen = processes(shop)[0].seen_at
            wait_for(lambda seen=seen: processes(shop)[0].seen_at > seen)
        assert reported(shop) == (first, None)
        may_load.set()
        wait_for(lambda: reported(shop) == (second, None))


def test_failing_heartbeats_do_not_stop_the_server(settings, shop, build, monkeypatch):
    def fail(*_, **__):
        raise DatabaseUnavailable("the database is unavailable")

    monkeypatch.setattr("service.serving.watcher.register_process", fail)
    with TestClient(create_app(settings)) as client:
        first = build()
        wait_for(lambda: serving(client) == first)
        second = build()
        wait_for(lambda: serving(client) == second)
        assert client.post("/search", files={"image": IMAGE}).status_code == 200

    assert processes(shop) == []
