"""Several processes that train one model, started by ``torchrun``.

Each takes its share of every batch and computes the gradient of what that share adds to the loss; the sum
over the processes is the gradient that one process would have found. Noise is keyed by conversation, and the
order of the data by the epoch, so neither depends on how many processes there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, distributed, nn

from vhcr.batch import Ints
from vhcr.models.objective import Totals


@dataclass(frozen=True)
class Workers:
    """All processes of this training, seen from one of them; alone by default."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"  # where tensors must lie to be sent

    @property
    def records(self) -> bool:
        """Whether this is the one that writes files and reports progress."""
        return self.rank == 0

    def share(self, chosen: Ints) -> Ints:
        """This process's part of a batch; empty where there are more processes than conversations."""
        return chosen[self.rank :: self.size]

    def sum(self, totals: Totals) -> Totals:
        """Totals over all processes, the same on each."""
        if self.size == 1:
            return totals
        values = asdict(totals)
        packed = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        distributed.all_reduce(packed)
        return Totals(**{k: type(values[k])(v) for k, v in zip(values, packed.tolist(), strict=True)})

    def sum_tensor(self, values: Tensor) -> Tensor:
        """The sum over all processes of a tensor that has the same shape on each."""
        if self.size == 1:
            return values
        total = values.to(self.device, copy=True)
        distributed.all_reduce(total)
        return total

    def sum_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its sum over all processes.

        A parameter that no process used keeps None, so that the optimiser passes it by, as it would alone.
        """
        if self.size == 1:
            return
        parameters = list(model.parameters())
        used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=self.device)
        distributed.all_reduce(used, distributed.ReduceOp.MAX)
        pending = []
        for parameter, anywhere in zip(parameters, used.tolist(), strict=True):
            if anywhere:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                pending.append(distributed.all_reduce(parameter.grad, async_op=True))
        for work in pending:
            assert work is not None
            work.wait()

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any process."""
        if self.size == 1:
            return flag
        packed = torch.tensor([int(flag)], device=self.device)
        distributed.all_reduce(packed, distributed.ReduceOp.MAX)
        return bool(packed.item())

    def wait(self) -> None:
        """Return once all processes have come here."""
        self.any(False)


@contextmanager
def join(device: torch.device) -> Iterator[Workers]:
    """The processes that ``torchrun`` started, of which this is one; alone where it did not start us.

    They speak by NCCL where each has a GPU of its own, else by Gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Workers()
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Workers(distributed.get_rank(), size, str(device))
    finally:
        distributed.destroy_process_group()
