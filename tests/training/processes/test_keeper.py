"""The keeper with real processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.training.keeping import ROOT, WAIT_SECONDS, Starter, is_running, kill, pid_in, processes_with, wait_until
from tests.training.shapes import write_shapes
from training.report.run_folder import read_run_table

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's prctl"),
    pytest.mark.long,
]

# Writes its process id and the signals it receives; ends on SIGTERM unless its name says "stubborn".
CHILD = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
name = sys.argv[2] if len(sys.argv) > 2 else "child"
def stop(number, frame):
    with (folder / f"{name}.signals").open("a") as file:
        file.write(f"{number}\\n")
    if "stubborn" not in name:
        sys.exit(7)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
(folder / f"{name}.pid").write_text(f"{os.getpid()}\\n")
deadline = time.monotonic() + 600
while time.monotonic() < deadline:
    time.sleep(0.05)
"""
# Starts a process in its own session, like torchrun, and then behaves like CHILD.
PARENT = f"""
import subprocess, sys
CHILD = {CHILD!r}
subprocess.Popen([sys.executable, "-c", CHILD, sys.argv[1], sys.argv[2] + "-grandchild"], start_new_session=True)
exec(CHILD)
"""

# Ignores SIGTERM.
WAITING = """
import pathlib, signal, sys, time
from training.processes.launcher import watch_launcher
signal.signal(signal.SIGTERM, lambda number, frame: None)
watch_launcher(grace_seconds=0.5)
pathlib.Path(sys.argv[1]).write_text("ready")
deadline = time.monotonic() + 600
while time.monotonic() < deadline:
    time.sleep(0.05)
"""


@pytest.fixture
def start():
    starter = Starter()
    yield starter
    starter.close()


def python(code, *arguments):
    return [sys.executable, "-c", code, *map(str, arguments)]


def signals_of(folder, name="child"):
    path = folder / f"{name}.signals"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize(("code", "status"), [("pass", 0), ("import sys; sys.exit(3)", 3)])
def test_the_exit_status_equals_that_of_the_command(start, code, status):
    assert start.keeper(*python(code)).wait(WAIT_SECONDS) == status


def test_a_command_that_was_killed_has_the_status_of_its_signal(start):
    killing_itself = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"

    assert start.keeper(*python(killing_itself)).wait(WAIT_SECONDS) == 128 + signal.SIGKILL


