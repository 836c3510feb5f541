import json
import math

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from tests.training.synthetic_run import step_record
from training.errors import InvalidRun
from training.report.metrics_log import MetricsLog, read_metrics


def scalars(run_dir, tag):
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_records_survive_a_round_trip(tmp_path):
    records = [step_record(10), {"kind": "warning", "step": 10, "message": "Ähre"}]

    with MetricsLog(tmp_path / "run", tensorboard=False) as log:
        for record in records:
            log.write(record)

    assert read_metrics(tmp_path / "run") == records


def test_a_line_can_be_read_before_the_log_is_closed(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write({"kind": "step", "step": 1})

        assert read_metrics(tmp_path) == [{"kind": "step", "step": 1}]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write({"kind": "step", "step": 1, "loss": math.nan, "more": [math.inf, {"deep": -math.inf}]})

    assert read_metrics(tmp_path) == [{"kind": "step", "step": 1, "loss": None, "more": [None, {"deep": None}]}]


def test_numpy_numbers_are_written_as_numbers(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write({"step": np.int64(3), "loss": np.float32(0.5), "is_last": True})

    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 3, "loss": 0.5, "is_last": True}


def test_tensorboard_gets_the_numbers_by_kind(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write({"kind": "step", "step": 5, "loss": 0.5, "projection": None})
        log.write({"kind": "evaluation", "step": 5, "recall_at_1": 0.25, "metric": "recall_at_1"})

    assert scalars(tmp_path, "step/loss") == [(5, 0.5)]
    assert scalars(tmp_path, "evaluation/recall_at_1") == [(5, 0.25)]


def test_a_resumed_log_equals_that_of_an_undisturbed_run(tmp_path):
    records = [{"kind": "step", "step": step, "loss": 1 / (1 + step)} for step in range(10)]
    with MetricsLog(tmp_path / "undisturbed") as log:
        for record in records:
            log.write(record)
    with MetricsLog(tmp_path / "cut_off") as log:
        for record in records[:6]:
            log.write(record)
        for step in (6, 7):
            log.write({"kind": "step", "step": step, "loss": -1.0})
    with (tmp_path / "cut_off" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "step", "st')

    with MetricsLog(tmp_path / "cut_off", resume_after_step=5) as log:
        for record in records[6:]:
            log.write(record)

    undisturbed, resumed = (tmp_path / name / "metrics.jsonl" for name in ("undisturbed", "cut_off"))
    assert undisturbed.read_bytes() == resumed.read_bytes()
    assert scalars(tmp_path / "cut_off", "step/loss") == scalars(tmp_path / "undisturbed", "step/loss")


def test_a_log_without_resuming_starts_empty(tmp_path):
    for step in (1, 2):
        with MetricsLog(tmp_path, tensorboard=False) as log:
            log.write({"step": step})

    assert read_metrics(tmp_path) == [{"step": 2}]


def test_resuming_without_a_log_starts_one(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False, resume_after_step=100) as log:
        log.write({"step": 101})

    assert read_metrics(tmp_path) == [{"step": 101}]


def test_an_incomplete_last_line_is_ignored(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')

    assert read_metrics(tmp_path) == [{"step": 1}]


@pytest.mark.parametrize("damage", ["{broken", "3", "\0\0\0"])
def test_damage_within_the_log_is_named_by_its_line(tmp_path, damage):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{damage}\n{{"step": 2}}\n')

    with pytest.raises(InvalidRun, match=r"metrics\.jsonl:2 is not a JSON object; remove that line"):
        read_metrics(tmp_path)


def test_a_run_without_a_log_has_no_records(tmp_path):
    assert read_metrics(tmp_path) == []


def test_closing_twice_is_allowed(tmp_path):
    log = MetricsLog(tmp_path)

    log.close()
    log.close()
