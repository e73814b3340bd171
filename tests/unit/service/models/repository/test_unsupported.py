"""Fields of config.pbtxt that the service ignores: refused, or named."""

from pathlib import Path

import pytest
from google.protobuf import text_format

from service.models.repository.unsupported import ACTED_ON, REFUSED, ignored_fields, refused_fields
from service.pb.model_config_pb2 import ModelConfig
from tests.support.loading import load_only
from tests.support.models import BATCHING_CONFIG, add_version, doubling_model


def parsed(text: str) -> ModelConfig:
    config = ModelConfig()
    text_format.Parse(text, config)
    return config


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('model_warmup { name: "zeros" batch_size: 1 }', "model_warmup"),
        ("response_cache { enable: true }", "response_cache"),
        ('cc_model_filenames { key: "8.0" value: "model8.onnx" }', "cc_model_filenames"),
        ('metric_tags { key: "team" value: "red" }', "metric_tags"),
        ('model_metrics { metric_control { metric_identifier { family: "f" } } }', "model_metrics"),
        ('runtime: "libother.so"', "runtime"),
        ('instance_group { host_policy: "numa0" count: 1 }', "instance_group.host_policy"),
        ("instance_group { rate_limiter { priority: 2 } }", "instance_group.rate_limiter"),
        ("instance_group { passive: true } instance_group { passive: true }", "instance_group.passive"),
        ('instance_group { profile: "p" }', "instance_group.profile"),
        ("instance_group { secondary_devices { device_id: 1 } }", "instance_group.secondary_devices"),
        ("optimization { graph { level: 1 } }", "optimization.graph"),
        ("optimization { priority: PRIORITY_MAX }", "optimization.priority"),
        ("optimization { cuda { graphs: true } }", "optimization.cuda"),
        ("optimization { eager_batching: true }", "optimization.eager_batching"),
        (
            'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } '
            'cpu_execution_accelerator { name: "openvino" } } }',
            "optimization.execution_accelerators (tensorrt, openvino)",
        ),
        ('input { name: "x" is_non_linear_format_io: true }', "input.is_non_linear_format_io"),
        (
            'parameters { key: "intra_op_thread_count" value { string_value: "4" } }',
            'parameters["intra_op_thread_count"]',
        ),
    ],
)
def test_a_field_that_is_ignored_is_named_once(text: str, named: str) -> None:
    config = parsed(text)
    assert ignored_fields(config) == [named] and refused_fields(config) == []


@pytest.mark.parametrize(
    "text",
    [
        "response_cache { }",
        "response_cache { enable: false }",
        "optimization { cuda { } input_pinned_memory { enable: true } }",
        'parameters { key: "owner" value { string_value: "team red" } }',
        'model_repository_agents { agents { name: "checksum" } }',
        'name: "m" platform: "onnxruntime_onnx" max_batch_size: 4 dynamic_batching { preserve_ordering: true } '
        'version_policy { all { } } input { name: "x" dims: 1 reshape { shape: [ ] } } instance_group { count: 2 } '
        'output { name: "y" data_type: TYPE_FP32 label_filename: "labels.txt" } default_model_filename: "net.onnx"',
    ],
)
def test_a_field_that_the_service_acts_on_or_that_promises_nothing_is_not_named(text: str) -> None:
    assert ignored_fields(parsed(text)) == refused_fields(parsed(text)) == []


def test_every_listed_field_exists_in_the_schema() -> None:
    for path in (*REFUSED, *ACTED_ON):
        *parents, name = path.split(".")
        descriptor = ModelConfig.DESCRIPTOR
        for parent in parents:
            inner = descriptor.fields_by_name[parent].message_type
            assert inner is not None
            descriptor = inner
        assert name in descriptor.fields_by_name


@pytest.mark.parametrize("field", ['model_operations { op_library_filename: "ops.so" }', "batch_input { kind: 1 }"])
def test_a_field_that_would_change_answers_is_refused(field: str) -> None:
    assert refused_fields(parsed(field)) == [field.split()[0]]


def test_a_model_with_ignored_fields_is_served_with_one_warning(tmp_path: Path) -> None:
    config = f'{BATCHING_CONFIG} response_cache {{ enable: true }} model_warmup {{ name: "zeros" }}'
    add_version(tmp_path, "double", doubling_model(), config=config)
    assert load_only(tmp_path).warnings == (
        "config.pbtxt sets model_warmup, response_cache, which this service ignores",
    )
