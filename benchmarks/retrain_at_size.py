"""Retrain on many tiny images over HTTP while searches are answered, and report memory, failures and latencies.

    python benchmarks/retrain_at_size.py [--images 100000] [--classes 10000] [--folder DIR] [--json FILE]

Draws the images (two catalogue images per class, the rest examples), imports them, publishes a release of a small
network with random weights, starts `akin serve` and `akin worker`, requests a retrain that is always promoted, and
searches until it has ended. The network is small and images have few augmented views, so that memory is measured and
not arithmetic; every other setting is that of preset `head`. Memory is that of the worker and its training process
together, per step: resident memory, and the part of it that the system cannot drop (anonymous memory).
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from embedding.checkpoint import save_checkpoint
from embedding.model import Architecture, create_model
from service.catalogue.importing import import_path
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.releases.build import build_release
from service.serving.inference import run_in_own_thread
from service.web.server import address_of, listen

KEY = "retrain-at-size-0123456789"
_CATALOGUE_IMAGES = 2  # per class
_SIZE = 24  # pixels
_OVERRIDES = (
    "network.embedding_dim=128", "augmentation.views=1", "augmentation.catalogue_views=2",
    "augmentation.catalogue_scenes=0", "steps=300",
)  # fmt: skip
_SAMPLE_SECONDS = 0.2
_SEARCH_PAUSE_SECONDS = 0.05
_PROC = Path("/proc")


@dataclass(slots=True)
class Step:
    """What was measured during one step of the operation."""

    seconds: float = 0.0
    resident_mib: float = 0.0
    anonymous_mib: float = 0.0
    training_mib: float = 0.0  # resident, of the training process and what it started
    num_searches: int = 0
    latencies: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Figures:
    """The measurements of a run."""

    num_images: int
    num_classes: int
    draw_seconds: float = 0.0
    import_seconds: float = 0.0
    retrain_seconds: float = 0.0
    state: str = ""
    steps: dict[str, Step] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--set", action="append", default=[], help="a setting of the training, such as steps=200")
    parser.add_argument("--folder", type=Path, help="keep images and installation here, and use them again")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if arguments.images < 3 * arguments.classes:
        parser.error("give at least three images per class: two of the catalogue and an example")
    with tempfile.TemporaryDirectory() as temporary:
        figures = run(arguments.folder or Path(temporary), arguments)
    report(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    if figures.failures or figures.state != "succeeded":
        raise SystemExit(1)


def run(folder: Path, arguments: argparse.Namespace) -> Figures:
    """Prepare the installation unless the folder has it, then retrain and measure."""
    settings = Settings(home=folder / "home", device="cpu")
    figures = Figures(arguments.images, arguments.classes)
    if not (folder / "ready").exists():
        prepare(folder, settings, figures)
        (folder / "ready").touch()
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        started("serve", settings, folder) as (_, address),
        started("worker", settings, folder) as (worker, _),
        httpx.Client(base_url=address, headers=headers, timeout=60) as client,
    ):
        wait_until_ready(client)
        retrain(client, worker.pid, folder, arguments.set, figures)
    return figures


def prepare(folder: Path, settings: Settings, figures: Figures) -> None:
    """Draw and import the images, and publish a release."""
    start = time.perf_counter()
    table = draw(folder / "images", figures.num_images, figures.num_classes)
    figures.draw_seconds = time.perf_counter() - start
    print(f"drew {figures.num_images:,} images in {figures.draw_seconds:.0f} s", flush=True)
    torch.manual_seed(0)
    model, preprocessing = create_model(Architecture("conv4"), pretrained=False)
    save_checkpoint(folder / "checkpoint", model, preprocessing)
    with open_installation(settings) as installation:
        start = time.perf_counter()
        import_path(installation, table)
        figures.import_seconds = time.perf_counter() - start
        print(f"imported them in {figures.import_seconds:.0f} s", flush=True)
        run_in_own_thread(lambda: build_release(installation, checkpoint=folder / "checkpoint"))


def draw(folder: Path, num_images: int, num_classes: int) -> Path:
    """Write images of one colour pattern per class, with noise, and a table that describes them."""
    rng = np.random.default_rng(0)
    lines = ["image,product_id,role"]
    for number in range(num_images):
        label, place = number % num_classes, number // num_classes
        if label % 1000 == 0:
            (folder / f"{place}-{label // 1000}").mkdir(parents=True, exist_ok=True)
        pattern = np.random.default_rng(label).integers(32, 224, (4, 4, 3))
        pixels = np.kron(pattern, np.ones((_SIZE // 4, _SIZE // 4, 1))) + rng.integers(-30, 31, (_SIZE, _SIZE, 3))
        name = f"{place}-{label // 1000}/{label}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name, compress_level=1)
        role = "catalogue" if place < _CATALOGUE_IMAGES else "example"
        lines.append(f"{name},product-{label},{role}")
    table = folder / "catalogue.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


@contextmanager
def started(command: str, settings: Settings, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run `akin serve` or `akin worker`; at the end it is terminated."""
    environment = {**os.environ, "AKIN_HOME": str(settings.home), "AKIN_ADMIN_KEY": KEY, "AKIN_DEVICE": "cpu"}
    arguments, address = [command], ""
    if command == "serve":
        with listen("127.0.0.1", 0) as free:
            address, port = address_of(free), free.getsockname()[1]
        arguments += ["--port", str(port)]
    with (folder / f"{command}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli.main", *arguments], env=environment, stderr=log, stdout=log
        )
        try:
            yield process, address
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit("the server did not become ready; see serve.log")
        time.sleep(0.5)


