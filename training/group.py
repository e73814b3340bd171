"""The processes that train together, as `torchrun` starts them: gradients are averaged over all.

Owns: finding them, and the few things that they tell each other. Does not own: the averaging, which is torch's
DistributedDataParallel (recipe.py).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from training.errors import TrainingError

# After which a process that waits for another gives up.
PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Group:
    """One process, `rank` from 0, of `size`. The first one prints and writes."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None  # of what is told; the group's library decides

    @property
    def leads(self) -> bool:
        """Whether it is this process that prints and writes."""
        return self.rank == 0

    def part(self, whole: Tensor) -> Tensor:
        """Of something that all have, the share of this process."""
        return whole[self.rank :: self.size] if self.size > 1 else whole

    def sum(self, values: Tensor) -> Tensor:
        """The sum of everybody's values."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether anybody's flag is true."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag), device=self.device)).item())


ALONE = Group()


@contextmanager
def joined(wanted: str) -> Iterator[tuple[Group, torch.device]]:
    """The group and this process's device: `auto`, `cpu` or `cuda`.

    Raises:
        TrainingError: CUDA was asked for and is not to be had.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: torch finds no CUDA device; use --device cpu or auto")
    cuda = wanted != "cpu" and torch.cuda.is_available()
    if cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS gives other bits every time
    if "WORLD_SIZE" not in os.environ:
        yield ALONE, torch.device("cuda" if cuda else "cpu")
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device), device
    finally:
        dist.destroy_process_group()
