"""The training commands through `akin`; `python -m training` runs the same functions."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.cli.main import main
from tests.fakes import Clock
from tests.images import png
from tests.training.shapes import write_shapes
from training.running.run import RunOutcome

QUICK = [
    "--preset", "tiny", "--steps", "8", "--set", "batches.classes_per_batch=4", "--set", "network.image_size=32",
    "--device", "cpu",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("_without_drawing")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("cli") / "shop", per_class=5)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    """Run a command; returns its exit status."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        return stopped.code or 0
    return 0


def printed_json(text):
    """Return the JSON object in the output, whatever other threads of the process log around it."""
    value, _ = json.JSONDecoder().raw_decode(text, text.index('{\n  "'))
    return value


def test_train_and_evaluate(shapes, capsys):
    assert run("train", "--data", shapes, "--out", "run", *QUICK, "--json") == 0
    trained = printed_json(capsys.readouterr().out)

    assert run("evaluate", "--checkpoint", "run/checkpoint", "--data", shapes, "--json", "--clustering") == 0
    measured = printed_json(capsys.readouterr().out)

    assert trained["status"] == "completed"
    assert measured["metrics"]["all"]["map_at_r"] == pytest.approx(trained["after"]["all"]["map_at_r"], abs=1e-6)
    assert 0 <= measured["clustering"]["nmi"] <= 1


def test_without_json_a_table_and_the_next_command_are_printed(shapes, capsys):
    assert run("train", "--data", shapes, "--out", "run", *QUICK) == 0
    shown = capsys.readouterr()

    assert "recall@1" in shown.out
    assert "next: akin index build --checkpoint run/checkpoint" in shown.out
    assert run("evaluate", "--checkpoint", "run/checkpoint", "--data", shapes, "--part", "all", "--per-class") == 0
    assert "red-disc: recall@1" in capsys.readouterr().out


def test_a_snapshot_trains_like_the_folder_it_was_taken_from(shapes):
    assert run("snapshot", "--data", shapes, "--out", "sealed") == 0

    for data, out in ((shapes, "one"), ("sealed", "two")):
        assert run("train", "--data", data, "--out", out, *QUICK) == 0

    one, two = (json.loads(Path(out, "evaluation.json").read_text()) for out in ("one", "two"))
    assert one["after"]
    assert one == two


def test_presets_are_listed_and_printed(capsys):
    assert run("presets") == 0
    assert "paper-cub" in capsys.readouterr().out

    assert run("presets", "tiny") == 0
    assert 'backbone = "conv4"' in capsys.readouterr().out


def test_a_printed_preset_is_a_configuration_file(shapes, capsys, tmp_path):
    run("presets", "tiny")
    (tmp_path / "mine.toml").write_text(capsys.readouterr().out)

    knobs = [
        "--steps",
        "2",
        "--set",
        "batches.classes_per_batch=4",
        "--set",
        "network.image_size=32",
        "--device",
        "cpu",
    ]
    assert run("train", "--data", shapes, "--out", "run", "--config", "mine.toml", *knobs) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "huge"], "there is no preset 'huge'"),
        (["--preset", "tiny", "--set", "stepz=3"], "unknown setting 'stepz'"),
        (["--preset", "tiny", "--set", "optimiser.head_learning_rate=0"], "must be above 0"),
        (["--preset", "tiny", "--config", "mine.toml"], "not both"),
        (["--config", "missing.toml"], "missing.toml: No such file"),
        (["--preset", "tiny", "--data", "nowhere"], "nowhere does not exist"),
        (["--preset", "tiny", "--resume"], "contains no run to resume"),
        (["--preset", "tiny", "--device", "cuda:7"], "cuda:7"),
        (["--preset", "tiny", "--runtime", "tvm"], "unknown runtime 'tvm'; use auto, onnxruntime or torch"),
        (["--preset", "tiny", "--set", "network.checkpoint=nowhere"], "nowhere is not an akin-checkpoint/1 directory"),
        (["--preset", "tiny", "--set", "split.unseen_share=0.99"], "unseen_share"),
    ],
)
def test_an_error_is_one_line_with_the_remedy(shapes, capsys, arguments, message):
    defaults = [] if "--data" in arguments else ["--data", shapes]

    assert run("train", *defaults, "--out", "run", *arguments) == 1

    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error:") and message in line]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part", "some"], "must be one of test, validation, all"),
        (["--ks", "0"], "--ks takes numbers above 0"),
        (["--set", "steps=3"], "only settings of the split"),
        (["--runtime", "tvm"], "unknown runtime 'tvm'; use auto, onnxruntime or torch"),
    ],
)
def test_invalid_options_of_evaluate_are_refused(shapes, capsys, arguments, message, zero_shot_checkpoint):
    assert run("evaluate", "--checkpoint", zero_shot_checkpoint, "--data", shapes, *arguments) == 1

    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("counts", "of_training", "of_evaluation"),
    [
        ([1] * 6, "each of the 6 classes has a single image", "each of the 6 classes has a single image"),
        ([4], "all 4 images are of one class", "so every search finds an image of its class"),
        ([3, 1, 1], "only 'class-0' has two or more images", "add another image to these classes"),
        ([3, 3], "add classes with two or more images", "use --part all"),
    ],
)
def test_data_that_are_too_few_are_refused_with_a_remedy(
    tmp_path, capsys, zero_shot_checkpoint, counts, of_training, of_evaluation
):
    for label, count in enumerate(counts):
        for number in range(count):
            path = tmp_path / "few" / f"class-{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png((60 * label, 50 * number, 90)))

    assert run("train", "--data", "few", "--out", "run", *QUICK) == 1
    assert of_training in capsys.readouterr().err
    assert run("evaluate", "--checkpoint", zero_shot_checkpoint, "--data", "few", "--device", "cpu") == 1
    assert of_evaluation in capsys.readouterr().err


