import io

import pytest
from rich.console import Console

from tests.fakes import Clock
from tests.training.synthetic_run import step_record
from training.report.progress import (
    BarProgress,
    LineProgress,
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
    progress.advanced(500)
    progress.evaluated({"kind": "evaluation", "step": 400, "metric": "map_at_r", "map_at_r": 0.512})
    progress.evaluated({"kind": "evaluation", "step": 500, "metric": "map_at_r", "map_at_r": 0.498})
    progress.warned("collapse: [bold]lower[/bold] the learning rate")
    progress.finished()
    progress.finished()


def test_a_step_is_described_by_the_figures_of_its_record():
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


def test_a_warning_is_shown_verbatim():
    console = terminal()

    run_through(BarProgress(console))

    assert "collapse: [bold]lower[/bold] the learning rate" in written(console)


def test_the_panel_restores_the_cursor():
    console = terminal()

    run_through(BarProgress(console))

    assert written(console).rindex("\x1b[?25h") > written(console).rindex("\x1b[?25l")


def test_a_line_appears_every_ten_seconds_of_training_and_at_evaluations():
    console, clock = plain_console(), Clock(0.0)
    progress = LineProgress(console, clock=clock)

    progress.started(1000, 0)
    for step in range(1, 51):
        clock.seconds = step * 0.5
        if step % 5 == 0:
            progress.step({"kind": "step", "step": step, "loss": 0.5})
        progress.advanced(step)
    progress.evaluated({"kind": "evaluation", "step": 50, "metric": "recall_at_1", "recall_at_1": 0.5})

    assert written(console).splitlines() == [
        "training from step 0 to 1,000",
        "step 20/1,000 · 2.0 steps/s · 8.2 min left · loss 0.5",
        "step 40/1,000 · 2.0 steps/s · 8.0 min left · loss 0.5",
        "step 50/1,000 · validation recall@1 0.500 (best 0.500 at step 50)",
    ]


def test_slow_steps_are_shown_between_logged_steps():
    console, clock = plain_console(), Clock(0.0)
    progress = LineProgress(console, clock=clock)

    progress.started(100, 0)
    for step in (1, 2):
        clock.seconds += 12
        progress.advanced(step)

    assert written(console).splitlines()[1:] == [
        "step 1/100 · 0.1 steps/s · 19.8 min left",
        "step 2/100 · 0.1 steps/s · 19.6 min left",
    ]


def test_every_stage_prints_a_line_every_ten_seconds_with_rate_and_time_left():
    console, clock = plain_console(), Clock(0.0)
    progress = LineProgress(console, clock=clock)

    for stage, seconds_per_image in (("Reading", 1 / 64), ("Decoding", 1 / 8), ("Computing features", 1 / 2)):
        for done in range(1, 301):
            clock.seconds += seconds_per_image
            progress.stage(stage, done, 300)

    lines = written(console).splitlines()
    assert lines[:5] == [
        "decoding 43/300 · 8.0/s · 0.5 min left",
        "decoding 123/300 · 8.0/s · 0.4 min left",
        "decoding 203/300 · 8.0/s · 0.2 min left",
        "decoding 283/300 · 8.0/s · 0.0 min left",
        "computing features 16/300 · 2.0/s · 2.4 min left",
    ]
    assert len(lines) == 4 + 15


def test_a_first_image_that_takes_long_is_shown():
    console, clock = plain_console(), Clock(0.0)
    progress = LineProgress(console, clock=clock)

    clock.seconds = 40
    progress.stage("Embedding", 256, 512)

    assert written(console) == "embedding 256/512 · 6.4/s · 0.7 min left\n"


def test_an_evaluation_within_training_does_not_count_as_slow_steps():
    console, clock = plain_console(), Clock(0.0)
    progress = LineProgress(console, clock=clock)

    progress.started(100, 0)
    for step in range(1, 6):
        clock.seconds += 1
        progress.advanced(step)
    for done in range(1, 31):
        clock.seconds += 1
        progress.stage("Embedding", done, 30)
    for step in range(6, 16):
        clock.seconds += 1
        progress.advanced(step)

    assert written(console).splitlines()[1:] == [
        "embedding 5/30 · 1.0/s · 0.4 min left",
        "embedding 15/30 · 1.0/s · 0.2 min left",
        "embedding 25/30 · 1.0/s · 0.1 min left",
        "step 10/100 · 1.0 steps/s · 1.5 min left",
    ]


def test_each_line_is_flushed_at_once():
    class Log(io.StringIO):
        flushed = ""

        def flush(self):
            super().flush()
            self.flushed = self.getvalue()

    log, clock = Log(), Clock(0.0)
    progress = LineProgress(Console(file=log, force_terminal=False), clock=clock)

    clock.seconds = 11
    progress.stage("Decoding", 11, 100)

    assert log.flushed == "decoding 11/100 · 1.0/s · 1.5 min left\n"


def test_a_terminal_shows_a_bar_for_each_stage_and_one_panel_for_training():
    console = terminal()
    progress = BarProgress(console)

    progress.stage("Decoding", 1, 4)
    progress.stage("Computing features", 2, 4)
    progress.started(1000, 0)
    progress.stage("Embedding", 3, 4)
    progress.advanced(7)
    progress.finished()
    progress.stage("Embedding", 3, 4)
    progress.finished()

    text = written(console)
    for part in ("Decoding", "Computing features", "–/s", "embedding 3/4", "7/1000", "Embedding"):
        assert part in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_lines_are_neither_wrapped_nor_styled():
    console = plain_console(width=20)

    run_through(LineProgress(console))

    lines = written(console).splitlines()
    assert "warning: collapse: [bold]lower[/bold] the learning rate" in lines
    assert "\x1b" not in written(console)


def test_without_progress_the_time_left_is_unknown():
    console, clock = plain_console(), Clock(0.0)
    progress = LineProgress(console, clock=clock)

    progress.started(10, 5)
    clock.seconds = 11
    progress.advanced(5)

    assert "time left unknown" in written(console)


@pytest.mark.parametrize(("console", "expected"), [(terminal(), BarProgress), (plain_console(), LineProgress)])
def test_terminals_get_the_panel_and_pipes_get_lines(console, expected):
    assert isinstance(choose_progress(console), expected)
