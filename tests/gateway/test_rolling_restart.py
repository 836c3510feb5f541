"""The servers are restarted one after the other under load; benchmarks/rolling_restart.py does it at length."""

from benchmarks.rolling_restart import report, run


def test_no_request_notices_that_the_servers_are_restarted(gateway, replicas, queries):
    # The pause leaves the starting server its part of two cores.
    figures = run(gateway, replicas, queries, clients=16, rounds=1, dwell_seconds=0.5, pause_seconds=0.2)

    report(figures)
    assert figures.failures == []
    assert figures.exit_statuses == [0, 0]
    assert figures.searches > 16
    assert figures.writes > 5