def retrain(client: httpx.Client, worker: int, folder: Path, overrides: list[str], figures: Figures) -> None:
    """Request a retrain and measure until it has ended."""
    request = {
        "base": "current",
        "preset": "head",
        "overrides": [*_OVERRIDES, *overrides],
        "gate": {"force": True, "force_reason": "benchmark"},
    }
    response = client.post("/v1/admin/retrain", json=request)
    response.raise_for_status()
    operation_id = response.json()["operation_id"]
    current = [""]
    is_over = threading.Event()
    threads = [
        threading.Thread(target=sample_memory, args=(worker, current, figures, is_over)),
        threading.Thread(target=search, args=(str(client.base_url), folder, current, figures, is_over)),
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    while True:
        operation = client.get(f"/v1/operations/{operation_id}").json()
        current[0] = stage_of(operation)
        if operation["state"] not in ("queued", "running"):
            break
        time.sleep(_SAMPLE_SECONDS)
    is_over.set()
    for thread in threads:
        thread.join()
    figures.retrain_seconds = time.perf_counter() - start
    figures.state = operation["state"]
    if operation["error"]:
        figures.failures.append(f"{operation['error']['code']}: {operation['error']['detail']}")
    figures.result = {name: operation["result"].get(name) for name in ("snapshot", "evaluation_set", "candidate")}


def stage_of(operation: dict[str, Any]) -> str:
    """Return the step of an operation; training also has stages."""
    step = (operation["step"] or "queued").rstrip("0123456789").rstrip("-")
    progress = operation["progress"]
    return f"{step}: {progress['stage']}" if step == "train" and progress else step


def sample_memory(worker: int, current: list[str], figures: Figures, is_over: threading.Event) -> None:
    """Record the largest memory of the worker and its descendants in each step."""
    before = time.perf_counter()
    while not is_over.is_set():
        step = figures.steps.setdefault(current[0], Step())
        processes = [worker, *descendants_of(worker)]
        memory = [memory_of(process) for process in processes]
        step.resident_mib = max(step.resident_mib, sum(resident for resident, _ in memory))
        step.anonymous_mib = max(step.anonymous_mib, sum(anonymous for _, anonymous in memory))
        step.training_mib = max(step.training_mib, sum(resident for resident, _ in memory[1:]))
        moment = time.perf_counter()
        step.seconds += moment - before
        before = moment
        time.sleep(_SAMPLE_SECONDS)


def descendants_of(process: int) -> list[int]:
    found = [process]
    for ancestor in found:
        for thread in _PROC.glob(f"{ancestor}/task/*/children"):
            try:
                found += [int(child) for child in thread.read_text().split()]
            except OSError:
                continue
    return found[1:]


def memory_of(process: int) -> tuple[float, float]:
    """Return resident and anonymous memory in MiB; zeros if the process has ended."""
    try:
        lines = (_PROC / str(process) / "status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("Rss", "VmRSS"))}
    return int(values.get("VmRSS", 0)) / 1024, int(values.get("RssAnon", 0)) / 1024


def search(address: str, folder: Path, current: list[str], figures: Figures, is_over: threading.Event) -> None:
    """Search one image after the other; anything but an answer is a failure."""
    images = [path.read_bytes() for path in sorted((folder / "images" / "0-0").glob("*.png"))[:200]]
    number = 0
    with httpx.Client(base_url=address, timeout=60) as client:
        while not is_over.is_set():
            number += 1
            start = time.perf_counter()
            try:
                response = client.post("/search", params={"k": 10}, files={"image": images[number % len(images)]})
            except httpx.HTTPError as error:
                figures.failures.append(repr(error))
                continue
            if response.status_code != 200 or not response.json()["hits"]:
                figures.failures.append(f"{response.status_code}: {response.text[:200]}")
            step = figures.steps.setdefault(current[0], Step())
            step.latencies.append(1000 * (time.perf_counter() - start))
            step.num_searches += 1
            time.sleep(_SEARCH_PAUSE_SECONDS)


def report(figures: Figures) -> None:
    """Print one line per step."""
    size = f"{figures.num_images:,} images of {figures.num_classes:,} classes"
    print(f"\n{size}: {figures.state}, {figures.retrain_seconds:.0f} s")
    print(
        f"{'step':34s} {'seconds':>8s} {'MiB':>7s} {'anonymous':>10s} {'training':>9s} {'searches':>9s} {'p99 ms':>7s}"
    )
    for name, step in figures.steps.items():
        p99 = f"{np.quantile(step.latencies, 0.99):.0f}" if step.latencies else ""
        print(
            f"{name:34s} {step.seconds:8.1f} {step.resident_mib:7.0f} {step.anonymous_mib:10.0f} "
            f"{step.training_mib:9.0f} {step.num_searches:9d} {p99:>7s}"
        )
    latencies = [latency for step in figures.steps.values() for latency in step.latencies]
    num_searches = sum(step.num_searches for step in figures.steps.values())
    peak = max(step.resident_mib for step in figures.steps.values())
    print(f"peak {peak:.0f} MiB; {len(figures.failures)} failures of {num_searches} searches", end="")
    print(f", p50 {np.quantile(latencies, 0.5):.0f} ms, p99 {np.quantile(latencies, 0.99):.0f} ms")
    for failure in figures.failures[:5]:
        print(f"  {failure}")


if __name__ == "__main__":
    main()
