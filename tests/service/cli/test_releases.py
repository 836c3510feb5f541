"""akin release rollback, history, prune; akin evaluations."""

import json

import pytest

from service.cli.main import main
from service.evaluations.records import measurement_path, record_evaluation, set_path
from service.installation.installation import open_installation
from service.releases.build import build_release
from service.releases.records import active_release
from tests.service.evaluations.test_evaluations import evaluation_set_with, measured
from tests.service.fixtures.tiny_model import save_tiny_checkpoint


@pytest.fixture
def akin(settings, capsys, monkeypatch):
    """Run a command on the home of the settings and return what it printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, status=0):
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        assert (ended.value.code or 0) == status, captured.err + captured.out
        return captured.err if status else captured.out

    return run


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory):
    """Smaller than that of the other tests: what is found does not matter here."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def three(shop, small_checkpoint):
    return [build_release(shop, checkpoint=small_checkpoint).release_id for _ in range(3)]


def active_id(installation):
    with installation.database.reading() as session:
        return active_release(session).release_id


def test_rolls_back_and_tells_the_history(akin, shop, three):
    first, second, third = three

    assert f"{second} is now active" in akin("release", "rollback", "--reason", "worse [than] before")
    assert active_id(shop) == second
    assert f"{first} is now active" in akin("release", "rollback", "--to", first)
    assert f"{first} is already active" in akin("release", "activate", first)
    assert f"{third} is now active" in akin("release", "activate", third, "--reason", "after all")

    history = json.loads(akin("release", "history", "--json"))
    assert [event["release_id"] for event in history] == [third, first, second, third, second, first]
    assert [event["reason"] for event in history[:3]] == ["after all", "rollback", "worse [than] before"]
    assert history[0]["activated_by"] == "command line"
    assert history[0]["activated_at"].endswith("+00:00")
    table = akin("release", "history", "--limit", "3")
    assert "worse [than] before" in table
    assert third in table


def test_there_is_no_way_back_from_nothing(akin, shop):
    assert "no release is active, and none was before" in akin("release", "rollback", status=1)


def test_a_damaged_release_is_not_rolled_back_to(akin, shop, three):
    with (shop.settings.releases_dir / three[1] / "rows.arrow").open("ab") as file:
        file.write(b"x")

    assert "rows.arrow" in akin("release", "rollback", status=1)

    assert active_id(shop) == three[2]


def test_prunes_after_it_has_said_what_would_go(akin, shop, three):
    assert f"{three[0]} would be removed" in akin("release", "prune", "--keep", "0", "--dry-run")
    assert (shop.settings.releases_dir / three[0]).is_dir()
    assert json.loads(akin("release", "prune", "--keep", "0", "--json")) == {"retired": three[:1], "dry_run": False}
    assert not (shop.settings.releases_dir / three[0]).exists()
    assert "nothing to remove" in akin("release", "prune", "--keep", "0")
    assert [release["release_id"] for release in json.loads(akin("release", "list", "--json"))] == three[:0:-1]


@pytest.fixture
def evaluated(settings):
    """Two evaluations on one set."""
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


def test_evaluations_are_listed_shown_and_compared(akin, evaluated):
    listed = json.loads(akin("evaluations", "list", "--json"))
    of_one = json.loads(akin("evaluations", "list", "--release", "r1", "--json"))
    shown = json.loads(akin("evaluations", "show", "r2"))
    compared = json.loads(akin("evaluations", "compare", "r1", "after", "--json"))

    assert [evaluation["evaluation_id"] for evaluation in listed] == ["after", "before"]
    assert [evaluation["evaluation_id"] for evaluation in of_one] == ["before"]
    assert shown == listed[0]
    assert (compared["num_won"], compared["num_lost"]) == (5, 2)
    assert compared["classes_won"][0]["label"] == "apple"
    assert "0.8750" in akin("evaluations", "list")
    table = akin("evaluations", "compare", "before", "after")
    for text in ("mean of parts", "5 queries won, 2 lost, 33 as before", "apple", "+0.2500", "not kept"):
        assert text in table


def test_an_evaluation_that_is_not_there_is_told_of(akin, evaluated):
    assert "'r9' is neither an evaluation nor a release" in akin("evaluations", "show", "r9", status=1)
    assert "'r9'" in akin("evaluations", "compare", "r1", "r9", status=1)
