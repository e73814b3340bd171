"""What a run is: its key facts, what it published, and how to repeat it.

Not here: the manifest (manifest.py), the command that repeats a run (experiment.py).
"""

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.experiment import repeat_command, reproducibility_settings
from training.publishing import export
from training.report.section import CannotDraw, ReportInput

# How long a speed is measured, and at least how often.
MEASURED_SECONDS, MIN_CALLS = 0.3, 5
# Longer lists of the manifest, such as the confusion matrix of many classes, are left out of the page.
MAX_LIST = 30


def key_facts(report: ReportInput) -> Mapping[str, Any]:
    """The figures at the top of the page, and a line of what the run is."""
    experiment, evaluation, facts = report.experiment, report.evaluation, report.facts
    metrics = facts["metrics"]
    validation = metrics.get("validation_accuracy")
    figures = {
        "test accuracy": f"{evaluation.accuracy:.2%}",
        "test loss": f"{evaluation.loss:.4f}",
        "validation accuracy": "" if validation is None else f"{validation:.2%}",
        "data set": experiment.dataset.name,
        "training images": f"{len(experiment.training):,}",
        "recipe": experiment.recipe.name,
        "epochs": str(experiment.recipe.epochs),
        "training time": _duration(metrics["training_seconds"]),
        "pooling": _pooling(report),
        "parameters": f"{facts['network']['parameters']:,}",
        "seed": str(experiment.recipe.seed),
    }
    about = [
        f"{experiment.name}, version {report.version.name}" if report.version else "not published",
        f"run {facts['run']}",
        facts["created"].replace("T", " ").replace("+00:00", " UTC"),
    ]
    return {"figures": {name: value for name, value in figures.items() if value}, "about": about}


def published(report: ReportInput) -> Mapping[str, Any]:
    """The published file: where it is, its size, and its speed on this machine."""
    if report.version is None:
        raise CannotDraw("The run published nothing.")
    model = (report.version / "model.onnx").read_bytes()
    images = report.experiment.dataset.test.images[: export.PARITY_BATCH_SIZE].numpy()
    run = export.runner(model)
    return {
        "rows": {
            "name": report.experiment.name,
            "version": report.version.name,
            "folder": str(report.version),
            "model.onnx": f"{len(model) / 1e6:,.2f} MB",
            "speed, one image at a time": f"{_images_per_second(run, images[:1]):,.0f} images/s",
            f"speed, in batches of {len(images)}": f"{_images_per_second(run, images):,.0f} images/s",
        }
    }


def repeat(report: ReportInput) -> Mapping[str, Any]:
    """The command, the settings and hyperparameters that were used, and the manifest."""
    experiment = report.experiment
    recipe = dataclasses.asdict(experiment.recipe)
    used = {
        "model": experiment.network.name,
        "dataset": experiment.dataset.name,
        "fit": experiment.fit.method,
        "name": experiment.name,
        "recipe": recipe.pop("name"),
    }
    return {
        "command": repeat_command(experiment.settings),
        "settings": reproducibility_settings(experiment.settings) | used | recipe,
        "manifest": json.dumps(_shortened(_manifest(report)), indent=2, default=str, ensure_ascii=False),
    }


def _manifest(report: ReportInput) -> Any:
    """The published manifest or, if nothing was published, what it would have said."""
    return json.loads((report.version / "manifest.json").read_text()) if report.version else report.facts


def _pooling(report: ReportInput) -> str:
    settings = report.experiment.settings
    if (settings.pooling_window, settings.pooling_stride) == (2, 2):
        return settings.pooling
    return f"{settings.pooling}, {settings.pooling_window}×{settings.pooling_window}, stride {settings.pooling_stride}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _images_per_second(run: export.Run, images: NDArray[np.uint8]) -> float:
    """Images per second of the fastest of many calls, which a busy neighbour disturbs least."""
    run(images)  # the first call allocates
    started, fastest, calls = time.perf_counter(), float("inf"), 0
    while calls < MIN_CALLS or time.perf_counter() - started < MEASURED_SECONDS:
        before = time.perf_counter()
        run(images)
        fastest, calls = min(fastest, time.perf_counter() - before), calls + 1
    return len(images) / fastest


def _shortened(value: Any) -> Any:
    """The value with a line in place of each list that is too long for the page."""
    if isinstance(value, Mapping):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if len(value) > MAX_LIST:
            return f"{len(value):,} values, see manifest.json"
        return [_shortened(item) for item in value]
    return value
