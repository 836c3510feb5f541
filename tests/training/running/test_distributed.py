"""Method test 6: two processes compute the gradient of one process with the same global batch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.training.clouds import loop_parts, weights, with_knobs
from tests.training.shapes import write_shapes
from training.config import load_preset
from training.errors import InvalidConfig
from training.loop import TrainingLoop
from training.losses.pairs import all_pairs
from training.running.distributed import ProcessGroup
from training.running.run import RunOptions, train

ROOT = Path(__file__).parents[3]
# Run by each process: for each loss a few steps over the clouds; it saves the gradients and the weights.
WORKER = """
import sys
from dataclasses import replace
import torch
from tests.training.clouds import loop_parts, weights, with_knobs
from training.running.distributed import process_group
from training.loop import TrainingLoop
from training.processes.process_end import end_process

torch.set_num_threads(1)
with process_group(torch.device("cpu")) as group:
    assert group.size == 2
    for loss in {losses!r}:
        config = with_knobs(steps=8, loss={{"name": loss}}, **{knobs!r})
        parts = replace(loop_parts(config, validated=False), group=group)
        TrainingLoop(parts).run()
        gradients = [parameter.grad for parameter in [*parts.model.head.parameters(), *parts.loss.parameters()]]
        torch.save({{"gradients": gradients, "weights": weights(parts)}}, sys.argv[1] + f"/{{loss}}-{{group.rank}}.pt")
end_process(0)
"""
# Contrastive counts active pairs over the whole batch; proxy-anchor has parameters of its own.
LOSSES = ["contrastive", "proxy_anchor"]
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


@pytest.mark.parametrize("loss", LOSSES)
def test_averaged_gradients_of_the_shares_are_the_gradient_of_the_batch(monkeypatch, loss):
    """Two ranks in one process, whose gather exchanges embeddings as gloo would."""
    parts = loop_parts(with_knobs(loss={"name": loss}), validated=False)
    batch = F.normalize(torch.randn(12, parts.model.embedding_dim), dim=1)
    weight = torch.randn(parts.model.embedding_dim, parts.model.embedding_dim, requires_grad=True)
    labels = torch.arange(4).repeat_interleave(3)

    def gradients(rank, size):
        group = ProcessGroup(rank, size)
        embeddings = F.normalize(batch @ weight, dim=1)
        shares = [embeddings[ProcessGroup(r, size).share_of(12)] for r in range(size)]

        def all_gather(gathered, _own):
            for target, share in zip(gathered, shares, strict=True):
                target.copy_(share.detach())

        monkeypatch.setattr("training.running.distributed.dist.all_gather", all_gather)
        gathered = group.gather(shares[rank])
        torch.testing.assert_close(gathered.detach(), embeddings.detach())
        return torch.autograd.grad(parts.loss(gathered, labels, all_pairs(labels)).value, weight)[0]

    torch.testing.assert_close((gradients(0, 2) + gradients(1, 2)) / 2, gradients(0, 1), atol=2e-6, rtol=2e-4)


@pytest.mark.long
def test_two_processes_compute_the_gradient_of_one(tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + WORKER.format(losses=LOSSES, knobs=KNOBS))

    torchrun(str(worker), str(tmp_path))

    for loss in LOSSES:
        first, second = (torch.load(tmp_path / f"{loss}-{rank}.pt", weights_only=True) for rank in (0, 1))
        alone = loop_parts(with_knobs(steps=8, loss={"name": loss}, **KNOBS), validated=False)
        TrainingLoop(alone).run()
        assert torch.equal(first["weights"], second["weights"])
        gradients = [parameter.grad for parameter in [*alone.model.head.parameters(), *alone.loss.parameters()]]
        for ours, expected in zip(first["gradients"], gradients, strict=True):
            torch.testing.assert_close(ours, expected, atol=2e-6, rtol=2e-4)
        torch.testing.assert_close(first["weights"], weights(alone), atol=2e-5, rtol=1e-4)


@pytest.mark.long
def test_the_command_trains_in_two_processes(tmp_path):
    shop = write_shapes(tmp_path / "shop")
    knobs = ["--preset", "tiny", "--steps", "8", "--set", "batches.classes_per_batch=4", "--device", "cpu"]
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

    monkeypatch.setattr("training.running.run.process_group", lambda _device: Two())
    with pytest.raises(InvalidConfig, match="shared evenly by 2 processes"):
        train(RunOptions(shop, tmp_path / "run", config, tmp_path / "cache", device="cpu"))


def test_shares_are_equal_and_cover_the_batch():
    shares = [ProcessGroup(rank, 4).share_of(32) for rank in range(4)]

    assert [list(range(32))[share] for share in shares] == [list(range(8 * r, 8 * r + 8)) for r in range(4)]
    assert replace(ProcessGroup(), rank=0).share_of(5) == slice(0, 5)
