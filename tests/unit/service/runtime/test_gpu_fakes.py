"""The GPU path without a GPU: batch sizes, bound memory, lost devices and provider options."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from service.batching.batcher import Batcher
from service.batching.queue import QueuePolicy
from service.batching.scheduler import BatchingPolicy
from service.batching.statistics import Statistics
from service.core.batch_sizes import padded
from service.core.datatypes import BY_NAME
from service.core.errors import EngineFailed, EngineLost, NotReady
from service.core.load_errors import DeviceUnavailable, LoadError
from service.core.spec import Arrays, ModelSpec, TensorSpec
from service.models.engine_settings import EngineOptions
from service.models.loader import load
from service.models.repository.scan import scan
from service.models.verification.verifier import Verifier
from service.pb.model_config_pb2 import ModelConfig
from service.runtime import cuda
from service.runtime.cuda import CUDA, TENSORRT, CudaBinding, GpuOptions, is_sticky, providers
from service.runtime.io_binding import BatchBindings
from service.runtime.session import Engine
from tests.support.batching import FakeRequest
from tests.support.gpu import FakeBinding
from tests.support.graphs import centred_model
from tests.support.loading import load_only
from tests.support.models import BATCHING_CONFIG, add_version, doubling_model
from tests.support.waiting import WAIT, wait_until

SIZES = [1, 2, 4, 8]


@pytest.fixture
def bindings() -> dict[int, FakeBinding]:
    """Every binding that was made, by batch size."""
    return {}


@pytest.fixture
def batch_bindings(bindings: dict[int, FakeBinding]) -> BatchBindings:
    def bind(rows: int) -> FakeBinding:
        assert rows not in bindings, "bound twice"
        bindings[rows] = FakeBinding(rows)
        return bindings[rows]

    return BatchBindings(SIZES, bind)


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_a_batch_is_padded_to_the_next_size_and_returns_its_own_rows(
    batch_bindings: BatchBindings, bindings: dict[int, FakeBinding], rows: int, size: int
) -> None:
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    (y,) = batch_bindings.run((x,))
    np.testing.assert_array_equal(y, 2 * x)
    assert list(bindings) == [size]
    np.testing.assert_array_equal(bindings[size].inputs[0][rows:], np.repeat(x[-1:], size - rows, axis=0))


def test_a_size_is_bound_once_and_later_runs_do_not_change_earlier_outputs(
    batch_bindings: BatchBindings, bindings: dict[int, FakeBinding]
) -> None:
    first = batch_bindings.run((np.ones((3, 3), np.float32),))[0]
    for _ in range(10):
        batch_bindings.run((np.zeros((4, 3), np.float32),))
    assert (first == 2).all()
    assert bindings[4].runs == 11


def test_rows_written_into_the_input_buffers_are_not_copied_again(
    batch_bindings: BatchBindings, bindings: dict[int, FakeBinding]
) -> None:
    inputs = batch_bindings.input_buffers(4)
    assert inputs is not None and inputs[0] is bindings[4].inputs[0]
    inputs[0][:] = 5
    assert (batch_bindings.run(inputs)[0] == 10).all()
    assert batch_bindings.input_buffers(3) is None


def test_more_rows_than_the_largest_size_are_refused(batch_bindings: BatchBindings) -> None:
    with pytest.raises(ValueError, match="9 rows, but the sizes are"):
        batch_bindings.run((np.zeros((9, 3), np.float32),))
    assert padded(9, SIZES) == 9 and padded(3, ()) == 3


def test_the_real_binding_computes_the_contents_of_its_inputs() -> None:
    """CudaBinding in CPU memory: everything but CUDA's copies and graphs."""
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(doubling_model(3), options, providers=["CPUExecutionProvider"])
    float32 = BY_NAME["FP32"]
    inputs, outputs = [TensorSpec("x", float32, (3,))], [TensorSpec("y", float32, (3,))]
    batch_bindings = BatchBindings(
        SIZES, lambda rows: CudaBinding(session, inputs, outputs, rows, device="cpu:0", graph=False)
    )
    first = batch_bindings.run((np.full((3, 3), 1, np.float32),))[0]
    second = batch_bindings.run((np.full((4, 3), 2, np.float32),))[0]
    assert first.tolist() == [[2] * 3] * 3 and second.tolist() == [[4] * 3] * 4


# --- with the loader: an engine that binds its memory, in the memory of the CPU ---


