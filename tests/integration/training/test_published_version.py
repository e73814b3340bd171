"""A published version says what it is: manifest, graph and model card; and it can be evaluated again."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from PIL import Image
from pydantic_settings import CliApp

from service.pictures.fit import NONE, RESIZE, Fit
from tests.support.paths import ROOT
from tests.support.processes import service_process
from tests.support.publishing import brightness_model
from tests.support.training import SAMPLE
from training.data.dataset import Split
from training.errors import TrainingError
from training.evaluate_version import evaluate_version, find_version
from training.settings import Settings


@pytest.fixture(scope="module")
def version(published: Path) -> Path:
    """The folder of a version that the command published."""
    return published / "mnist-simplecnn" / "1"


@pytest.fixture(scope="module")
def manifest(version: Path) -> dict[str, Any]:
    """Its manifest, read by a parser that takes the JSON standard at its word."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found: dict[str, Any] = json.loads((version / "manifest.json").read_text(), parse_constant=refuse)
    return found


def digest(split: Split) -> str:
    return hashlib.sha256(split.images.numpy().tobytes() + split.labels.numpy().tobytes()).hexdigest()


def test_the_manifest_says_on_what_and_with_what_the_model_was_trained(manifest: dict[str, Any]) -> None:
    assert manifest["schema"] == 5 and manifest["version"] == 1
    machine = manifest["machine"]
    assert machine["device"] == "cpu" and machine["processes"] == 1
    assert machine["processor"] and machine["threads"] >= 1 and machine["precision"] in ("float32", "bfloat16")
    assert manifest["versions"]["onnxruntime"] == onnxruntime.__version__
    assert manifest["optimizer"]["name"] == "AdamW"
    assert sum(group["parameters"] for group in manifest["optimizer"]["groups"]) == manifest["network"]["parameters"]
    assert all({"lr", "betas", "eps", "weight_decay"} <= group.keys() for group in manifest["optimizer"]["groups"])
    assert manifest["license"] == {"code": "Apache-2.0", "data": "CC-BY-SA-3.0"}
    assert manifest["calibration"] is None, "250 validation images are too few"
    assert manifest["command"].startswith("python -m training --model mnist-simplecnn --dataset mnist-sample")


def test_the_manifest_has_the_digest_of_each_split_and_counts_that_are_integers(manifest: dict[str, Any]) -> None:
    data = manifest["dataset"]
    assert data["split_sha256"]["test"] == digest(SAMPLE.test)
    assert len(set(data["split_sha256"].values())) == 3
    assert (data["training"], data["validation"], data["test"]) == (4750, 250, 1000)
    counts = [count for row in manifest["metrics"]["confusion"] for count in row]
    assert all(type(count) is int for count in counts) and sum(counts) == 1000
    assert len(manifest["metrics"]["test_accuracy_perturbed"]) == 7


