"""The manifest: what a published version is, from which data and code it was made, and how good it is.

publish.py adds the schema version, the model's name and version, the labels and the SHA-256 of the graph and of
golden.npz. The service reads these, `fit`, `golden` and `metrics`; the rest is for people, README.md (card.py) and
`--evaluate`.
"""

import dataclasses
import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from training.data.dataset import Split
from training.evaluation.evaluate import Evaluation
from training.experiment import Experiment, repeat_command
from training.networks.classifier import Classifier
from training.publishing import export, quantize
from training.publishing.golden import Golden
from training.trainer.calibration import Calibration
from training.trainer.device import computing_dtype, processor_name
from training.trainer.loop import TrainingResult
from training.trainer.recipe import Recipe, optimizer_for

CODE_LICENSE = "Apache-2.0"
# SPDX identifiers. CIFAR-10's authors name no licence, and of a user's pictures none is known.
DATA_LICENSES = {"mnist": "CC-BY-SA-3.0", "mnist-sample": "CC-BY-SA-3.0", "fashion-mnist": "MIT"}
# Largest allowed difference between an answer on another machine or execution provider and the golden answer.
GOLDEN_TOLERANCE = 1e-4
# What is added for a golden picture, because another libjpeg or Pillow may give pixels that differ by a level or two.
# Measured: 2 levels change an answer by at most 0.006; to ignore EXIF or alpha, or to fit otherwise, one by 0.46 to 1.
PICTURE_TOLERANCE = 0.03
CPU = torch.device("cpu")


def training_facts(
    experiment: Experiment,
    run_id: str,
    model: Classifier,
    result: TrainingResult,
    evaluation: Evaluation,
    calibration: Calibration | None = None,
    *,
    device: torch.device = CPU,
    processes: int = 1,
) -> dict[str, Any]:
    """How the model was made and how good it is; the same for the float32 and the 8-bit version."""
    recipe, dataset = experiment.recipe, experiment.dataset
    licenses = {"code": CODE_LICENSE, "data": DATA_LICENSES.get(dataset.name)}
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run_id,
        "network": {
            "name": experiment.network.name,
            "image_shape": experiment.network.image_shape,
            "pooling": experiment.settings.pooling,
            "pooling_window": experiment.settings.pooling_window,
            "pooling_stride": experiment.settings.pooling_stride,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "normalization": dataclasses.asdict(experiment.normalization),
        },
        "dataset": {
            "name": dataset.name,
            "sha256": dataset.digest(),
            "training": len(experiment.training),
            "validation": len(experiment.validation),
            "test": len(dataset.test),
            "excluded": dict(dataset.excluded),
            "split_sha256": {
                "training": _digest(experiment.training),
                "validation": _digest(experiment.validation),
                "test": _digest(dataset.test),
            },
        },
        "license": {part: name for part, name in licenses.items() if name},
        "fit": experiment.fit.record(),
        "recipe": dataclasses.asdict(recipe),
        "teachers": [folder.name for folder in experiment.settings.teacher],
        "optimizer": _optimizer(recipe, model),
        "calibration": dataclasses.asdict(calibration) if calibration else None,
        "command": repeat_command(experiment.settings, public=True),
        "machine": {
            "device": str(device),
            "processor": processor_name(device),
            "threads": torch.get_num_threads(),
            "processes": processes,
            "precision": str(computing_dtype(device, mixed_precision=recipe.mixed_precision)).removeprefix("torch."),
        },
        "metrics": evaluation.metrics()
        | {
            "validation_accuracy": result.validation_accuracy,
            "training_seconds": round(result.seconds, 1),
            "teacher_seconds": round(result.teacher_seconds, 1),
            "epochs": result.epochs,
        },
        "opset": export.OPSET,
        "commit": code_commit(),
        "versions": {"python": platform.python_version(), "onnxruntime": onnxruntime.__version__}
        | {name: version(name) for name in ("torch", "onnx", "onnxscript", "numpy")},
    }


def float32_manifest(facts: dict[str, Any], parity: export.Parity, golden: Golden) -> dict[str, Any]:
    """The manifest of the float32 version."""
    return facts | {
        "parity": {"max_abs_diff": parity.max_abs_diff, "tolerance": export.TOLERANCE, "ties": parity.ties},
        "batch_invariance": {"max_abs_diff": parity.batch_max_abs_diff, "tolerance": export.TOLERANCE},
        "golden": _golden(golden, GOLDEN_TOLERANCE),
    }


def int8_manifest(
    facts: dict[str, Any], comparison: quantize.Comparison, evaluation: Evaluation, golden: Golden
) -> dict[str, Any]:
    """The manifest of the 8-bit version; `evaluation` is its own, on the test split."""
    return facts | {
        "quantization": {
            "kind": "int8, static",
            "first_convolution": comparison.first_convolution,
            "compared_on": {"split": comparison.split, "images": comparison.images},
            "accuracy_loss": round(comparison.accuracy_loss, 5),
            "float32_accuracy": facts["metrics"]["test_accuracy"],
            "speedup": round(comparison.speedup, 3),
            "size_reduction": round(comparison.size_reduction, 2),
        },
        "metrics": evaluation.metrics() | {"training_seconds": facts["metrics"]["training_seconds"]},
        "golden": _golden(golden, quantize.GOLDEN_TOLERANCE),
    }


def _golden(golden: Golden, tolerance: float) -> dict[str, Any]:
    return {
        "samples": len(golden.samples),
        "tolerance": tolerance,
        "pictures": len(golden.pictures),
        "picture_tolerance": round(tolerance + PICTURE_TOLERANCE, 4),
    }


def _digest(split: Split) -> str:
    """SHA-256 of the split's pixels and labels."""
    sha = hashlib.sha256()
    for tensor in (split.images, split.labels):
        sha.update(tensor.contiguous().numpy().data)
    return sha.hexdigest()


def _optimizer(recipe: Recipe, model: Classifier) -> dict[str, Any]:
    """The optimizer's name and, of each group of parameters, their number and its hyperparameters at the start."""
    optimizer = optimizer_for(recipe, model)
    groups = [
        {"parameters": sum(parameter.numel() for parameter in group["params"])}
        | {name: group[name] for name in ("lr", "betas", "eps", "weight_decay") if name in group}
        for group in optimizer.param_groups
    ]
    return {"name": type(optimizer).__name__, "groups": groups}


def code_commit() -> str | None:
    """The commit of this code, `-dirty` if it was changed since; None outside a git checkout and an image."""
    if built_from := os.environ.get("SIMPLECNN_COMMIT"):
        return built_from
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():  # git would look in the folders above
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=checkout, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
