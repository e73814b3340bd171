"""The command refuses GPU options that this machine cannot provide, with exit status 2."""

import re

import pytest

from service.runtime import cuda
from tests.support.processes import run_command


def test_a_missing_gpu_is_refused() -> None:
    if cuda.device_count():
        pytest.skip("this machine has a GPU")
    result = run_command("service", "--device", "cuda")
    assert result.returncode == 2
    assert re.search(r"--device cuda: .*(not found|no CUDA)", result.stderr)


def test_half_precision_without_tensorrt_is_refused() -> None:
    result = run_command("service", "--fp16")
    assert result.returncode == 2 and "--tensorrt-cache" in result.stderr
