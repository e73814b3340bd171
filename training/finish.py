"""What becomes of trained weights: judged, pictured, exported, proved and published.

Owns: the order of that, the gate, and what the manifest says. Does not own: how any of it is done.
"""

import dataclasses
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import export, publish, quantize, report, runs
from training.errors import GateError
from training.evaluate import Evaluation, evaluate
from training.job import Job, decisive, gate, repeat_command
from training.networks import Classifier

# How far an answer of another machine or provider may be from the golden one.
GOLDEN_TOLERANCE = 1e-4


def finish(job: Job, folder: runs.RunFolder, model: Classifier, selected: float, seconds: float) -> Path:
    """Judge what was learned on the test part, export it, prove that nothing was lost on the way, and publish it."""
    test = job.dataset.test
    evaluation = evaluate(model, test)
    print(f"trained in {seconds:.1f} s; test accuracy {evaluation.accuracy:.2%} on {len(test):,} images", flush=True)
    facts = _facts(job, folder, model, evaluation, selected, seconds)
    folder.write_predictions(evaluation.probabilities.numpy(), test.labels.numpy())
    print(f"report {_write_report(job, folder, model, evaluation, facts)}", flush=True)
    least = gate(job)
    if evaluation.accuracy < least:
        raise GateError(
            f"test accuracy {evaluation.accuracy:.2%} is below --min-accuracy {least:.2%}; nothing was published"
        )
    graph = export.to_onnx(model, test.images[:2])
    parity = export.check_parity(graph, test.images, evaluation.probabilities)
    print(
        f"exported: ONNX Runtime gives the same label for all {len(test):,} test images, "
        f"largest difference {parity.max_difference:.1e}",
        flush=True,
    )
    golden = _golden(evaluation.probabilities, test.labels)
    manifest = facts | {
        "parity": {"max_difference": parity.max_difference, "tolerance": export.TOLERANCE},
        "batch_invariance": {"max_difference": parity.max_batch_difference, "tolerance": export.TOLERANCE},
    }
    published = _publish(job, job.name, graph, manifest, golden, parity.probabilities)
    folder.write_json(runs.RESULT, {"published": str(published), "test_accuracy": evaluation.accuracy})
    if job.settings.quantize == "int8":
        _publish_int8(job, graph, facts, golden, evaluation.accuracy)
    return published


def _write_report(
    job: Job, folder: runs.RunFolder, model: Classifier, evaluation: Evaluation, facts: dict[str, Any]
) -> Path:
    page = report.render(
        title=f"{job.name}: {evaluation.accuracy:.2%} of {len(job.dataset.test):,} test images",
        dataset=job.dataset,
        model=model,
        evaluation=evaluation,
        history=folder.history,
        facts={
            "test accuracy": f"{evaluation.accuracy:.2%}",
            "test loss": f"{evaluation.loss:.4f}",
            "data": job.dataset.name,
            "epochs": str(job.recipe.epochs),
            "trained in": f"{facts['metrics']['training_seconds']:.0f} s",
            "seed": str(job.recipe.seed),
            "pooling": job.settings.pool,
        },
        settings=dataclasses.asdict(job.recipe) | decisive(job.settings),
        command=repeat_command(job.settings),
        manifest=json.dumps(facts, indent=2, default=str),
    )
    return folder.write(runs.REPORT, page.encode())


def _golden(probabilities: Tensor, labels: Tensor) -> NDArray[np.int64]:
    """Two test images of each class: the first, and the one that is called right with the least certainty."""
    chosen = []
    for label in labels.unique().tolist():
        (own,) = torch.where(labels == label)
        right = own[probabilities[own].argmax(1) == label]
        chosen.append(int(own[0]))
        if len(right):
            chosen.append(int(right[probabilities[right, label].argmin()]))
    return np.unique(chosen)


def _facts(
    job: Job, folder: runs.RunFolder, model: Classifier, evaluation: Evaluation, selected: float, seconds: float
) -> dict[str, Any]:
    """What the manifest says of the training."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": folder.path.name,
        "network": {
            "name": job.network.name,
            "pool": job.settings.pool,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "scaling": dataclasses.asdict(job.scaling),
        },
        "dataset": {
            "name": job.dataset.name,
            "sha256": job.dataset.digest(),
            "training": len(job.parts[0]),
            "validation": len(job.parts[1]),
            "test": len(job.dataset.test),
        },
        "recipe": dataclasses.asdict(job.recipe),
        "metrics": evaluation.metrics()
        | {"validation_accuracy": selected if len(job.parts[1]) else None, "training_seconds": round(seconds, 1)},
        "opset": export.OPSET,
        "commit": _commit(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "onnx", "onnxscript", "numpy")},
    }


def _publish(
    job: Job,
    name: str,
    graph: bytes,
    manifest: dict[str, Any],
    golden: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    *,
    tolerance: float = GOLDEN_TOLERANCE,
) -> Path:
    return publish.publish(
        job.settings.repository,
        publish.Artifact(
            name=name,
            model=graph,
            manifest=manifest | {"golden": {"samples": len(golden), "tolerance": tolerance}},
            golden={
                export.INPUT: job.dataset.test.images.numpy()[golden],
                export.OUTPUT: probabilities[golden],
            },
            label_names=job.dataset.label_names,
            image=job.network.image,
        ),
    )


def _publish_int8(job: Job, graph: bytes, facts: dict[str, Any], golden: NDArray[np.int64], accuracy: float) -> None:
    """Publish the graph in 8-bit integers beside the other, if that is worth it."""
    test, training = job.dataset.test, job.parts[0]
    quantised = quantize.to_int8(graph, training.images[: quantize.CALIBRATION_IMAGES].numpy())
    comparison = quantize.compare(graph, quantised, test.images.numpy(), test.labels.numpy(), accuracy)
    said = f"int8: test accuracy {comparison.accuracy:.2%}, {comparison.speed:.2f} times as fast here"
    if comparison.reason_against:
        print(f"{said}; not published: {comparison.reason_against}")
        return
    manifest = facts | {
        "quantization": {
            "kind": "int8, static",
            "calibration_images": min(quantize.CALIBRATION_IMAGES, len(training)),
            "float_accuracy": accuracy,
            "speed": round(comparison.speed, 3),
            "smaller": round(comparison.smaller, 2),
        },
        "metrics": {"test_accuracy": comparison.accuracy},
    }
    folder = _publish(
        job,
        f"{job.name}-int8",
        quantised,
        manifest,
        golden,
        comparison.probabilities,
        tolerance=quantize.GOLDEN_TOLERANCE,
    )
    print(f"{said}; published {folder}")


def _commit() -> str | None:
    """The commit of this code, marked where it was changed since; None outside a checkout and an image."""
    if built_from := os.environ.get("SIMPLECNN_COMMIT"):
        return built_from
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
