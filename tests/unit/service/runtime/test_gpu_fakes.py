"""What can be shown of the GPU path without a GPU: sizes, reuse of memory, graphs' bookkeeping, failures, metrics."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, generate_latest

from service.batching.batcher import Batcher, BatchingPolicy
from service.batching.queue import QueuePolicy
from service.batching.statistics import Statistics
from service.core.batch_sizes import padded
from service.core.datatypes import BY_NAME
from service.core.errors import DeviceUnavailable, EngineFailed, EngineLost, LoadError, NotReady
from service.core.spec import Arrays, ModelSpec, TensorSpec
from service.models.verification import Verifier
from service.pb.model_config_pb2 import ModelConfig
from service.runtime import cuda
from service.runtime.cuda import CUDA, TENSORRT, CudaBinding, GpuOptions, is_lost, providers
from service.runtime.io_binding import BatchBindings
from service.runtime.session import Engine
from service.telemetry.gpu import GpuCollector
from tests.support.batching import FakeRequest
from tests.support.gpu import FakeBinding, FakeNvml
from tests.support.models import doubling_model
from tests.support.waiting import WAIT, wait_until

SIZES = [1, 2, 4, 8]


@pytest.fixture
def bindings() -> dict[int, FakeBinding]:
    """Every binding that was made, by size."""
    return {}


@pytest.fixture
def buffers(bindings: dict[int, FakeBinding]) -> BatchBindings:
    def bind(rows: int) -> FakeBinding:
        assert rows not in bindings, "bound twice"
        bindings[rows] = FakeBinding(rows)
        return bindings[rows]

    return BatchBindings(SIZES, bind)


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_a_batch_runs_in_the_next_size_and_gets_back_its_own_rows(
    buffers: BatchBindings, bindings: dict[int, FakeBinding], rows: int, size: int
) -> None:
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    (y,) = buffers.run((x,))
    np.testing.assert_array_equal(y, 2 * x)
    assert list(bindings) == [size]
    np.testing.assert_array_equal(bindings[size].inputs[0][rows:], np.repeat(x[-1:], size - rows, axis=0))


def test_memory_is_bound_once_a_size_and_answers_outlive_the_next_run(
    buffers: BatchBindings, bindings: dict[int, FakeBinding]
) -> None:
    first = buffers.run((np.ones((3, 3), np.float32),))[0]
    for _ in range(10):
        buffers.run((np.zeros((4, 3), np.float32),))
    assert (first == 2).all()
    assert bindings[4].runs == 11


def test_rows_that_were_put_together_in_a_room_are_not_copied_again(
    buffers: BatchBindings, bindings: dict[int, FakeBinding]
) -> None:
    room = buffers.input_buffers(4)
    assert room is not None and room[0] is bindings[4].inputs[0]
    room[0][:] = 5
    assert (buffers.run(room)[0] == 10).all()
    assert buffers.input_buffers(3) is None


def test_more_rows_than_the_largest_size_are_refused(buffers: BatchBindings) -> None:
    with pytest.raises(ValueError, match="9 rows, but the sizes are"):
        buffers.run((np.zeros((9, 3), np.float32),))
    assert padded(9, SIZES) == 9 and padded(3, ()) == 3


def test_a_binding_of_onnx_runtime_computes_what_lies_in_its_inputs() -> None:
    """The real binding over the CPU's memory: all of it but the copies and graphs of CUDA."""
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(doubling_model(3), options, providers=["CPUExecutionProvider"])
    float32 = BY_NAME["FP32"]
    inputs, outputs = [TensorSpec("x", float32, (3,))], [TensorSpec("y", float32, (3,))]
    buffers = BatchBindings(
        SIZES, lambda rows: CudaBinding(session, inputs, outputs, rows, device="cpu:0", graph=False)
    )
    first = buffers.run((np.full((3, 3), 1, np.float32),))[0]
    second = buffers.run((np.full((4, 3), 2, np.float32),))[0]
    assert first.tolist() == [[2] * 3] * 3 and second.tolist() == [[4] * 3] * 4


# --- behind a batcher ---


class BoundEngine:
    """An engine whose runs go to bindings, as a GPU's do."""

    def __init__(self, buffers: BatchBindings) -> None:
        self.run = buffers.run
        self.input_buffers = buffers.input_buffers


@pytest.fixture
def broken() -> list[str]:
    """What was told of a broken engine."""
    return []


@pytest.fixture
def batcher(buffers: BatchBindings, broken: list[str]) -> Iterator[Batcher]:
    statistics = Statistics()
    batcher = Batcher(
        [BoundEngine(buffers)],
        BatchingPolicy(8, [QueuePolicy(64)], sizes=SIZES, max_delay=0.05),
        statistics,
        name="gpu",
        on_broken=lambda: broken.append("broken"),
    )
    yield batcher
    batcher.close()
    assert batcher.join(WAIT)


def submit(batcher: Batcher, *values: float) -> list[FakeRequest]:
    requests = [FakeRequest(value, arrived=batcher._clock(), width=3) for value in values]
    for request in requests:
        batcher.submit(request)
    return requests