def test_the_graph_says_what_it_is_without_its_folder(version: Path, manifest: dict[str, Any]) -> None:
    session = onnxruntime.InferenceSession((version / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    found = session.get_modelmeta()
    metadata = {key.removeprefix("simplecnn."): value for key, value in found.custom_metadata_map.items()}
    assert (found.producer_name, found.version) == ("simplecnn", 1)
    assert metadata["name"] == "mnist-simplecnn" and json.loads(metadata["labels"]) == list("0123456789")
    assert json.loads(metadata["fit"]) == manifest["fit"] and metadata["dataset"] == "mnist-sample"
    assert float(metadata["test_accuracy"]) == manifest["metrics"]["test_accuracy"]
    assert metadata["run"] == manifest["run"] and metadata["data_license"] == "CC-BY-SA-3.0"


def test_the_card_is_in_the_hubs_format_and_its_code_for_onnx_runtime_runs(
    version: Path, manifest: dict[str, Any]
) -> None:
    card = (version / "README.md").read_text()
    found = yaml.safe_load(card.split("---\n", 2)[1])
    (result,) = found["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(manifest["metrics"]["test_accuracy"], abs=1e-5)
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    assert len(code.split("\n\n", 1)[1].splitlines()) <= 6
    done = subprocess.run([sys.executable, "-c", code], cwd=version, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(version / "golden.npz") as golden:
        expected = [str(golden["labels"][index]) for index in golden["probabilities"].argmax(1)]
    assert done.stdout == f"{expected}\n"


def test_the_cards_code_for_both_clients_runs_against_the_service(published: Path, version: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (version / "README.md").read_text(), re.DOTALL)[1:]
    with service_process(published) as service:
        code = "\n".join(blocks).replace("127.0.0.1:8001", service.address)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[[") == 2


# --- --evaluate ---


def settings(**given: object) -> Settings:
    return CliApp.run(Settings, cli_args=[f"--{name}={value}" for name, value in given.items()])


def test_evaluating_a_version_on_its_own_data_gives_the_manifests_figures(
    published: Path, manifest: dict[str, Any]
) -> None:
    metrics = manifest["metrics"]
    text = evaluate_version(settings(evaluate="mnist-simplecnn", repository=published))
    first, second, header, *rows, confused = text.splitlines()
    assert first == f"{published}/mnist-simplecnn/1 on mnist-sample, test split"
    assert second.startswith(f"accuracy {metrics['test_accuracy']:.2%} ± {100 * metrics['test_accuracy_error']:.2f} on")
    assert f"loss {metrics['test_loss']:.4f}; expected calibration error {metrics['calibration_error']:.2%}" in second
    assert header.split() == ["class", "images", "precision", "recall"] and len(rows) == 10
    assert rows[3].split() == ["3", "100", f"{metrics['precision'][3]:.2%}", f"{metrics['recall'][3]:.2%}"]
    assert confused.startswith("most confused: ")


def write_brightness(repository: Path, labels: tuple[str, ...] = ("dark", "light"), fit: str = NONE) -> Path:
    """The toy classifier of images (4, 4, 1) as the next version, with what `--evaluate` reads.

    The job itself would refuse versions of one model with other classes.
    """
    version = repository / "toy" / str(len(list(repository.glob("toy/*"))) + 1)
    version.mkdir(parents=True)
    model = brightness_model(4)
    manifest = {
        "model": "toy", "sha256": hashlib.sha256(model).hexdigest(), "labels": labels, "fit": Fit(fit).record(),
        "network": {"image_shape": (4, 4, 1)}, "dataset": {"name": "folder:nowhere"},
    }  # fmt: skip
    (version / "model.onnx").write_bytes(model)
    (version / "manifest.json").write_text(json.dumps(manifest))
    return version


def write_pictures(folder: Path, levels: dict[str, list[int]]) -> Path:
    """Grey pictures of these levels, by class; the same ones to train and to test on."""
    for split in ("train", "test"):
        for label, its_levels in levels.items():
            (folder / split / label).mkdir(parents=True)
            for number, level in enumerate(its_levels):
                Image.new("L", (4, 4), level + (split == "train")).save(folder / split / label / f"{number}.png")
    return folder


def test_a_version_is_evaluated_on_any_folder_with_its_classes_in_any_order(tmp_path: Path) -> None:
    write_brightness(tmp_path, ("light", "dark"))
    version = write_brightness(tmp_path, ("dark", "light"))
    pictures = write_pictures(tmp_path / "data", {"light": [250, 240, 30], "dark": [10, 20]})
    text = evaluate_version(settings(evaluate=str(version), dataset=f"folder:{pictures}"))
    assert "accuracy 80.00% ± 17.89 on 5 images" in text
    rows = [line.split() for line in text.splitlines()[3:5]]
    assert rows == [["dark", "2", "66.67%", "100.00%"], ["light", "3", "100.00%", "66.67%"]]
    assert text.endswith("most confused: light as dark (1)")


def test_a_version_is_found_by_path_by_name_and_by_name_and_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = write_brightness(tmp_path / "models"), write_brightness(tmp_path / "models")
    assert find_version("toy", tmp_path / "models") == second
    assert find_version("toy/1", tmp_path / "models") == first
    monkeypatch.chdir(tmp_path)
    assert find_version("models/toy/1", Path("elsewhere")) == Path("models/toy/1")
    with pytest.raises(TrainingError, match="--evaluate other: no version there"):
        find_version("other", tmp_path / "models")


def test_other_classes_images_fits_and_graphs_are_refused_by_name(tmp_path: Path) -> None:
    version = write_brightness(tmp_path)
    pictures = write_pictures(tmp_path / "data", {"light": [250], "dark": [10], "grey": [128]})

    def refusal(**given: Any) -> str:
        with pytest.raises(TrainingError) as raised:
            evaluate_version(settings(evaluate=str(version), **given))
        return str(raised.value)

    assert "has classes that" in (text := refusal(dataset=f"folder:{pictures}"))
    assert "does not know: grey; it knows dark, light" in text
    assert f"--fit resize: {version} was trained with none" in refusal(dataset=f"folder:{pictures}", fit=RESIZE)
    digits = write_brightness(tmp_path / "digits", tuple("0123456789"))
    with pytest.raises(TrainingError, match="takes images of 4×4×1; those of mnist-sample are 28×28×1"):
        evaluate_version(settings(evaluate=str(digits), dataset="mnist-sample"))
    (version / "model.onnx").write_bytes(b"another graph")
    assert "model.onnx does not match its manifest: expected SHA-256" in refusal()
    (version / "manifest.json").write_text('{"model": "toy"}')
    assert "is no version that this job can evaluate (KeyError: 'network')" in refusal()
