"""Routes of releases, activations and processes, on a real shop."""

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.evaluations.records import record_evaluation
from service.installation.processes import beat, register_process, stop_process
from service.releases.files import read_manifest_facts
from service.releases.records import mark_retired, record_release, select_releases
from service.web.app import create_app
from tests.service.conftest import wait_for

KEY = "test-key-0123456789abcdef"
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def shop_with_two(copied_shop):
    """An installation of the shop and the ids of its two releases, the second of which is active."""
    return copied_shop(2)


@pytest.fixture
def shop(shop_with_two):
    return shop_with_two[0]


@pytest.fixture
def client(shop):
    settings = shop.settings.model_copy(update={"admin_key": SecretStr(KEY)})
    with TestClient(create_app(settings), headers=HEADERS) as opened:
        yield opened


@pytest.fixture
def two(shop_with_two, client):
    """The ids of the two releases, the second of which is served."""
    release_ids = shop_with_two[1]
    wait_for(lambda: served_by(client, release_ids[1]))
    return release_ids


def listed(client):
    return {release["release_id"]: release for release in client.get("/v1/admin/releases").json()["releases"]}


def served_by(client, release_id):
    return listed(client)[release_id]["served_by"]


def damage(shop, release_id, name="rows.arrow"):
    path = shop.settings.releases_dir / release_id / name
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def test_lists_releases_with_their_servers(client, two, shop):
    first, second = two
    with shop.database.transaction() as session:
        record_evaluation(
            session, evaluation_id="e1", evaluation_set_id="s", space_id="x", num_queries=7, release_id=second,
            metrics={"all": {"recall_at_1": 0.5}},
        )  # fmt: skip

    answer = client.get("/v1/admin/releases").json()

    assert [release["release_id"] for release in answer["releases"]] == [second, first]
    assert (answer["activation"]["release_id"], answer["activation"]["version"]) == (second, 2)
    new, old = answer["releases"]
    assert (new["is_active"], new["is_previous"], len(new["served_by"])) == (True, False, 1)
    assert (old["is_active"], old["is_previous"], old["served_by"]) == (False, True, [])
    assert new["created_at"].endswith("Z")
    assert (new["num_products"], new["num_images"], new["watermark"]) == (3, 6, 12)
    assert new["evaluation"]["metrics"] == {"all": {"recall_at_1": 0.5}}
    assert old["evaluation"] is None
    assert len(client.get("/v1/admin/releases", params={"limit": 1}).json()["releases"]) == 1


def test_shows_a_release_in_full(client, two):
    release = client.get(f"/v1/admin/releases/{two[0]}").json()

    assert release["manifest"]["release_id"] == two[0]
    assert release["manifest"]["index"]["structure"]["name"] == "exact"
    assert release["problem"] is None
    assert [event["version"] for event in release["activations"]] == [1]
    assert release["evaluations"] == []


def test_a_release_with_a_damaged_manifest_is_shown_with_the_reason(client, two, shop):
    damage(shop, two[0], "manifest.json")

    release = client.get(f"/v1/admin/releases/{two[0]}").json()

    assert release["manifest"] is None
    assert "manifest.json" in release["problem"]
    assert str(shop.settings.home) not in release["problem"]


def test_activates_and_rolls_back_with_a_reason(client, two):
    first, second = two

    activated = client.post(f"/v1/admin/releases/{first}:activate", json={"reason": "a test", "expected_version": 2})
    wait_for(lambda: served_by(client, first))
    back = client.post("/v1/admin/releases:rollback", json={"reason": "and back"})
    to = client.post(f"/v1/admin/releases/{first}:rollback")
    named = client.post("/v1/admin/releases:rollback", json={"to": second})

    assert activated.json() == {
        "release_id": first, "previous_release_id": second, "version": 3, "has_changed": True,
    }  # fmt: skip
    assert [answer.json()["release_id"] for answer in (back, to, named)] == [second, first, second]
    events = client.get("/v1/admin/activations").json()["activations"]
    assert [event["release_id"] for event in events] == [second, first, second, first, second, first]
    assert (events[3]["reason"], events[3]["activated_by"]) == ("a test", "admin")
    assert (events[2]["reason"], events[1]["reason"]) == ("and back", "rollback")
    assert len(client.get("/v1/admin/activations", params={"release_id": first, "limit": 2}).json()["activations"]) == 2
    wait_for(lambda: served_by(client, second))


