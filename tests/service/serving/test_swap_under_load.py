"""No request fails while two servers of one home swap releases under constant load."""

from argparse import Namespace

import pytest

from benchmarks.swap_under_load import default_checkpoints, report, run
from service.installation.processes import list_processes
from service.releases.records import select_activations
from tests.service.fixtures.tiny_model import save_tiny_checkpoint


@pytest.fixture
def settings(settings, monkeypatch):
    """Settings with a poll interval of half a second."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return settings.model_copy(update={"release_poll_seconds": 0.5})


def check(figures, swaps):
    report(figures)
    assert figures.errors == []
    assert len(figures.convergence_seconds) == swaps
    assert set(figures.answers_by_release) == {"release-0", "release-1"}
    assert figures.requests > 10 * swaps
    assert figures.exit_statuses == [0, 0]
    # Each of the two servers loaded each newly active release once.
    assert len(figures.load_seconds) == 2 * swaps


@pytest.mark.long
def test_no_request_fails_during_swaps(settings, installation, tmp_path):
    checkpoints = [save_tiny_checkpoint(tmp_path / f"model-{seed}", seed) for seed in (0, 1)]

    figures = run(settings, checkpoints, 20, Namespace(clients=8, swaps=4, processes=2, dwell_seconds=0.5))

    check(figures, 4)
    with installation.database.reading() as session:
        assert [event.activated_by for event in select_activations(session)] == ["admin"] * 4 + ["command line"]
        assert all(process.stopped_at is not None for process in list_processes(session, kind="api"))


@pytest.mark.slow
def test_no_request_of_32_clients_fails_during_20_swaps(settings, tmp_path):
    """With the packaged network at two resolutions, models as expensive as real ones."""
    figures = run(
        settings, default_checkpoints(tmp_path), 200, Namespace(clients=32, swaps=20, processes=2, dwell_seconds=0.5)
    )

    check(figures, 20)
