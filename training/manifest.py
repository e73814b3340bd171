"""The manifest: what a published version is, from which data and code it was made, and how good it is.

publish.py adds the schema version, the model's name, the labels and the SHA-256 of the graph and of golden.npz. The
service reads these, `fit`, `golden` and `metrics`; the rest is for people.
"""

import dataclasses
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training.evaluation.evaluate import Evaluation
from training.experiment import Experiment
from training.networks.classifier import Classifier
from training.publishing import export, quantize
from training.publishing.golden import Golden
from training.trainer.loop import TrainingResult

# Largest allowed difference between an answer on another machine or execution provider and the golden answer.
GOLDEN_TOLERANCE = 1e-4
# What is added for a golden picture, because another libjpeg or Pillow may give pixels that differ by a level or two.
# Measured: 2 levels change an answer by at most 0.006; to ignore EXIF or alpha, or to fit otherwise, one by 0.46 to 1.
PICTURE_TOLERANCE = 0.03


def training_facts(
    experiment: Experiment, run_id: str, model: Classifier, result: TrainingResult, evaluation: Evaluation
) -> dict[str, Any]:
    """How the model was made and how good it is; the same for the float32 and the 8-bit version."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run_id,
        "network": {
            "name": experiment.network.name,
            "pooling": experiment.settings.pooling,
            "pooling_window": experiment.settings.pooling_window,
            "pooling_stride": experiment.settings.pooling_stride,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "normalization": dataclasses.asdict(experiment.normalization),
        },
        "dataset": {
            "name": experiment.dataset.name,
            "sha256": experiment.dataset.digest(),
            "training": len(experiment.training),
            "validation": len(experiment.validation),
            "test": len(experiment.dataset.test),
        },
        "fit": experiment.fit.record(),
        "recipe": dataclasses.asdict(experiment.recipe),
        "metrics": evaluation.metrics()
        | {"validation_accuracy": result.validation_accuracy, "training_seconds": round(result.seconds, 1)},
        "opset": export.OPSET,
        "commit": code_commit(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "onnx", "onnxscript", "numpy")},
    }


def float32_manifest(facts: dict[str, Any], parity: export.Parity, golden: Golden) -> dict[str, Any]:
    """The manifest of the float32 version."""
    return facts | {
        "parity": {"max_abs_diff": parity.max_abs_diff, "tolerance": export.TOLERANCE},
        "batch_invariance": {"max_abs_diff": parity.batch_max_abs_diff, "tolerance": export.TOLERANCE},
        "golden": _golden(golden, GOLDEN_TOLERANCE),
    }


def int8_manifest(
    facts: dict[str, Any], comparison: quantize.Comparison, calibration_images: int, golden: Golden
) -> dict[str, Any]:
    """The manifest of the 8-bit version."""
    return facts | {
        "quantization": {
            "kind": "int8, static",
            "calibration_images": calibration_images,
            "float32_accuracy": facts["metrics"]["test_accuracy"],
            "speedup": round(comparison.speedup, 3),
            "size_reduction": round(comparison.size_reduction, 2),
        },
        "metrics": {"test_accuracy": comparison.accuracy},
        "golden": _golden(golden, quantize.GOLDEN_TOLERANCE),
    }


def _golden(golden: Golden, tolerance: float) -> dict[str, Any]:
    return {
        "samples": len(golden.samples),
        "tolerance": tolerance,
        "pictures": len(golden.pictures),
        "picture_tolerance": round(tolerance + PICTURE_TOLERANCE, 4),
    }


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
