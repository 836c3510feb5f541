"""Training with several processes, one GPU each (torchrun), equivalent to one process with the whole batch.

Every process draws the same batch and embeds its share; the embeddings are gathered, and each process computes the
loss of the whole batch, so that active pairs are counted globally. The gradient flows through a process's own rows,
times the number of processes, since DistributedDataParallel averages the gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.errors import InvalidRun
from training.processes.launcher import require_launcher
from training.processes.parent_process import ParentGone

_PATIENCE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and shows the progress."""
        return self.rank == 0

    def share_of(self, num_rows: int) -> slice:
        """Return the rows of a batch that this process embeds; shares are equal and contiguous."""
        each = num_rows // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def wrap(self, network: nn.Module) -> nn.Module:
        """Wrap `network` to average its gradients over the processes; a single process returns it unchanged."""
        if self.size == 1 or not any(parameter.requires_grad for parameter in network.parameters()):
            return network
        # Buffers are already equal: batch norm is frozen, or synchronised over all processes.
        return DistributedDataParallel(network, broadcast_buffers=False)

    def gather(self, embeddings_ND: Tensor) -> Tensor:
        """Return the embeddings of the whole batch, in batch order."""
        if self.size == 1:
            return embeddings_ND
        gathered: Tensor = _Gather.apply(embeddings_ND, self)  # type: ignore[no-untyped-call]  # torch has no types here
        return gathered

    def any(self, flag: bool, device: torch.device) -> bool:
        """Tell whether `flag` is set in any process."""
        if self.size == 1:
            return flag
        value = torch.tensor([int(flag)], device=device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value.item())

    def broadcast(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return the value of the first process in all processes."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Run the block in the first process, which fills the caches, and then in the others."""
        if self.size > 1 and not self.is_first:
            dist.barrier()
        yield
        if self.size > 1 and self.is_first:
            dist.barrier()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings_ND: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        ctx.num_rows = len(embeddings_ND)
        parts = [torch.empty_like(embeddings_ND) for _ in range(group.size)]
        dist.all_gather(parts, embeddings_ND.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        start = ctx.group.rank * ctx.num_rows
        return gradients[0][start : start + ctx.num_rows] * ctx.group.size, None


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the other processes if torchrun started this one; otherwise yield a group of one."""
    if not dist.is_torchelastic_launched():
        yield ProcessGroup()
        return
    try:
        require_launcher()
    except ParentGone as error:
        raise InvalidRun(f"{error}; start it again") from error
    # The timeout covers the time in which the first process decodes images or computes features.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def is_first_process() -> bool:
    """Tell whether this process is alone or the first of its group."""
    return not dist.is_initialized() or dist.get_rank() == 0


def local_device(device: torch.device) -> torch.device:
    """Return this process's own GPU if torchrun started several processes on the machine."""
    if device.type == "cuda" and dist.is_torchelastic_launched():
        return torch.device("cuda", dist.get_node_local_rank(fallback_rank=0))
    return device
