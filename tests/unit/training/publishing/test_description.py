"""A published graph says what it is, and its first bytes are the graph that was proven."""

import json

import numpy as np
import onnx
import onnxruntime

from tests.support.publishing import brightness_model
from tests.unit.training.publishing.test_card import manifest
from training.publishing.description import describe


def test_the_file_names_model_version_labels_data_accuracy_run_and_licences() -> None:
    graph = brightness_model(4)
    file = describe(graph, manifest())
    found = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).get_modelmeta()
    assert (found.producer_name, found.version) == ("simplecnn", 3)
    assert found.description == "toy, version 3: images to class probabilities"
    metadata = {key.removeprefix("simplecnn."): value for key, value in found.custom_metadata_map.items()}
    assert metadata == {
        "name": "toy",
        "version": "3",
        "labels": '["a|b", "*c*"]',
        "network": "toy",
        "dataset": "mnist",
        "dataset_sha256": "0" * 64,
        "test_accuracy": "0.975",
        "run": "run-1",
        "created": "2026-01-01T00:00:00+00:00",
        "commit": "c0ffee",
        "code_license": "Apache-2.0",
        "data_license": "CC-BY-SA-3.0",
    }
    assert json.loads(metadata["labels"]) == ["a|b", "*c*"]


def test_the_file_is_the_graph_with_a_description_after_it_and_gives_the_same_answers() -> None:
    graph = brightness_model(4)
    file = describe(graph, {"model": "toy", "version": 1})
    assert file.startswith(graph)
    described = onnx.load_from_string(file)
    onnx.checker.check_model(described, full_check=True)
    assert described.graph == onnx.load_from_string(graph).graph
    assert {entry.key for entry in described.metadata_props} == {"simplecnn.name", "simplecnn.version"}
    images = np.full((1, 4, 4, 1), 51, np.uint8)
    answers = [
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"images": images})[0]
        for model in (graph, file)
    ]
    np.testing.assert_array_equal(*answers)


def test_the_metadata_of_the_graph_itself_stays() -> None:
    graph = onnx.load_from_string(brightness_model(4))
    graph.metadata_props.add(key="simplecnn.fit", value="{}")
    described = onnx.load_from_string(describe(graph.SerializeToString(), {"model": "toy", "version": 1}))
    assert next(entry.key for entry in described.metadata_props) == "simplecnn.fit"
