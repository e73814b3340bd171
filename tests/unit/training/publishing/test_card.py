"""The model card has YAML that the hub reads, code that runs, and text that no name can break."""

import re
from typing import Any

import pytest
import yaml

from training.publishing import card

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def manifest(**changes: Any) -> dict[str, Any]:
    """A manifest of a model of two classes, as far as the card reads it."""
    return {
        "model": "toy",
        "version": 3,
        "labels": ("a|b", "*c*"),
        "opset": 20,
        "created": "2026-01-01T00:00:00+00:00",
        "run": "run-1",
        "commit": "c0ffee",
        "command": "python -m training --model toy",
        "network": {"name": "toy", "pooling": "max", "parameters": 1234, "image_shape": (4, 5, 1)},
        "dataset": {
            "name": "mnist",
            "sha256": "0" * 64,
            "training": 100,
            "validation": 0,
            "test": 1000,
            "split_sha256": {"training": "1" * 64, "validation": "2" * 64, "test": "3" * 64},
        },
        "license": {"code": "Apache-2.0", "data": "CC-BY-SA-3.0"},
        "fit": {"method": "none", "version": 1},
        "recipe": {"name": "tuned", "epochs": 2, "batch_size": 10, "learning_rate": 0.1, "seed": 0},
        "optimizer": {"name": "AdamW", "groups": []},
        "calibration": {"temperature": 0.625, "validation_images": 3000},
        "machine": {"device": "cpu", "processor": "A processor", "threads": 2, "precision": "bfloat16"},
        "versions": {"torch": "2.14.1", "onnxruntime": "1.27.0"},
        "golden": {"tolerance": 1e-4},
        "metrics": {
            "test_accuracy": 0.975,
            "test_accuracy_error": 0.00494,
            "test_loss": 0.1,
            "test_confidence": 0.98,
            "calibration_error": 0.0000123,
            "precision": [0.9, None],
            "recall": [1.0, 0.5],
            "confusion": [[900, 0], [25, 75]],
            "test_accuracy_perturbed": {"noise 5%": 0.9},
            "training_seconds": 12.5,
        },
    } | changes


def front_matter(text: str) -> dict[str, Any]:
    """The YAML between the first two lines of dashes."""
    _, block, _ = text.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def test_the_card_begins_with_the_yaml_that_the_hub_reads() -> None:
    found = front_matter(card.render(manifest()))
    assert found["license"] == "cc-by-sa-3.0" and found["datasets"] == ["ylecun/mnist"]
    assert (found["library_name"], found["pipeline_tag"]) == ("onnx", "image-classification")
    assert "onnx" in found["tags"] and found["metrics"] == ["accuracy"]
    (model,) = found["model-index"]
    (result,) = model["results"]
    assert model["name"] == "toy" and result["task"] == {"type": "image-classification"}
    assert result["dataset"] == {"name": "mnist", "type": "ylecun/mnist", "split": "test"}
    assert result["metrics"] == [
        {"type": "accuracy", "value": 0.975},
        {"type": "expected_calibration_error", "value": pytest.approx(0.00001)},
    ]


def test_a_users_folder_has_no_licence_and_no_data_set_of_the_hub_and_any_name() -> None:
    data = manifest()["dataset"] | {"name": 'folder:/a "b"\n: \U0001f600 #c'}
    text = card.render(manifest(dataset=data, license={"code": "Apache-2.0"}))
    found = front_matter(text)
    assert "license" not in found and "datasets" not in found
    assert (
        found["model-index"][0]["results"][0]["dataset"]["name"]
        == 'folder:/a "b"\N{REPLACEMENT CHARACTER}: \U0001f600 #c'
    )
    assert "whose licence is not recorded" in text


def test_the_card_tells_data_recipe_accuracy_calibration_classes_robustness_and_the_command() -> None:
    text = card.render(manifest())
    for expected in (
        "**97.50 %**, standard error 0.49 %, on 1,000 images",
        "| test | 1,000 | `333",
        "Recipe `tuned`: 2 epochs in batches of 10, AdamW, learning rate 0.1",
        "A processor (cpu, bfloat16, 2 threads)",
        "the temperature 0.625, fitted on 3,000 validation images",
        "| a\\|b | 900 | 90.00 % | 100.00 % |",
        "| \\*c\\* | 100 | – | 50.00 % |",
        "| noise 5% |\n|---|\n| 90.00 % |",
        "```console\npython -m training --model toy\n```",
        "## Limits",
    ):
        assert expected in text, expected
    assert "8-bit" not in text and "None" not in text and text.endswith("\n")


def test_the_card_of_an_8_bit_model_says_so_and_one_without_calibration_or_commit_can_be_written() -> None:
    quantization = {"first_convolution": "float32", "speedup": 1.5, "float32_accuracy": 0.98}
    text = card.render(manifest(quantization=quantization, calibration=None, commit=None))
    assert "8-bit integers (first convolution: float32), 1.5 times as fast" in text
    assert "temperature" not in text and "without a recorded commit" in text


def test_every_code_block_of_the_card_is_python_with_the_models_name_and_shape() -> None:
    blocks = CODE.findall(card.render(manifest()))
    assert len(blocks) == 3
    for block in blocks:
        compile(block, "card", "exec")
    assert 'client.predict("toy", np.zeros((1, 4, 5, 1), np.uint8))' in blocks[1]
    assert 'triton.InferInput("images", [1, 4, 5, 1], "UINT8")' in blocks[2]