@pytest.mark.long
def test_the_commands_run_without_the_service(shapes):
    """A bare GPU machine has no FastAPI, SQLAlchemy or faiss."""
    program = (
        "import sys\n"
        "class Absent:\n"
        "    names = {'fastapi', 'starlette', 'sqlalchemy', 'faiss', 'pydantic_settings', 'structlog', 'uvicorn'}\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in self.names or name.partition('.')[0] in ('service', 'index'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"sys.argv = ['training', 'train', '--data', {str(shapes)!r}, '--out', 'run', *{QUICK!r}]\n"
        "import runpy; runpy.run_module('training', run_name='__main__')\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=280)

    assert done.returncode == 0, done.stderr
    assert "recall@1" in done.stdout


FILE = ["--progress-file", "progress.json"]


def test_the_progress_file_follows_the_run(shapes):
    assert run("train", "--data", shapes, "--out", "run", *QUICK, "--set", "log_every=4", *FILE) == 0

    progress = json.loads(Path("progress.json").read_text())
    assert (progress["stage"], progress["done"], progress["total"]) == ("Training", 8, 8)
    assert progress["loss"] > 0


def test_the_options_for_the_worker_are_hidden(capsys):
    run("train", "--help")

    shown = capsys.readouterr().out
    assert "--resume" in shown
    assert "--progress-file" not in shown
    assert "--end-with-parent" not in shown


class StoppedTraining:
    """Replaces a training that receives signals, with these seconds after each."""

    def __init__(self, monkeypatch, seconds_between):
        self._seconds_between = seconds_between
        self._clock = Clock()
        self.num_asked = 0
        monkeypatch.setattr("training.running.run.train", self)
        monkeypatch.setattr("training.cli.time", SimpleNamespace(monotonic=self._clock))

    def __call__(self, options, hooks):
        for seconds in self._seconds_between:
            signal.raise_signal(signal.SIGINT)
            assert hooks.should_stop()
            self.num_asked += 1
            self._clock.seconds += seconds
        return RunOutcome(options.out, "interrupted", 0, None, None, {}, {}, ())


def test_signals_within_a_second_are_one_request_to_stop(shapes, monkeypatch):
    training = StoppedTraining(monkeypatch, [0, 0.9, 0])

    assert run("train", "--data", shapes, "--out", "run", *QUICK) == 0
    assert training.num_asked == 3


def test_a_second_request_ends_the_process_at_once(shapes, monkeypatch):
    training = StoppedTraining(monkeypatch, [1.1, 0])

    assert run("train", "--data", shapes, "--out", "run", *QUICK) != 0
    assert training.num_asked == 1
