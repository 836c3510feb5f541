"""akin release and akin evaluations."""

import json

import pytest

from service.evaluations.records import measurement_path, record_evaluation, set_path
from service.installation.installation import open_installation
from service.releases.records import active_release
from tests.service.evaluations.test_evaluations import evaluation_set_with, measured


@pytest.fixture
def run(akin):
    """Run a command and return what it printed: the result, or the error if a status is expected."""

    def run(*arguments, status=0):
        captured = akin(*arguments, status=status)
        return captured.err if status else captured.out

    return run


@pytest.fixture
def shop_with_three(copied_shop, settings):
    """An installation of the shop and the ids of its three releases, the last of which is active."""
    return copied_shop(3)


@pytest.fixture
def shop(shop_with_three):
    return shop_with_three[0]


@pytest.fixture
def three(shop_with_three):
    return shop_with_three[1]


def active_id(installation):
    with installation.database.reading() as session:
        return active_release(session).release_id


def test_rolls_back_and_prints_the_history(run, shop, three):
    first, second, third = three

    assert f"{second} is now active" in run("release", "rollback", "--reason", "worse [than] before")
    assert active_id(shop) == second
    assert f"{first} is now active" in run("release", "rollback", "--to", first)
    assert f"{first} is already active" in run("release", "activate", first)
    assert f"{third} is now active" in run("release", "activate", third, "--reason", "after all")

    history = json.loads(run("release", "history", "--json"))
    assert [event["release_id"] for event in history] == [third, first, second, third, second, first]
    assert [event["reason"] for event in history[:3]] == ["after all", "rollback", "worse [than] before"]
    assert history[0]["activated_by"] == "command line"
    assert history[0]["activated_at"].endswith("+00:00")
    table = run("release", "history", "--limit", "3")
    assert "worse [than] before" in table
    assert third in table


def test_there_is_nothing_to_roll_back_to_without_a_release(run, settings):
    assert "no release is active, and none was before" in run("release", "rollback", status=1)


def test_a_rollback_to_a_damaged_release_is_refused(run, shop, three):
    with (shop.settings.releases_dir / three[1] / "rows.arrow").open("ab") as file:
        file.write(b"x")

    assert "rows.arrow" in run("release", "rollback", status=1)

    assert active_id(shop) == three[2]


def test_prunes_what_a_dry_run_has_printed(run, shop, three):
    assert f"{three[0]} would be removed" in run("release", "prune", "--keep", "0", "--dry-run")
    assert (shop.settings.releases_dir / three[0]).is_dir()
    assert json.loads(run("release", "prune", "--keep", "0", "--json")) == {"retired": three[:1], "dry_run": False}
    assert not (shop.settings.releases_dir / three[0]).exists()
    assert "nothing to remove" in run("release", "prune", "--keep", "0")
    assert [release["release_id"] for release in json.loads(run("release", "list", "--json"))] == three[:0:-1]


@pytest.fixture
def evaluated(settings):
    """Two evaluations of one set."""
    evaluation_set = evaluation_set_with()
    with open_installation(settings) as installation:
        evaluation_set.write(set_path(settings, evaluation_set.evaluation_set_id))
        for evaluation_id, release_id, wrong in (("before", "r1", {"apple": 5}), ("after", "r2", {"plum": 2})):
            found = measured(evaluation_set, wrong)
            found.write(measurement_path(settings, evaluation_id))
            with installation.database.transaction() as session:
                record_evaluation(
                    session, evaluation_id=evaluation_id, evaluation_set_id=evaluation_set.evaluation_set_id,
                    space_id="s", num_queries=40, metrics=found.metrics, release_id=release_id,
                )  # fmt: skip


def test_evaluations_are_listed_shown_and_compared(run, evaluated):
    listed = json.loads(run("evaluations", "list", "--json"))
    of_one = json.loads(run("evaluations", "list", "--release", "r1", "--json"))
    shown = json.loads(run("evaluations", "show", "r2"))
    compared = json.loads(run("evaluations", "compare", "r1", "after", "--json"))

    assert [evaluation["evaluation_id"] for evaluation in listed] == ["after", "before"]
    assert [evaluation["evaluation_id"] for evaluation in of_one] == ["before"]
    assert shown == listed[0]
    assert (compared["num_won"], compared["num_lost"]) == (5, 2)
    assert compared["classes_won"][0]["label"] == "apple"
    assert "0.8750" in run("evaluations", "list")
    table = run("evaluations", "compare", "before", "after")
    for text in ("mean of parts", "5 queries won, 2 lost, 33 as before", "apple", "+0.2500", "not kept"):
        assert text in table


def test_an_unknown_evaluation_is_reported(run, evaluated):
    assert "'r9' is neither an evaluation nor a release" in run("evaluations", "show", "r9", status=1)
    assert "'r9'" in run("evaluations", "compare", "r1", "r9", status=1)
