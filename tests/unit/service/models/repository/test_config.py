"""config.pbtxt: batching, instance groups, the parameter strict, the graph's file name, and error messages."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from service.batching.queue import QueuePolicy
from service.core.datatypes import BY_NAME
from service.core.load_errors import FilesUnreadable, LoadError
from service.core.spec import ModelSpec, TensorSpec
from service.models.engine_settings import EngineOptions
from service.models.loader import LoadedModel, load
from service.models.repository.scan import scan
from service.models.verification.verifier import Verifier
from service.pb.model_config_pb2 import ModelConfig
from tests.support.models import add_version, doubling_model, identity_model

CPU = EngineOptions(["cpu"], 1)


def load_with(folder: Path, config: str, model: bytes | None = None) -> LoadedModel:
    add_version(folder, "m", model or doubling_model(), config=config)
    loaded = load(scan(folder).models[0], 1, CPU)
    loaded.batcher.close()
    return loaded


def test_every_field_of_dynamic_batching_is_applied(tmp_path: Path) -> None:
    policy = load_with(
        tmp_path,
        """max_batch_size: 8 dynamic_batching {
             preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 500 preserve_ordering: true
             priority_levels: 3 default_priority_level: 2
             default_queue_policy { max_queue_size: 100 default_timeout_microseconds: 2000 }
             priority_queue_policy { key: 1 value { timeout_action: DELAY default_timeout_microseconds: 1000
                                                    allow_timeout_override: true } } }""",
    ).batcher.policy
    plain = QueuePolicy(100, timeout=0.002, timeout_override=False)
    late = QueuePolicy(1024, min_requests=1024, timeout=0.001, timeout_override=True, delay_late=True)
    assert policy.levels == [late, plain, plain]
    assert (policy.default_level, policy.max_delay, policy.preferred) == (1, 0.0005, {4, 8})
    assert policy.preserve_ordering and policy.max_batch_size == 8


def test_without_dynamic_batching_each_request_runs_alone(tmp_path: Path) -> None:
    assert load_with(tmp_path, "max_batch_size: 8").batcher.policy.max_batch_size == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("preferred_batch_size: 9", "preferred_batch_size expected 1 to max_batch_size 8, got 9"),
        ("priority_levels: 2", "default_priority_level expected 1 to 2, got 0"),
        ("priority_levels: 2 default_priority_level: 3", "expected 1 to 2, got 3"),
        ("priority_levels: 5000 default_priority_level: 1", "priority_levels is 5000, the limit is 100"),
        ("priority_queue_policy { key: 1 value { } }", "names level 1, but priority_levels is 0"),
    ],
)
def test_invalid_batching_is_refused(tmp_path: Path, config: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        load_with(tmp_path, f"max_batch_size: 8 dynamic_batching {{ {config} }}")


def test_each_instance_is_an_engine_on_the_same_queue(tmp_path: Path) -> None:
    loaded = load_with(tmp_path, "max_batch_size: 8 dynamic_batching { } instance_group { count: 3 kind: KIND_CPU }")
    assert loaded.device == "cpu,cpu,cpu"


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("kind: KIND_GPU", "asks for KIND_GPU, but the service runs on the CPU"),
        ("kind: KIND_MODEL", "KIND_MODEL is not supported"),
        ("count: 1000", "asks for 1000 instances, the limit is 64"),
    ],
)
def test_an_unsupported_instance_group_is_refused(tmp_path: Path, group: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        load_with(tmp_path, f"instance_group {{ {group} }}")


def test_a_model_filename_with_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="is not a plain file name"):
        load_with(tmp_path, 'default_model_filename: "../../secret.onnx"')


def test_an_input_output_error_is_told_from_an_invalid_configuration(tmp_path: Path) -> None:
    """It may pass by itself; here, reading a folder fails as a file without permission does."""
    (add_version(tmp_path, "m", doubling_model()).parent / "config.pbtxt").mkdir()
    with pytest.raises(FilesUnreadable, match=r"config.pbtxt cannot be read: Is a directory"):
        load(scan(tmp_path).models[0], 1, CPU)


STRICT = ' parameters { key: "strict" value { string_value: "true" } }'


def tensor(name: str) -> TensorSpec:
    return TensorSpec(name, BY_NAME["FP32"], (4,))


def test_strict_is_refused_if_answers_depend_on_the_batch() -> None:
    """Each answer depends on the row's distance from the first row of the batch, by up to 4e-9."""
    spec = ModelSpec("m", 1, (tensor("x"),), (tensor("y"),), 8, ModelConfig())
    golden = {"x": np.arange(16.0).reshape(4, 4), "y": np.tile([0.0, 0, 0, 9], (4, 1))}

    def batch_dependent(inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        return [np.array([0.0, 0, 0, 9]) + (inputs[0] - inputs[0][0]) * 1e-9]

    with pytest.raises(LoadError, match="strict requires the same bits alone and in a batch"):
        Verifier(spec, golden, 1.0, [2], strict=True).verify(batch_dependent)
    assert Verifier(spec, golden, 1.0, [1, 2]).verify(batch_dependent) == pytest.approx(4e-9)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (STRICT.replace("true", "yes"), 'strict expected "true" or "false", got \'yes\''),
        ("max_batch_size: 0 input [ ] " + STRICT, "strict needs a model that batches"),
    ],
)
def test_an_invalid_strict_parameter_is_refused(tmp_path: Path, config: str, message: str) -> None:
    model = identity_model(TensorProto.FLOAT, [2, 2]) if "max_batch_size" in config else None
    with pytest.raises(LoadError, match=message):
        load_with(tmp_path, config, model)
