"""Errors of an allocator are recognized as out of memory."""

import pytest
import torch

from training.trainer import device


def test_the_cpu_allocators_error_is_recognized_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert device.is_out_of_memory(caught.value)
