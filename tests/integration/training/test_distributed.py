"""A process leaves its group whole: nothing of it runs when the interpreter exits."""

import subprocess
import sys

from tests.support.paths import ROOT
from tests.support.processes import clean_environment

JOIN_AND_LEAVE = """
from pathlib import Path
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from training.trainer.distributed import process_group

def threads_of_gloo():
    return sum("gloo" in task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir())

with process_group("cpu"):
    DistributedDataParallel(nn.Linear(2, 2))
    print(threads_of_gloo() > 0)
print(threads_of_gloo())
"""


def test_no_thread_of_the_process_group_is_left_after_training() -> None:
    """A thread of gloo's that waits for the GIL while the interpreter exits aborts the process."""
    group = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    result = subprocess.run(
        [sys.executable, "-c", JOIN_AND_LEAVE],
        cwd=ROOT,
        env=clean_environment() | group,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.split() == ["True", "0"], result.stderr