def test_activating_the_active_release_changes_nothing(client, two):
    answer = client.post(f"/v1/admin/releases/{two[1]}:activate").json()

    assert (answer["has_changed"], answer["version"]) == (False, 2)


def test_refused_activations_have_different_codes(client, two, shop):
    first, second = two
    damage(shop, first)
    stale = {"expected_version": 1}

    answers = {
        "release-not-found": client.post("/v1/admin/releases/r9:activate"),
        "invalid-release": client.post(f"/v1/admin/releases/{first}:activate"),
        "activation-conflict": client.post(f"/v1/admin/releases/{first}:activate", json=stale),
        "invalid-request": client.post(f"/v1/admin/releases/{first}:activate", json={"because": "x"}),
    }

    assert {code: answer.json()["code"] for code, answer in answers.items()} == {code: code for code in answers}
    assert [answer.status_code for answer in answers.values()] == [404, 409, 409, 422]
    assert "rows.arrow" in answers["invalid-release"].json()["detail"]
    assert client.post("/v1/admin/releases:rollback").json()["code"] == "invalid-release"
    ready = client.get("/readyz").json()
    assert (ready["status"], ready["release_id"], ready["warning"]) == ("ready", second, None)


def test_there_is_nothing_to_roll_back_to_before_the_first_activation(settings):
    settings = settings.model_copy(update={"admin_key": SecretStr(KEY)})
    with TestClient(create_app(settings), headers=HEADERS) as client:
        answer = client.post("/v1/admin/releases:rollback")

    assert (answer.status_code, answer.json()["code"]) == (409, "no-previous-release")


def test_a_retired_release_cannot_be_found(client, two, shop):
    with shop.database.transaction() as session:
        # Only releases that are neither active nor previous can be retired.
        record_release(session, {**read_manifest_facts(shop.settings.releases_dir, two[0]), "release_id": "r3"})
        assert mark_retired(session, "r3", protected=[])
    with shop.database.reading() as session:
        assert len(select_releases(session)) == 3

    assert "r3" not in listed(client)
    for answer in (
        client.get("/v1/admin/releases/r3"),
        client.post("/v1/admin/releases/r3:activate"),
        client.post("/v1/admin/releases/r3:rollback"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "release-not-found")
        assert "was retired at" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["..", "%2e%2e", ".lock", "a%2fb", "a" * 5000])
def test_invalid_ids_are_not_found(client, shop, name):
    assert client.get(f"/v1/admin/releases/{name}").status_code == 404


def test_lists_living_and_ended_processes(client, two, shop):
    ended = register_process(shop.database, "worker")
    beat(shop.database, ended, refusal="r2 is refused")
    stop_process(shop.database, ended)

    found = {process["process_id"]: process for process in client.get("/v1/admin/processes").json()["processes"]}
    (server,) = client.get("/v1/admin/processes", params={"kind": "api"}).json()["processes"]

    assert len(found) == 2
    assert (server["release_id"], server["refusal"], server["is_living"]) == (two[1], None, True)
    assert (found[ended]["is_living"], found[ended]["refusal"]) == (False, "r2 is refused")
    assert found[ended]["stopped_at"].endswith("Z")
    assert served_by(client, two[1])[0]["process_id"] == server["process_id"]
    assert client.get("/v1/admin/processes", params={"kind": "cron"}).status_code == 422


def test_lists_come_in_pages(client, two):
    for path, name, key in (("releases", "releases", "release_id"), ("activations", "activations", "version")):
        whole = client.get(f"/v1/admin/{path}").json()
        first = client.get(f"/v1/admin/{path}", params={"limit": 1}).json()
        second = client.get(f"/v1/admin/{path}", params={"limit": 1, "before": first["next"]}).json()

        assert whole["next"] is None
        assert first["next"] == first[name][0][key]
        assert [first[name][0][key], second[name][0][key]] == [row[key] for row in whole[name]]
        assert second["next"] is None