def test_batches_are_put_together_in_the_bound_memory_and_padding_is_counted(
    batcher: Batcher, bindings: dict[int, FakeBinding]
) -> None:
    requests = submit(batcher, 1, 2, 3)
    assert [request.result()[0, 0] for request in requests] == [2, 4, 6]
    wait_until(lambda: batcher.pending == 0, "all is done")
    assert bindings[4].inputs[0][:, 0].tolist() == [1, 2, 3, 3]
    statistics = batcher._executor._statistics
    assert (statistics.rows, statistics.padding_rows) == (3, 1)


def test_a_device_that_is_lost_fails_all_that_waits_as_unavailable_and_runs_nothing_more(
    batcher: Batcher, bindings: dict[int, FakeBinding], buffers: BatchBindings, broken: list[str]
) -> None:
    buffers.run((np.ones((4, 3), np.float32),))
    bindings[4].error = EngineLost("CUDA failure 700: an illegal memory access was encountered")
    requests = submit(batcher, 1, 2, 3)
    assert all(isinstance(request.failure(), NotReady) for request in requests)
    assert broken == ["broken"] and "illegal memory access" in batcher.broken
    assert bindings[4].runs == 2, "a lost device is not asked again in parts"
    with pytest.raises(NotReady):
        batcher.submit(FakeRequest(1))


def test_a_device_that_is_lost_while_a_version_is_proved_refuses_it_golden_answers_or_not() -> None:
    spec = ModelSpec("m", 1, (TensorSpec("x", BY_NAME["FP32"], (3,)),), (), 8, ModelConfig())

    def lost(_: Arrays) -> Sequence[NDArray[np.generic]]:
        raise EngineLost("CUDA failure 700")

    with pytest.raises(LoadError, match="the engine is lost: CUDA failure 700"):
        Verifier(spec, {}, 0.0, sizes=SIZES).verify(lost)


def test_an_error_that_passes_fails_the_guilty_alone(
    batcher: Batcher, bindings: dict[int, FakeBinding], buffers: BatchBindings, broken: list[str]
) -> None:
    buffers.run((np.ones((1, 3), np.float32),))
    bindings[1].error = RuntimeError("out of memory")
    (request,) = submit(batcher, 1)
    assert isinstance(request.failure(), EngineFailed)
    assert not broken and not batcher.broken


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", True),
        ("CUDA failure 719: unspecified launch failure", True),
        ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED", True),
        ("CUDA error: device-side assert triggered", True),
        ("CUDA failure 2: out of memory", False),
        ("Failed to allocate memory for requested buffer of size 700", False),
        ("Non-zero status code returned while running Gather node", False),
    ],
)
def test_errors_after_which_a_device_is_of_no_use_are_told_from_others(message: str, lost: bool) -> None:
    assert is_lost(RuntimeError(message)) is lost


# --- what is asked of ONNX Runtime ---


def test_the_cuda_provider_is_bounded_and_searches_no_convolutions() -> None:
    ((name, options),) = providers("cuda:1", GpuOptions(memory_bytes=2**30))
    assert name == CUDA
    assert options == {
        "device_id": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "0",
        "gpu_mem_limit": str(2**30),
    }


def test_tensorrt_comes_before_cuda_and_keeps_what_it_builds(tmp_path: Path) -> None:
    (first, tensorrt), (second, _) = providers("cuda:0", GpuOptions(graphs=True, tensorrt_cache=tmp_path, fp16=True))
    assert (first, second) == (TENSORRT, CUDA)
    assert tensorrt["trt_engine_cache_path"] == str(tmp_path)
    assert (tensorrt["trt_fp16_enable"], tensorrt["trt_cuda_graph_enable"]) == ("1", "1")


def test_a_session_that_took_another_provider_than_was_asked_for_is_refused() -> None:
    if cuda.device_count():
        pytest.skip("this machine has a GPU")
    with pytest.raises((DeviceUnavailable, RuntimeError)):
        Engine(doubling_model(), device="cuda:0", intra_op_threads=1)


def test_every_option_has_a_default_that_asks_for_nothing() -> None:
    assert dataclasses.asdict(GpuOptions()) == {
        "memory_bytes": 0,
        "graphs": False,
        "tensorrt_cache": None,
        "fp16": False,
    }


# --- metrics ---


def exposed(collector: GpuCollector) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def test_memory_and_utilisation_are_those_of_the_devices_in_use(nvml: FakeNvml) -> None:
    text = exposed(GpuCollector(["cuda:1"]))
    assert 'inference_gpu_memory_used_bytes{device="cuda:1"} 2.147483648e+09' in text
    assert 'inference_gpu_utilization_ratio{device="cuda:1"} 0.5' in text
    assert 'device="cuda:0"' not in text


@pytest.mark.parametrize("visible", ["1,0", "GPU-one,GPU-zero"])
def test_devices_are_matched_where_only_some_are_visible(nvml: FakeNvml, visible: str) -> None:
    assert 'inference_gpu_memory_used_bytes{device="cuda:0"} 2.147483648e+09' in exposed(
        GpuCollector(["cuda:0"], visible)
    )


def test_there_are_no_gpu_metrics_on_a_cpu_or_without_a_driver(nvml: FakeNvml) -> None:
    assert exposed(GpuCollector(["cpu"])) == ""
    nvml.broken = True
    assert exposed(GpuCollector(["cuda:0"])) == ""


def test_a_gpu_that_is_lost_leaves_its_metrics_out(nvml: FakeNvml) -> None:
    collector = GpuCollector(["cuda:0"])
    nvml.broken = True
    assert "device=" not in exposed(collector)
