"""Check a GPU machine: the `gpu` tests, a training step, embedding and a short fine-tuning, in one table.

    make gpu-check                              # with AKIN_GPU_CHECK_DATA, or ARGS='--data FOLDER', on real images
    python -m benchmarks.gpu_check --device cpu # the same on a CPU

Needs torch, torchvision, numpy, Pillow, safetensors, scikit-learn, scipy, pyarrow, matplotlib and tensorboard, but
neither an installation of Akin nor network access nor faiss. Each part runs in a separate process, so that a failure or
a hang affects no other part. The exit status is 1 if a part or a test failed, and 2 without the device.
"""

import argparse
import contextlib
import importlib.util
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.gpu_check.report import FAILED, format_table, has_failed, read_json, write_json
from benchmarks.gpu_check.settings import Row, Settings

ROOT = Path(__file__).parents[2]
Measure = Callable[[Settings, float], Iterator[Row]]

# The parts in order, each with its share of the time that is left when it starts.
PARTS = {"gpu-tests": 0.35, "training-step": 0.25, "embedding": 0.15, "fine-tuning": 1.0}
_NEEDED = (
    "torch", "torchvision", "numpy", "PIL", "safetensors", "sklearn", "scipy", "pyarrow", "matplotlib", "tensorboard",
)  # fmt: skip
# Seconds between the deadline of a part and its being killed, and reserved at the end of the check.
_GRACE_SECONDS = 20.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts and return the exit status; with `--only`, as a child process, run one part."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(argv)
    if arguments.only:
        settings = _settings(arguments, arguments.work)
        deadline = time.monotonic() + arguments.seconds
        write_json(arguments.rows, list(_measure_of(arguments.only)(settings, deadline)))
        return 0
    if problem := what_is_missing(arguments.device):
        print(problem, file=sys.stderr)
        return 2
    rows = check(argv, arguments)
    print("\n" + format_table(rows))
    if arguments.json:
        write_json(arguments.json, rows)
    return 1 if has_failed(rows) else 0


def check(argv: Sequence[str], arguments: argparse.Namespace) -> list[Row]:
    """Run the parts one after the other and return their rows."""
    started = time.monotonic()
    end = started + arguments.minutes * 60 - _GRACE_SECONDS
    rows = list(machine_rows(arguments.device))
    with tempfile.TemporaryDirectory(prefix="akin-gpu-check-") as folder:
        for part in arguments.parts or PARTS:
            # The last part may use all of the remaining time.
            share = 1.0 if part == (arguments.parts or [*PARTS])[-1] else PARTS[part]
            seconds = share * (end - time.monotonic())
            print(f"{part}: {seconds:.0f} s at most", flush=True)
            work = Path(folder) / part
            work.mkdir()
            rows += run_part(argv, part, work, seconds)
    rows.append(Row("machine", "minutes in all", (time.monotonic() - started) / 60, "min"))
    return rows


def run_part(argv: Sequence[str], part: str, work: Path, seconds: float) -> list[Row]:
    """Run a part in a separate process, which is killed with its children some seconds after its deadline."""
    rows = work / "rows.json"
    own = [
        "--only",
        part,
        "--work",
        str(work),
        "--rows",
        str(rows),
        "--seconds",
        str(max(1.0, seconds - _GRACE_SECONDS)),
    ]
    command = [sys.executable, "-m", "benchmarks.gpu_check", *argv, *own]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return [Row(part, FAILED, f"did not finish within {seconds:.0f} s")]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status != 0 or not rows.exists():
        return [Row(part, FAILED, f"ended with status {status}; see its output above")]
    return read_json(rows)


def what_is_missing(device: str) -> str:
    """Return what the check needs and this machine lacks, as a message; empty if nothing is missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return (
            f"gpu-check needs {', '.join(missing)}, which {sys.executable} does not have; name another Python: "
            "make gpu-check PYTHON=/path/to/python"
        )
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        return (
            f"gpu-check needs an NVIDIA GPU, but torch {torch.__version__} ({built}) finds none; run it on a machine "
            "with a GPU and its driver, or try its logic here with ARGS='--device cpu'"
        )
    from embedding.errors import UnsupportedDevice
    from embedding.runtimes.network import choose_device

    try:
        choose_device(device, "float32")
    except UnsupportedDevice as error:
        return str(error)
    return ""


def machine_rows(device: str) -> Iterator[Row]:
    """Return the device and the versions."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {os.cpu_count()} cores"
    yield Row("machine", "device", name)
    if device.startswith("cuda"):
        memory = torch.cuda.get_device_properties(device).total_memory
        yield Row("machine", "memory of the device", memory / 2**20, "MiB")
    yield Row("machine", "torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    yield Row("machine", "Python", platform.python_version())


def _measure_of(part: str) -> Measure:
    """Import and return the function of a part; the parent process imports none of them."""
    if part == "gpu-tests":
        from benchmarks.gpu_check.gpu_tests import measure
    elif part == "training-step":
        from benchmarks.gpu_check.step_time import measure
    elif part == "embedding":
        from benchmarks.gpu_check.embedding_speed import measure
    else:
        from benchmarks.gpu_check.fine_tuning import measure
    return measure


def _settings(arguments: argparse.Namespace, work: Path) -> Settings:
    return Settings(
        work=work,
        device=arguments.device,
        data=arguments.data,
        weights=arguments.weights,
        network=arguments.network,
        image_size=arguments.image_size,
        classes_per_batch=arguments.classes_per_batch,
        seeds=arguments.seeds,
        steps=arguments.steps,
        max_images=arguments.max_images,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="images, a folder per class; default: synthetic ones")
    parser.add_argument("--weights", type=Path, help="weights of EfficientNet-Lite0, .pth or .safetensors")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:N or cpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of the whole check (default 8)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), help="only these parts")
    parser.add_argument("--network", default="efficientnet_lite0", help="backbone; others start from random weights")
    parser.add_argument("--image-size", type=int, default=0, help="pixels; default: the backbone's, on a CPU 96")
    parser.add_argument("--classes-per-batch", type=int, default=0, help="default 16, on a CPU 8")
    parser.add_argument("--seeds", type=int, default=3, help="fine-tuning runs of each method (default 3)")
    parser.add_argument("--steps", type=int, default=0, help="of a fine-tuning run; default: what the time allows")
    parser.add_argument("--max-images", type=int, default=3000, help="images of --data that are used (default 3000)")
    for name, kind in (("--only", str), ("--work", Path), ("--rows", Path), ("--seconds", float)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
