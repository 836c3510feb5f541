"""Servers are restarted one after the other under load; benchmarks/rolling_restart.py is the long version."""

import pytest

from benchmarks.rolling_restart import report, run


@pytest.mark.shares("child processes")  # replaces replicas for all tests
def test_a_rolling_restart_fails_no_request(gateway, replicas, queries):
    # The pause between searches leaves CPU time for the server that starts.
    figures = run(gateway, replicas, queries, clients=16, rounds=1, dwell_seconds=0.5, pause_seconds=0.2)

    report(figures)
    assert figures.failures == []
    assert figures.exit_statuses == [0, 0]
    assert figures.searches > 16
    assert figures.writes > 5