@pytest.fixture
def binding_engines(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Every engine that the loader opens. They bind memory and pad batches as on a GPU."""
    engines: list[Engine] = []

    class BindingEngine(Engine):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.device = "cpu:0"
            engines.append(self)

    monkeypatch.setattr("service.models.loader.Engine", BindingEngine)
    return engines


def test_a_model_whose_rows_depend_on_each_other_is_not_padded(tmp_path: Path, binding_engines: list[Engine]) -> None:
    add_version(tmp_path, "frames", centred_model(), config=BATCHING_CONFIG)
    model = load_only(tmp_path)
    assert (model.batcher.policy.max_batch_size, list(model.batcher.policy.sizes)) == (1, [])
    x = np.arange(9, dtype=np.float32).reshape(3, 3)
    (engine,) = binding_engines
    assert engine.run((x,))[0].tolist() == (x - x.mean(0)).tolist()
    assert engine.input_buffers(2) is None


def test_a_model_without_dynamic_batching_is_compared_too_if_its_requests_would_be_padded(
    tmp_path: Path, binding_engines: list[Engine]
) -> None:
    add_version(tmp_path, "frames", centred_model(), config="max_batch_size: 8")
    assert load_only(tmp_path).warnings and binding_engines[0].input_buffers(2) is None


def test_cuda_graphs_are_refused_for_a_model_that_must_not_be_padded(
    tmp_path: Path, binding_engines: list[Engine]
) -> None:
    add_version(tmp_path, "frames", centred_model(), config=BATCHING_CONFIG)
    options = EngineOptions(["cpu"], 1, GpuOptions(graphs=True))
    with pytest.raises(LoadError, match="--cuda-graphs does not work with this model: its rows must not share a batch"):
        load(scan(tmp_path).models[0], 1, options)
    assert binding_engines


def test_a_reshaped_model_runs_in_bound_memory_of_the_graphs_shape(
    tmp_path: Path, binding_engines: list[Engine]
) -> None:
    tensor = "data_type: TYPE_FP32 dims: [ 2, 2 ] reshape { shape: [ 4 ] }"
    config = f'{BATCHING_CONFIG} input {{ name: "x" {tensor} }} output {{ name: "y" {tensor} }}'
    add_version(tmp_path, "double", doubling_model(), config=config)
    model = load_only(tmp_path)
    assert model.batcher.policy.sizes == SIZES and model.warnings == ()
    x = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    np.testing.assert_array_equal(binding_engines[0].run((x,))[0], 2 * x)


# --- with a batcher ---


class BoundEngine:
    """An engine that runs in bindings, as on a GPU."""

    def __init__(self, batch_bindings: BatchBindings) -> None:
        self.run = batch_bindings.run
        self.input_buffers = batch_bindings.input_buffers


@pytest.fixture
def broken() -> list[str]:
    """One item for each call of on_broken."""
    return []


@pytest.fixture
def batcher(batch_bindings: BatchBindings, broken: list[str]) -> Iterator[Batcher]:
    statistics = Statistics()
    batcher = Batcher(
        [BoundEngine(batch_bindings)],
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


def test_a_batch_is_joined_in_the_bound_memory_and_its_padding_is_counted(
    batcher: Batcher, bindings: dict[int, FakeBinding]
) -> None:
    requests = submit(batcher, 1, 2, 3)
    assert [request.result()[0, 0] for request in requests] == [2, 4, 6]
    wait_until(lambda: batcher.pending_rows == 0, "the batch has ended")
    assert bindings[4].inputs[0][:, 0].tolist() == [1, 2, 3, 3]
    statistics = batcher._executor._statistics
    assert (statistics.rows, statistics.padding_rows) == (3, 1)


def test_a_lost_device_fails_pending_requests_with_unavailable_and_runs_nothing_more(
    batcher: Batcher, bindings: dict[int, FakeBinding], batch_bindings: BatchBindings, broken: list[str]
) -> None:
    batch_bindings.run((np.ones((4, 3), np.float32),))
    bindings[4].error = EngineLost("CUDA failure 700: an illegal memory access was encountered")
    requests = submit(batcher, 1, 2, 3)
    assert all(isinstance(request.failure(), NotReady) for request in requests)
    assert broken == ["broken"] and "illegal memory access" in batcher.broken
    assert bindings[4].runs == 2, "the batch was bisected on a lost device"
    with pytest.raises(NotReady):
        batcher.submit(FakeRequest(1))


def test_a_device_lost_during_verification_refuses_the_version_even_without_golden_answers() -> None:
    spec = ModelSpec("m", 1, (TensorSpec("x", BY_NAME["FP32"], (3,)),), (), 8, ModelConfig())

    def lost(_: Arrays) -> Sequence[NDArray[np.generic]]:
        raise EngineLost("CUDA failure 700")

    with pytest.raises(LoadError, match="the engine is lost: CUDA failure 700"):
        Verifier(spec, {}, 0.0, sizes=SIZES).verify(lost)


def test_a_transient_error_fails_only_the_request_that_caused_it(
    batcher: Batcher, bindings: dict[int, FakeBinding], batch_bindings: BatchBindings, broken: list[str]
) -> None:
    batch_bindings.run((np.ones((1, 3), np.float32),))
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
def test_sticky_errors_are_distinguished_from_others(message: str, lost: bool) -> None:
    assert is_sticky(RuntimeError(message)) is lost


# --- options of ONNX Runtime's providers ---


def test_the_cuda_provider_has_a_memory_limit_and_no_exhaustive_convolution_search() -> None:
    ((name, options),) = providers("cuda:1", GpuOptions(memory_bytes=2**30))
    assert name == CUDA
    assert options == {
        "device_id": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "0",
        "gpu_mem_limit": str(2**30),
    }


def test_tensorrt_comes_before_cuda_and_caches_its_engines(tmp_path: Path) -> None:
    (first, tensorrt), (second, _) = providers("cuda:0", GpuOptions(graphs=True, tensorrt_cache=tmp_path, fp16=True))
    assert (first, second) == (TENSORRT, CUDA)
    assert tensorrt["trt_engine_cache_path"] == str(tmp_path)
    assert (tensorrt["trt_fp16_enable"], tensorrt["trt_cuda_graph_enable"]) == ("1", "1")


def test_a_session_without_the_requested_provider_is_refused() -> None:
    if cuda.device_count():
        pytest.skip("this machine has a GPU")
    with pytest.raises((DeviceUnavailable, RuntimeError)):
        Engine(doubling_model(), device="cuda:0", intra_op_threads=1)


def test_every_gpu_option_is_off_by_default() -> None:
    assert dataclasses.asdict(GpuOptions()) == {
        "memory_bytes": 0,
        "graphs": False,
        "tensorrt_cache": None,
        "fp16": False,
    }