def test_output_and_errors_of_the_command_pass_through(start):
    keeper = start.keeper(
        *python("import sys; print('out'); print('err', file=sys.stderr); print(repr(sys.stdin.read()))"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    out, err = keeper.stdout.read(), keeper.stderr.read()

    assert (keeper.wait(WAIT_SECONDS), out, err) == (0, "out\n''\n", "err\n")


@pytest.mark.parametrize(("command", "status"), [(["/no/such/program"], 127), ([str(ROOT)], 126)])
def test_a_command_that_cannot_be_run_is_named(start, command, status):
    keeper = start.keeper(*command, stderr=subprocess.PIPE)

    assert keeper.wait(WAIT_SECONDS) == status
    assert command[0] in keeper.stderr.read()


@pytest.mark.parametrize("arguments", [[], ["--grace", "-1", "--", "true"], ["--grace", "nan", "--", "true"]])
def test_an_invalid_command_line_is_refused(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "training.processes.keeper", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )

    assert done.returncode == 2
    assert "give a command after --" in done.stderr


def test_a_command_ends_when_its_worker_is_killed(start, tmp_path):
    worker, keeper = start.worker(*python(CHILD, tmp_path))
    child = pid_in(tmp_path / "child.pid")

    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()

    wait_until(lambda: not is_running(keeper) and not is_running(child))
    assert signals_of(tmp_path) == [signal.SIGTERM]


def test_input_from_the_worker_does_not_stop_the_command(start, tmp_path):
    keeper = start.keeper(*python(CHILD, tmp_path))
    pid_in(tmp_path / "child.pid")

    keeper.stdin.write("x" * 100_000)
    keeper.stdin.flush()
    time.sleep(0.3)
    is_going_on = keeper.poll() is None
    keeper.stdin.close()

    assert is_going_on
    assert keeper.wait(WAIT_SECONDS) == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_keeper_stops_the_command_once(start, tmp_path, number):
    keeper = start.keeper(*python(CHILD, tmp_path))
    child = pid_in(tmp_path / "child.pid")

    keeper.send_signal(number)
    keeper.send_signal(number)

    assert keeper.wait(WAIT_SECONDS) == 7
    assert signals_of(tmp_path) == [signal.SIGTERM]
    assert not is_running(child)


def test_the_command_has_its_own_process_group(start, tmp_path):
    """Ctrl+C on the worker's terminal signals the worker's group only; the worker decides."""
    keeper = start.keeper(*python(CHILD, tmp_path))
    child = pid_in(tmp_path / "child.pid")
    groups = os.getpgid(child), os.getpgid(keeper.pid)
    keeper.stdin.close()
    keeper.wait(WAIT_SECONDS)

    assert groups[0] == child != groups[1]


def test_a_command_that_ignores_the_request_is_killed_after_the_grace(start, tmp_path):
    keeper = start.keeper(*python(CHILD, tmp_path, "stubborn"), grace=0.5)
    child = pid_in(tmp_path / "stubborn.pid")

    asked_at = time.monotonic()
    keeper.stdin.close()
    status = keeper.wait(WAIT_SECONDS)

    assert status == 128 + signal.SIGKILL
    assert time.monotonic() - asked_at >= 0.5
    assert signals_of(tmp_path, "stubborn") == [signal.SIGTERM]
    assert not is_running(child)


@pytest.mark.parametrize("name", ["child", "stubborn"])
def test_processes_outside_the_group_end_too(start, tmp_path, name):
    keeper = start.keeper(*python(PARENT, tmp_path, name), grace=1.0)
    processes = [pid_in(tmp_path / f"{who}.pid") for who in (name, f"{name}-grandchild")]
    assert os.getpgid(processes[0]) != os.getpgid(processes[1])

    keeper.stdin.close()
    keeper.wait(WAIT_SECONDS)

    assert [process for process in processes if is_running(process)] == []


def test_descendants_of_a_killed_command_get_sigterm_first(start, tmp_path):
    """Like the processes of a killed torchrun, which have a state to save."""
    keeper = start.keeper(*python(PARENT, tmp_path, "child"))
    child, grandchild = (pid_in(tmp_path / f"{who}.pid") for who in ("child", "child-grandchild"))

    os.kill(child, signal.SIGKILL)

    assert keeper.wait(WAIT_SECONDS) == 128 + signal.SIGKILL
    assert signals_of(tmp_path, "child-grandchild") == [signal.SIGTERM]
    assert not is_running(grandchild)


def test_killing_the_keeper_ends_the_command(start, tmp_path):
    keeper = start.keeper(*python(CHILD, tmp_path))
    child = pid_in(tmp_path / "child.pid")

    keeper.kill()
    keeper.wait()

    try:
        wait_until(lambda: not is_running(child))
        assert signals_of(tmp_path) == [signal.SIGTERM]
    finally:
        kill(child)


def test_the_keeper_imports_no_library():
    program = (
        "import sys, training.processes.keeper; "
        "print([name for name in ('numpy', 'torch', 'typer', 'rich', 'embedding') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == "[]"


def training_command(tmp_path, *, torchrun=False):
    """A training that runs for long and saves its state often."""
    shop = write_shapes(tmp_path / "shop")
    knobs = ["steps=100000", "save_every=10", "log_every=5", "evaluation.every=100000", "split.validation_share=0"]
    knobs += ["batches.classes_per_batch=4", "network.freeze_batch_norm=true", "split.validation_example_share=0"]
    sets = [part for knob in knobs for part in ("--set", knob)]
    launcher = ["-m", "training"]
    if torchrun:
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
        launcher += ["--rdzv-endpoint=127.0.0.1:0", "-m", "training"]
    paths = ["--data", shop, "--out", tmp_path / "run", "--cache", tmp_path / "cache"]
    files = ["--progress-file", tmp_path / "progress.json", "--end-with-parent"]
    return [sys.executable, *launcher, "train", *paths, "--preset", "tiny", "--device", "cpu", *sets, *files]


def trains(tmp_path):
    """Tell whether a run has saved a state."""
    return any((tmp_path / "run" / "state").glob("step-*.pt"))


def test_a_training_saves_its_state_when_its_worker_is_killed(start, tmp_path):
    worker, keeper = start.worker(*training_command(tmp_path))
    wait_until(lambda: trains(tmp_path))

    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()

    wait_until(lambda: not is_running(keeper))
    assert processes_with(str(tmp_path)) == []
    assert read_run_table(tmp_path / "run", "run_card.json")["status"] == "interrupted"


def test_a_training_saves_its_state_when_its_keeper_is_killed(start, tmp_path):
    keeper = start.keeper(*training_command(tmp_path))
    wait_until(lambda: trains(tmp_path))

    keeper.kill()
    keeper.wait()

    wait_until(lambda: processes_with(str(tmp_path / "run")) == [])
    assert read_run_table(tmp_path / "run", "run_card.json")["status"] == "interrupted"


@pytest.mark.parametrize("end", ["worker", "keeper", "torchrun"])
def test_every_process_of_torchrun_ends_whichever_process_is_killed(start, tmp_path, end):
    worker, keeper = start.worker(*training_command(tmp_path, torchrun=True))
    try:
        wait_until(lambda: trains(tmp_path))
        launcher = min(
            process for process in processes_with("torch.distributed.run") if process not in (worker.pid, keeper)
        )

        os.kill({"worker": worker.pid, "keeper": keeper, "torchrun": launcher}[end], signal.SIGKILL)

        wait_until(lambda: [p for p in processes_with(str(tmp_path)) if p != worker.pid] == [])
        assert read_run_table(tmp_path / "run", "run_card.json")["status"] == "interrupted"
        assert json.loads((tmp_path / "progress.json").read_text())["stage"] == "Training"
    finally:
        for process in processes_with(str(tmp_path)):
            kill(process)


def torchrun_by_hand(tmp_path):
    """Start torchrun as people do, without a keeper and without a hidden option."""
    command = [*map(str, training_command(tmp_path, torchrun=True))]
    command.remove("--end-with-parent")
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("moment", ["starting", "training"])
def test_killing_torchrun_ends_its_processes(tmp_path, moment):
    launcher = torchrun_by_hand(tmp_path)
    is_reached = {"starting": lambda: len(processes_with(str(tmp_path))) == 3, "training": lambda: trains(tmp_path)}
    try:
        wait_until(is_reached[moment])
        processes = processes_with(str(tmp_path))

        launcher.kill()
        launcher.wait()

        wait_until(lambda: processes_with(str(tmp_path)) == [])
        assert len(processes) == 3
        if moment == "training":
            assert read_run_table(tmp_path / "run", "run_card.json")["status"] == "interrupted"
    finally:
        for process in processes_with(str(tmp_path)):
            kill(process)


def test_a_process_that_waits_for_another_ends_after_the_grace(tmp_path):
    """It ignores SIGTERM, like one that waits for a process which does not answer."""
    starter = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])"
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "1"}
    parent = subprocess.Popen(python(starter, WAITING, tmp_path / "ready"), cwd=ROOT, env=environment)
    wait_until(lambda: (tmp_path / "ready").exists())

    parent.kill()
    parent.wait()

    wait_until(lambda: processes_with(str(tmp_path / "ready")) == [])


