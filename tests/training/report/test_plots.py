import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from tests.training.synthetic_run import step_record, write_json, write_run
from training.errors import InvalidRun
from training.report.metrics_log import MetricsLog
from training.report.plots import series, write_curves


def write_records(run_dir, records):
    with MetricsLog(run_dir, tensorboard=False) as log:
        for record in records:
            log.write(record)


def names(paths):
    return {path.stem for path in paths}


def test_a_complete_run_has_every_curve_as_well_formed_svg(tmp_path):
    run_dir = write_run(tmp_path / "run", ["apple", "pear"])

    paths = write_curves(run_dir)

    assert names(paths) == {"validation", "loss", "distances", "spread", "pull", "mining", "learning_rate"}
    for path in paths:
        assert path.parent == run_dir / "curves"
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_a_quantity_without_values_has_no_curve(tmp_path):
    write_records(tmp_path, [{"kind": "step", "step": step, "loss": 1.0, "drift": None} for step in range(3)])

    assert names(write_curves(tmp_path)) == {"loss"}


def test_a_pull_that_is_always_zero_has_no_curve(tmp_path):
    write_records(tmp_path, [{"kind": "step", "step": step, "loss": 1.0, "pull_ratio": 0.0} for step in range(3)])

    assert names(write_curves(tmp_path)) == {"loss"}


def test_curves_of_an_earlier_call_are_removed(tmp_path):
    write_records(tmp_path, [{"kind": "step", "step": 1, "loss": 1.0, "learning_rate": 0.1}])
    assert names(write_curves(tmp_path)) == {"loss", "learning_rate"}
    write_records(tmp_path, [{"kind": "step", "step": 1, "loss": 1.0}])

    assert names(write_curves(tmp_path)) == {"loss"}
    assert names((tmp_path / "curves").iterdir()) == {"loss"}


@pytest.mark.parametrize(
    "records",
    [
        [step_record(500)],
        [{"kind": "evaluation", "step": 0, "recall_at_1": 0.5}],
        [{"kind": "projection", "step": 3, "projection": 0}, {"kind": "step"}, {}],
        [step_record(5, positive_distance_q10=None, learning_rate=float("nan"), loss=float("inf"))],
        [*({"kind": "projection", "step": step} for step in range(200)), step_record(200)],
    ],
)
def test_sparse_logs_draw_without_a_warning(tmp_path, records):
    write_json(tmp_path, "run_card.json", {"best": {"step": 3, "metric": "map_at_r"}})
    write_records(tmp_path, records)

    write_curves(tmp_path)


def test_the_selection_metric_is_drawn_whatever_its_name(tmp_path):
    write_records(tmp_path, [{"kind": "evaluation", "step": 1, "metric": "precision_at_9", "precision_at_9": 0.5}])

    assert names(write_curves(tmp_path)) == {"validation"}


def test_long_curves_are_drawn_as_means_of_stretches():
    records = [{"step": step, "loss": float(step % 2)} for step in range(10_000)]

    steps, values = series(records, "loss")

    assert len(steps) == 500
    np.testing.assert_allclose(values, 0.5)
    assert steps[0] == 9.5


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InvalidRun, match="is not a training run"):
        write_curves(tmp_path)


@pytest.mark.long
def test_drawing_touches_no_global_state_of_matplotlib():
    """pyplot is not imported and no backend selected, so a notebook keeps its own figures."""
    script = "import sys, training.report.plots; sys.exit('matplotlib.pyplot' in sys.modules)"

    assert subprocess.run([sys.executable, "-W", "error", "-c", script], check=False).returncode == 0
