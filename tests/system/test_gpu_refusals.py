"""What can be shown of the GPU path without a GPU: sizes, reuse of memory, graphs' bookkeeping, failures, metrics."""

import re

import pytest

from service.runtime import cuda
from tests.support.processes import run_command


def test_a_gpu_that_is_not_there_is_refused_by_the_command() -> None:
    if cuda.device_count():
        pytest.skip("this machine has a GPU")
    result = run_command("service", "--device", "cuda")
    assert result.returncode == 2
    assert re.search(r"--device cuda: .*(not found|no CUDA)", result.stderr)


def test_half_precision_without_tensorrt_is_refused() -> None:
    result = run_command("service", "--fp16")
    assert result.returncode == 2 and "--tensorrt-cache" in result.stderr
