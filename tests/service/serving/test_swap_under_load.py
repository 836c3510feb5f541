"""Two servers on one home, clients that never pause, and one swap after the other: nobody notices."""

from argparse import Namespace

import pytest

from benchmarks.swap_under_load import default_checkpoints, report, run
from service.installation.processes import list_processes
from service.releases.records import list_activations
from tests.service.fixtures.tiny_model import save_tiny_checkpoint

# A poll that is under way, the write of the heartbeat, and a machine that does other things as well.
_SLACK_SECONDS = 5.0


@pytest.fixture
def settings(settings, monkeypatch):
    """With the interval in which servers look for a new release shortened to half a second."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return settings.model_copy(update={"release_poll_seconds": 0.5})


def check(figures, swaps):
    report(figures)
    assert figures.errors == []
    assert len(figures.convergence_seconds) == swaps
    assert set(figures.answers_by_release) == {"release-0", "release-1"}
    assert figures.requests > 10 * swaps
    assert figures.exit_statuses == [0, 0]
    # Each of the two servers loaded each release that became active, once.
    assert len(figures.load_seconds) == 2 * swaps
    longest = figures.poll_seconds + max(figures.load_seconds) + _SLACK_SECONDS
    assert max(figures.convergence_seconds) < longest


def test_no_request_notices_that_the_release_is_swapped(settings, installation, tmp_path):
    checkpoints = [save_tiny_checkpoint(tmp_path / f"model-{seed}", seed) for seed in (0, 1)]

    figures = run(settings, checkpoints, 20, Namespace(clients=8, swaps=4, processes=2, dwell_seconds=0.5))

    check(figures, 4)
    with installation.database.reading() as session:
        assert [event.activated_by for event in list_activations(session)] == ["admin"] * 4 + ["command line"]
        assert all(process.stopped_at is not None for process in list_processes(session, kind="api"))


@pytest.mark.slow
def test_thirty_two_clients_notice_none_of_twenty_swaps(settings, tmp_path):
    """With the packaged network at two resolutions: models that cost what real ones do."""
    figures = run(
        settings, default_checkpoints(tmp_path), 200, Namespace(clients=32, swaps=20, processes=2, dwell_seconds=0.5)
    )

    check(figures, 20)
