"""The rates of the stages of bulk embedding."""

import pytest

from embedding.stages import StageReport, StageTimes, StageWork, describe_rates, timed


def test_the_rate_of_a_stage_counts_its_busy_time_only():
    assert StageWork(300, 2.0).images_per_second == 150
    assert StageWork().images_per_second == 0


def test_busy_time_is_the_mean_over_the_threads_of_a_stage():
    times = StageTimes({"read": 1, "decode": 4, "network": 1, "write": 1})

    for _ in range(8):
        times.add("decode", 1, 0.5)

    assert times.report() == StageReport(decode=StageWork(8, 1.0))


def test_the_rates_are_those_of_stages_that_never_wait():
    report = StageReport(StageWork(100, 0.25), StageWork(80, 0.5), StageWork(64, 0.5), StageWork(64, 0.01))

    assert report.rates() == {"read": 400, "decode": 160, "network": 128, "write": 6400}
    assert str(report) == "read 400/s  decode 160/s  network 128/s  write 6,400/s"


def test_stages_without_work_are_omitted():
    assert str(StageReport(read=StageWork(3, 1.0))) == "read 3.0/s"
    assert str(StageReport()) == ""
    assert describe_rates({}) == ""


def test_the_difference_of_two_reports_is_the_work_between_them():
    earlier = StageReport(StageWork(4, 0.5), StageWork(3, 1.0))
    later = StageReport(StageWork(10, 2.0), StageWork(9, 4.0), StageWork(8, 1.0))

    assert later - earlier == StageReport(StageWork(6, 1.5), StageWork(6, 3.0), StageWork(8, 1.0))
    assert (earlier - StageReport()) == earlier


def test_a_block_that_raises_is_timed_too():
    with pytest.raises(LookupError), timed() as timer:
        raise LookupError

    assert timer.seconds > 0
