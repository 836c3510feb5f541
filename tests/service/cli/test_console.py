"""Progress of commands on a terminal and elsewhere."""

import io
import re

from rich.console import Console

from embedding.stages import StageReport, StageWork
from service.cli.console import progress_bar


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


class FlushedStream(io.StringIO):
    """A stream that counts flushes."""

    def __init__(self):
        super().__init__()
        self.num_flushes = 0

    def flush(self):
        self.num_flushes += 1


def test_off_a_terminal_progress_is_a_line_every_ten_seconds_with_rate_and_time_left():
    stream, clock = FlushedStream(), Clock()
    console = Console(file=stream, force_terminal=False, width=20)

    with progress_bar("Importing", console=console, clock=clock) as move:
        for done in range(1, 301):  # two images a second
            clock.seconds += 0.5
            move(done, 300)

    lines = stream.getvalue().splitlines()
    assert len(lines) == 15
    assert lines[0] == "importing images 20/300 · 2.0/s · 2.3 min left"
    assert stream.num_flushes >= len(lines)


def test_a_short_command_prints_no_progress():
    stream, clock = io.StringIO(), Clock()

    with progress_bar("Importing", console=Console(file=stream), clock=clock) as move:
        clock.seconds += 1.0
        move(300, 300)

    assert stream.getvalue() == ""


def test_on_a_terminal_progress_is_a_bar():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, force_interactive=True, color_system=None, width=100)

    with progress_bar("Labelling", "rows", console=console) as move:
        move(2, 4)

    assert "Labelling" in stream.getvalue()
    assert "2/4 rows" in stream.getvalue()


def test_off_a_terminal_a_detail_ends_the_line():
    stream, clock = io.StringIO(), Clock()

    with progress_bar("Embedding", console=Console(file=stream, width=20), clock=clock) as move:
        clock.seconds += 10.0
        move(1234, 5000, StageReport(decode=StageWork(160, 1.0), network=StageWork(175, 1.0)))

    assert stream.getvalue() == "embedding images 1,234/5,000 · 123.4/s · 0.5 min left · decode 160/s  network 175/s\n"


def test_on_a_terminal_a_detail_is_a_line_below_the_bar():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, force_interactive=True, color_system=None, width=80)

    with progress_bar("Embedding", console=console) as move:
        move(1234, 5000, StageReport(decode=StageWork(160, 1.0), network=StageWork(175, 1.0)))

    assert re.search(r"1234/5000 images.*\n  decode 160/s  network 175/s\n", stream.getvalue())


def test_a_detail_that_is_missing_adds_nothing():
    stream, clock = io.StringIO(), Clock()

    with progress_bar("Drawing", console=Console(file=stream, width=20), clock=clock) as move:
        clock.seconds += 10.0
        move(10, 20, None)

    assert stream.getvalue() == "drawing images 10/20 · 1.0/s · 0.2 min left\n"
