"""A running server follows the active release."""

import threading

import pytest
from fastapi.testclient import TestClient

from service.catalogue.records import remove_products
from service.installation.processes import list_processes
from service.releases.build import build_release
from service.releases.files import load_release
from service.releases.records import activate_release
from service.storage.errors import DatabaseUnavailable
from service.web.app import create_app
from tests.images import encode
from tests.service.conftest import product_image, wait_for

IMAGE = encode(product_image("birch"))


@pytest.fixture
def client(settings):
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def build(shop, small_checkpoint):
    return lambda **options: build_release(shop, checkpoint=small_checkpoint, **options).release_id


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


def test_takes_up_new_releases_and_rollbacks_without_a_restart(client, shop, build):
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


def test_images_of_the_release_before_are_still_served(client, shop, build):
    first = build()
    wait_for(lambda: serving(client) == first)
    url = client.post("/search", files={"image": IMAGE}).json()["hits"][0]["image_url"]
    with shop.database.transaction() as session:
        remove_products(session, ["birch"])
    second = build()
    wait_for(lambda: serving(client) == second)

    assert client.get(url).status_code == 200

    third = build()
    wait_for(lambda: serving(client) == third)
    assert client.get(url).status_code == 404


def test_a_damaged_release_is_refused_and_the_previous_one_goes_on(client, shop, build):
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


def test_a_server_without_any_good_release_says_why(client, shop, build):
    release_id = build(activate=False)
    damage(shop, release_id)

    activate(shop, release_id)

    wait_for(lambda: "refused" in client.get("/readyz").json()["detail"])
    assert client.get("/readyz").status_code == 503
    assert str(shop.settings.home) not in client.get("/readyz").text


def test_searches_go_on_through_swaps_and_never_mix_releases(client, shop, build):
    """Every answer comes from one release: hits of the smaller catalogue only under its id."""
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


def test_goes_on_serving_while_the_database_is_away(client, shop, build, monkeypatch):
    release_id = build()
    wait_for(lambda: serving(client) == release_id)
    monkeypatch.setattr("service.serving.watcher.active_release", lambda _: 1 / 0)

    assert client.post("/search", files={"image": IMAGE}).status_code == 200
    assert serving(client) == release_id


def processes(shop):
    with shop.database.reading() as session:
        return list_processes(session, kind="api")


def told(shop):
    """What the one server says of itself: (release, refusal)."""
    found = processes(shop)
    return (found[0].release_id, found[0].refusal) if found else None


def test_a_server_tells_what_it_serves_as_soon_as_that_changes(client, shop, build):
    wait_for(lambda: told(shop) == (None, None))
    first = build()
    wait_for(lambda: told(shop) == (first, None))
    second = build()
    wait_for(lambda: told(shop) == (second, None))

    (process,) = processes(shop)
    assert process.stopped_at is None


def test_a_server_tells_what_it_refuses_and_that_it_no_longer_does(client, shop, build):
    first = build()
    wait_for(lambda: told(shop) == (first, None))
    second = build(activate=False)
    damage(shop, second)

    activate(shop, second)

    wait_for(lambda: "rows.arrow" in (told(shop)[1] or ""))
    assert told(shop)[0] == first
    activate(shop, first)
    wait_for(lambda: told(shop) == (first, None))


def test_a_server_that_ends_says_so(settings, shop):
    with TestClient(create_app(settings)):
        wait_for(lambda: processes(shop))
        assert processes(shop)[0].stopped_at is None

    assert processes(shop)[0].stopped_at is not None


def test_a_server_beats_while_it_reads_a_large_release(settings, shop, build, monkeypatch):
    monkeypatch.setattr("service.serving.watcher._BEAT_SECONDS", 0.05)
    first, second = build(), build(activate=False)
    may_go_on = threading.Event()

    def slowly(releases_dir, release_id, **options):
        if release_id == second:
            may_go_on.wait(20)
        return load_release(releases_dir, release_id, **options)

    monkeypatch.setattr("service.web.app.load_release", slowly)
    with TestClient(create_app(settings)):
        wait_for(lambda: told(shop) == (first, None))
        activate(shop, second)
        for _ in range(2):
            seen = processes(shop)[0].seen_at
            wait_for(lambda seen=seen: processes(shop)[0].seen_at > seen)
        assert told(shop) == (first, None)
        may_go_on.set()
        wait_for(lambda: told(shop) == (second, None))


def test_a_heartbeat_that_nobody_hears_stops_nothing(settings, shop, build, monkeypatch):
    def away(*_, **__):
        raise DatabaseUnavailable("the database is away")

    monkeypatch.setattr("service.serving.watcher.register_process", away)
    with TestClient(create_app(settings)) as client:
        first = build()
        wait_for(lambda: serving(client) == first)
        second = build()
        wait_for(lambda: serving(client) == second)
        assert client.post("/search", files={"image": IMAGE}).status_code == 200

    assert processes(shop) == []
