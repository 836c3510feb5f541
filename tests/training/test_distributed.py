"""Method test 6: two processes give the gradient of one at the same global batch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.clouds import loop_parts, weights, with_knobs
from tests.training.shapes import write_shapes
from training.config import load_preset
from training.distributed import ProcessGroup
from training.errors import InvalidConfig
from training.loop import TrainingLoop
from training.run import RunOptions, train

ROOT = Path(__file__).parents[2]
# Run by each process: a few steps over the clouds; the first one keeps the gradients and the weights.
WORKER = """
import sys
from dataclasses import replace
import torch
from tests.training.clouds import loop_parts, weights, with_knobs
from training.distributed import process_group
from training.loop import TrainingLoop
from training.process_end import end_process

torch.set_num_threads(1)
with process_group(torch.device("cpu")) as group:
    assert group.size == 2
    config = with_knobs(steps={steps}, loss={{"name": {loss!r}}}, **{knobs!r})
    parts = replace(loop_parts(config, validated=False), group=group)
    TrainingLoop(parts).run()
    gradients = [parameter.grad for parameter in [*parts.model.head.parameters(), *parts.loss.parameters()]]
    torch.save({{"gradients": gradients, "weights": weights(parts)}}, sys.argv[1] + f"/{{group.rank}}.pt")
end_process(0)
"""
KNOBS: dict[str, Any] = {
    "optimiser": {"clip_norm": 0.0},
    "projections": {"steps": 3, "pull": "coupled", "pull_weight": 0.1},
}


def torchrun(script, *arguments, timeout=240):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0", script, *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("loss", ["contrastive", "proxy_anchor"])
@pytest.mark.parametrize("steps", [1, 8])
def test_two_processes_give_the_gradient_of_one(tmp_path, loss, steps):
    """Contrastive: active pairs are counted over the whole batch. Proxy-anchor: learnt loss parameters."""
    (tmp_path / "worker.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + WORKER.format(steps=steps, loss=loss, knobs=KNOBS)
    )
    torchrun(str(tmp_path / "worker.py"), str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))

    config = with_knobs(steps=steps, loss={"name": loss}, **KNOBS)
    alone = loop_parts(config, validated=False)
    TrainingLoop(alone).run()

    assert torch.equal(first["weights"], second["weights"])
    gradients = [parameter.grad for parameter in [*alone.model.head.parameters(), *alone.loss.parameters()]]
    for ours, expected in zip(first["gradients"], gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-6, rtol=2e-4)
    torch.testing.assert_close(first["weights"], weights(alone), atol=2e-5, rtol=1e-4)


def test_the_command_trains_in_two_processes(tmp_path):
    shop = write_shapes(tmp_path / "shop")
    knobs = ["--preset", "tiny", "--steps", "20", "--set", "batches.classes_per_batch=4", "--device", "cpu"]
    knobs += ["--set", "network.freeze_batch_norm=true"]
    paths = ["--data", str(shop), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]

    torchrun("-m", "training", "train", *paths, *knobs)

    assert (tmp_path / "run" / "checkpoint" / "model.json").is_file()
    assert (tmp_path / "run" / "report.html").is_file()


def test_batches_that_cannot_be_shared_evenly_are_refused(tmp_path, monkeypatch):
    shop = write_shapes(tmp_path / "shop", per_class=3)
    config = load_preset("tiny", ["batches.classes_per_batch=3", "network.freeze_batch_norm=true"])

    class Two:
        def __enter__(self):
            return ProcessGroup(0, 2)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr("training.run.process_group", lambda _device: Two())
    with pytest.raises(InvalidConfig, match="shared evenly by 2 processes"):
        train(RunOptions(shop, tmp_path / "run", config, tmp_path / "cache", device="cpu"))


def test_shares_are_equal_and_cover_the_batch():
    shares = [ProcessGroup(rank, 4).share_of(32) for rank in range(4)]

    assert [list(range(32))[share] for share in shares] == [list(range(8 * r, 8 * r + 8)) for r in range(4)]
    assert replace(ProcessGroup(), rank=0).share_of(5) == slice(0, 5)
