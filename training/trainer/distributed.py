"""Distributed training: the processes that `torchrun` starts, and the collective operations between them.

Not here: averaging the gradients, which PyTorch's DistributedDataParallel does (trainer.py).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

# DistributedDataParallel imports this module, whose functions take as default argument the default process group of
# that moment. Imported before there is one, they hold none. Otherwise the group and its threads outlive
# destroy_process_group(), and a thread that waits for the GIL while the interpreter exits aborts the process.
import torch.distributed.nn.functional
from torch import Tensor

from training.errors import TrainingError

# How long a process waits for another in a collective operation: as long as the main one may read a large folder. If a
# process ends, torchrun ends the others at once.
COLLECTIVE_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class ProcessGroup:
    """All processes of a training job, as this process sees them: its rank, from 0, and their number."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None  # of the tensors that the processes exchange; NCCL takes CUDA tensors only

    @property
    def is_main(self) -> bool:
        """Whether this process prints, writes files and publishes."""
        return self.rank == 0

    def shard(self, batch: Tensor) -> Tensor:
        """The rows of the batch that this process computes."""
        return batch[self.rank :: self.size] if self.size > 1 else batch

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag), device=self.device)).item())


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def process_group(wanted: str) -> Iterator[tuple[ProcessGroup, torch.device]]:
    """Join torchrun's process group if there is one, and choose this process's device: `auto`, `cpu` or `cuda`.

    Raises:
        TrainingError: `cuda` is asked for and PyTorch finds no CUDA device.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: PyTorch finds no CUDA device; use --device cpu or auto")
    cuda = wanted != "cpu" and torch.cuda.is_available()
    if cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not deterministic without it
    if "WORLD_SIZE" not in os.environ:
        yield SINGLE_PROCESS, torch.device("cuda" if cuda else "cpu")
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=COLLECTIVE_TIMEOUT)
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), device), device
    finally:
        dist.destroy_process_group()
