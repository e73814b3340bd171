"""On a real GPU: the answers match the CPU's, in every batch size and with every option."""

from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import pytest

from service.core.load_errors import LoadError
from service.models.engine_settings import EngineOptions
from service.models.loader import load
from service.models.repository.scan import scan
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from service.runtime import cuda
from service.runtime.cuda import GpuOptions
from service.runtime.devices import choose_devices
from service.runtime.session import Engine
from tests.support.models import add_version, doubling_model
from tests.support.processes import run_command, service_process
from tests.support.requests import infer_request, outputs_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not cuda.device_count(), reason="NO GPU: the CUDA path was not tested on a device"),
]
OPTIONS = [GpuOptions(), GpuOptions(graphs=True), GpuOptions(memory_bytes=2**30)]


@pytest.mark.parametrize("options", OPTIONS, ids=["default", "graphs", "memory_limit"])
def test_a_published_model_is_verified_in_every_batch_size(published: Path, options: GpuOptions) -> None:
    (folder,) = scan(published).models
    model = load(folder, 1, EngineOptions(["cuda:0"], 1, options))
    assert (model.provider, model.device, model.verified) == (cuda.CUDA, "cuda:0", True)
    assert model.batcher.policy.sizes == [1, 2, 4, 8, 16, 32, 64]
    model.batcher.close()


@pytest.mark.parametrize("graphs", [False, True])
def test_repeated_runs_answer_new_inputs(graphs: bool, tmp_path: Path) -> None:
    add_version(tmp_path, "double", doubling_model(), config="max_batch_size: 8 dynamic_batching { }")
    (folder,) = scan(tmp_path).models
    model = load(folder, 1, EngineOptions(["cuda:0"], 1, GpuOptions(graphs=graphs)))
    engine = Engine((tmp_path / "double/1/model.onnx").read_bytes(), device="cuda:0", intra_op_threads=1)
    engine.bind(model.spec, [1, 2, 4, 8])
    rng = np.random.default_rng(0)
    for rows in (1, 3, 8, 5, 2) * 5:
        x = rng.normal(size=(rows, 4)).astype(np.float32)
        np.testing.assert_array_equal(engine.run((x,))[0], 2 * x)
    model.batcher.close()


def test_cuda_graphs_are_refused_for_a_model_with_a_free_axis(tmp_path: Path) -> None:
    add_version(tmp_path, "double", doubling_model(), config="max_batch_size: 0")
    (folder,) = scan(tmp_path).models
    with pytest.raises(LoadError, match="--cuda-graphs does not work with this model"):
        load(folder, 1, EngineOptions(["cuda:0"], 1, GpuOptions(graphs=True)))


def test_memory_is_page_locked() -> None:
    Engine(doubling_model(), device="cuda:0", intra_op_threads=1)  # loads CUDA's libraries
    assert cuda.pin(np.zeros((64, 784), np.uint8))


def test_auto_takes_every_gpu() -> None:
    assert choose_devices("auto") == [f"cuda:{number}" for number in range(cuda.device_count())]


def test_the_service_gives_the_same_answers_on_gpu_and_cpu(published: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (7, 28, 28, 1), np.uint8)
    answers = []
    for device in ("cpu", "cuda"):
        with service_process(published, "--device", device) as service:
            with grpc.insecure_channel(service.address) as channel:
                response = GRPCInferenceServiceStub(channel).ModelInfer(infer_request("mnist-simplecnn", images=images))
            answers.append(outputs_of(response))
            with urlopen(service.metrics) as page:
                metrics = page.read().decode()
    np.testing.assert_allclose(answers[0]["probabilities"], answers[1]["probabilities"], atol=1e-4)
    assert "inference_gpu_memory_used_bytes" in metrics


def test_training_on_a_gpu_is_reproducible_and_the_service_loads_the_result(tmp_path: Path) -> None:
    flags = ["--dataset", "mnist-sample", "--epochs", "3", "--device", "cuda", "--runs-dir", str(tmp_path / "runs")]
    for name in ("first", "second"):
        result = run_command("training", *flags, "--repository", str(tmp_path / name))
        assert result.returncode == 0, result.stderr
    first, second = ((tmp_path / name / "mnist-simplecnn/1/model.onnx").read_bytes() for name in ("first", "second"))
    assert first == second
    (folder,) = scan(tmp_path / "first").models
    model = load(folder, 1, EngineOptions(["cuda:0"], 1))
    assert model.verified
    model.batcher.close()