def test_training_does_not_start_without_its_parent(tmp_path):
    """It is started by a process that ends at once, so that its parent is the first process."""
    command = [*map(str, training_command(tmp_path))]
    program = f"import subprocess; subprocess.Popen({command!r}, stderr=open({str(tmp_path / 'err')!r}, 'w'))"

    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=WAIT_SECONDS)

    wait_until(lambda: "has ended" in (tmp_path / "err").read_text())
    wait_until(lambda: processes_with(str(tmp_path / "run")) == [])
    assert not (tmp_path / "run").exists()


def test_a_second_signal_kills_at_once(start, tmp_path):
    """A second request does not wait for the state to be saved; signals within a second are one request."""
    keeper = start.keeper(*python(CHILD, tmp_path, "stubborn"), grace=600)
    child = pid_in(tmp_path / "stubborn.pid")
    keeper.send_signal(signal.SIGTERM)
    keeper.send_signal(signal.SIGTERM)
    wait_until(lambda: signals_of(tmp_path, "stubborn") == [signal.SIGTERM])
    time.sleep(1.2)
    still_there = is_running(child)

    keeper.send_signal(signal.SIGTERM)

    assert still_there
    assert keeper.wait(WAIT_SECONDS) == 128 + signal.SIGKILL
    assert not is_running(child)
