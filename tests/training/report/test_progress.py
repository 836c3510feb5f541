import io

import pytest
from rich.console import Console

from tests.fakes import Clock
from tests.training.synthetic_run import step_record
from training.report.progress import (
    BarProgress,
    LineProgress,
    SilentProgress,
    TrainingProgress,
    choose_progress,
    describe_step,
)


def plain_console(width: int = 60) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def terminal(width: int = 110) -> Console:
    return Console(
        file=io.StringIO(), width=width, force_terminal=True, legacy_windows=False, _environ={"TERM": "xterm"}
    )


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def run_through(progress: TrainingProgress) -> None:
    progress.started(1000, 100)
    progress.step(step_record(500))
    progress.evaluated({"kind": "evaluation", "step": 400, "metric": "map_at_r", "map_at_r": 0.512})
    progress.evaluated({"kind": "evaluation", "step": 500, "metric": "map_at_r", "map_at_r": 0.498})
    progress.warned("collapse: [bold]lower[/bold] the learning rate")
    progress.finished()
    progress.finished()


def test_a_step_is_described_by_the_figures_that_it_has():
    record = {"loss": 0.41234, "active_share": 0.371, "positive_distance_q50": None, "drift": 0.5, "pull_ratio": 0.0213}

    assert describe_step(record) == "loss 0.4123 · active 37% · drift 0.5 · pull 0.021"
    assert describe_step({}) == ""


def test_the_panel_shows_figures_and_the_best_evaluation():
    console = terminal()

    run_through(BarProgress(console))

    text = written(console)
    for part in ("500/1000", "50 %", "loss", "active", "positives", "negatives", "spread", "drift", "mined 50%"):
        assert part in text
    assert "validation MAP@R 0.498 (best 0.512 at step 400)" in text


def test_a_warning_is_shown_as_it_is_written():
    console = terminal()

    run_through(BarProgress(console))

    assert "collapse: [bold]lower[/bold] the learning rate" in written(console)


def test_the_panel_gives_the_cursor_back():
    console = terminal()

    run_through(BarProgress(console))

    assert written(console).rindex("\x1b[?25h") > written(console).rindex("\x1b[?25l")


def test_lines_appear_every_ten_seconds_and_at_evaluations():
    console, clock = plain_console(), Clock(0.0)
    progress = LineProgress(console, clock=clock)

    progress.started(1000, 0)
    for step in range(1, 51):
        clock.seconds = step * 0.5
        progress.step({"kind": "step", "step": step, "loss": 0.5})
    progress.evaluated({"kind": "evaluation", "step": 50, "metric": "recall_at_1", "recall_at_1": 0.5})

    assert written(console).splitlines() == [
        "training from step 0 to 1,000",
        "step 20/1,000 · 2.0 steps/s · 8.2 min left · loss 0.5",
        "step 40/1,000 · 2.0 steps/s · 8.0 min left · loss 0.5",
        "step 50/1,000 · validation recall@1 0.500 (best 0.500 at step 50)",
    ]


def test_lines_are_neither_wrapped_nor_styled():
    console = plain_console(width=20)

    run_through(LineProgress(console))

    lines = written(console).splitlines()
    assert "warning: collapse: [bold]lower[/bold] the learning rate" in lines
    assert "\x1b" not in written(console)


def test_a_step_that_does_not_move_leaves_the_time_open():
    console, clock = plain_console(), Clock(0.0)
    progress = LineProgress(console, clock=clock)

    progress.started(10, 5)
    clock.seconds = 11
    progress.step({"step": 5})

    assert "time left unknown" in written(console)


def test_silence_is_silent(capsys):
    run_through(SilentProgress())

    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("console", "expected"), [(terminal(), BarProgress), (plain_console(), LineProgress)])
def test_terminals_get_the_panel_and_pipes_get_lines(console, expected):
    assert isinstance(choose_progress(console), expected)
