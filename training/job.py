"""One job, from its settings to a published version.

Owns: the order of things, and what is said of them. Does not own: how any of them is done.
"""

import dataclasses
import json
import platform
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import export, publish, quantize, report, runs, sources
from training.data import Dataset, Part, split
from training.errors import GateError, Interrupted, TrainingError
from training.evaluate import Evaluation, evaluate
from training.folder import PREFIX
from training.group import Group, joined
from training.networks import Classifier, Network, Scaling, network_called
from training.pooling import Pooling
from training.progress import display
from training.recipe import Recipe, Step, narrow_type, recipe_for, scaling_for, train
from training.settings import CHANGEABLE, Settings

# How far an answer of another machine or provider may be from the golden one.
GOLDEN_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    settings: Settings
    name: str  # to publish under
    network: Network
    dataset: Dataset
    recipe: Recipe
    parts: tuple[Part, Part]  # training and validation
    scaling: Scaling


def run(settings: Settings, stopping: Callable[[], bool]) -> Path | None:
    """Do the job; the folder that was published, or None from all but the first process of a group.

    Raises:
        TrainingError: it came to an end before that, and the message says why.
        OSError: something cannot be written.
    """
    with joined(settings.device) as (group, device):
        job = prepare(settings, group)
        folder = _folder(job) if group.leads else None
        torch.manual_seed(settings.seed)
        model = Classifier(job.network, Pooling(settings.pool), len(job.dataset.label_names), job.scaling)
        if folder:
            _announce(job, folder, group, device)
        started = time.perf_counter()
        with ExitStack() as stack:
            try:
                selected = train(
                    model,
                    job.parts,
                    job.recipe,
                    device=device,
                    report=_reporter(folder, stack),
                    keeper=folder or (runs.RunFolder(settings.resume) if settings.resume else None),
                    group=group,
                    stopping=stopping,
                )
            except Interrupted as error:
                raise Interrupted(_way_on(error, folder)) from error
        seconds = time.perf_counter() - started
    return finish(job, folder, model, selected, seconds) if folder else None


def prepare(settings: Settings, group: Group) -> Job:
    """Fetch and check the data, and settle what the settings leave open."""
    network = network_called(settings.model)
    name = network.dataset if settings.dataset == "auto" else settings.dataset
    if not group.leads:
        group.any(False)  # the first process fetches what is missing, the others wait for it
    dataset = sources.load(name, settings.data_dir, network.image)
    if group.leads:
        group.any(False)
    if dataset.image != network.image:
        takes, has = ("×".join(map(str, image)) for image in (network.image, dataset.image))
        raise TrainingError(f"{network.name} takes images of {takes}, and those of {dataset.name} are {has}")
    recipe = recipe_for(
        settings.recipe,
        network,
        dataset,
        seed=settings.seed,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
    )
    parts = split(dataset.train, validation=int(len(dataset.train) * recipe.validation), seed=settings.seed)
    scaling = scaling_for(recipe, network, parts[0])
    return Job(settings, published_name(settings.name, network, dataset.name), network, dataset, recipe, parts, scaling)


def finish(job: Job, folder: runs.RunFolder, model: Classifier, selected: float, seconds: float) -> Path:
    """Judge what was learned on the test part, export it, prove that nothing was lost on the way, and publish it."""
    test = job.dataset.test
    evaluation = evaluate(model, test)
    print(f"trained in {seconds:.1f} s; test accuracy {evaluation.accuracy:.2%} on {len(test):,} images", flush=True)
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
    manifest = _manifest(job, folder, model, evaluation, parity, selected, seconds)
    folder.write_predictions(evaluation.probabilities.numpy(), test.labels.numpy())
    page = report.render(
        title=f"{job.name}: {evaluation.accuracy:.2%} of {len(test):,} test images",
        dataset=job.dataset,
        model=model,
        evaluation=evaluation,
        history=folder.history,
        facts=_facts(job, evaluation, seconds),
        settings=dataclasses.asdict(job.recipe) | _decisive(job.settings),
        command=repeat_command(job.settings),
        manifest=json.dumps(manifest, indent=2, default=str),
    )
    print(f"report {folder.write(runs.REPORT, page.encode())}")
    golden = _golden(evaluation.probabilities, test.labels)
    published = _publish(job, job.name, graph, manifest, golden, parity.probabilities)
    if job.settings.quantize == "int8":
        _publish_int8(job, graph, manifest, golden, evaluation.accuracy)
    folder.write_json(runs.RESULT, {"published": str(published), "test_accuracy": evaluation.accuracy})
    return published


def published_name(wanted: str, network: Network, dataset: str) -> str:
    """The name to publish under: what is asked for, or the network's, and the data's where it is not its own."""
    if wanted:
        return wanted
    own = {network.dataset, f"{network.dataset}-sample"}
    return network.name if dataset in own else f"{network.name}-{dataset.removeprefix(PREFIX)}".replace(" ", "-")


def gate(job: Job) -> float:
    """The least accuracy to publish: as set, or what suits the network, or better than a guess."""
    if job.settings.min_accuracy is not None:
        return job.settings.min_accuracy
    if job.name == job.network.name:
        return job.network.least
    commonest = job.dataset.test.labels.bincount().max().item()
    return commonest / len(job.dataset.test)


def repeat_command(settings: Settings) -> str:
    """The command line that does the same again."""
    given = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(value))}")
        for name, value in _decisive(settings).items()
        if value != Settings.model_fields[name].default
    ]
    return " ".join(["python -m training", f"--model {settings.model}", *given[settings.model != "mnist-simplecnn" :]])


def _decisive(settings: Settings) -> dict[str, Any]:
    """The settings that decide what is learned."""
    return settings.model_dump(exclude={*CHANGEABLE, "list", "summary"})


def _folder(job: Job) -> runs.RunFolder:
    """The run's folder, new or the one to go on with.

    Raises:
        TrainingError: it has ended.
    """
    settings = job.settings
    if settings.resume is None:
        saved = settings.model_dump(mode="json", exclude={"resume", "list", "summary"})
        return runs.begin(settings.runs, job.name, saved, tensorboard=settings.tensorboard)
    folder = runs.RunFolder(settings.resume, tensorboard=settings.tensorboard)
    if folder.result:
        raise TrainingError(f"{folder.path} has ended: it was published as {folder.result['published']}")
    return folder


def _way_on(error: Interrupted, folder: runs.RunFolder | None) -> str:
    """What the first process says of having been stopped; the others leave it to that one."""
    if folder is None:
        return ""
    return (
        f"{error}; nothing was published, what was done is kept; go on with: python -m training --resume {folder.path}"
    )


def _announce(job: Job, folder: runs.RunFolder, group: Group, device: torch.device) -> None:
    training, validation = job.parts
    numbers = f"{len(training):,} images to train, {len(validation):,} to select, {len(job.dataset.test):,} to test"
    narrow = narrow_type(device) if job.recipe.narrow else None
    where = f"{group.size} × {device}" if group.size > 1 else str(device)
    print(
        f"training {job.network.name} on {job.dataset.name}: {numbers}; {job.recipe.epochs} epochs on {where}"
        f"{f' in {narrow}'.replace('torch.', '') if narrow else ''}"
    )
    print(f"run {folder.path}", flush=True)


def _reporter(folder: runs.RunFolder | None, stack: ExitStack) -> Callable[[Step], None]:
    """What is told of progress: a person and the run's folder, by the first process alone."""
    if folder is None:
        return lambda _: None
    told: Sequence[Callable[[Step], None]] = (stack.enter_context(display()), stack.enter_context(folder))

    def tell(state: Step) -> None:
        for one in told:
            one(state)

    return tell


def _facts(job: Job, evaluation: Evaluation, seconds: float) -> dict[str, str]:
    return {
        "test accuracy": f"{evaluation.accuracy:.2%}",
        "test loss": f"{evaluation.loss:.4f}",
        "data": job.dataset.name,
        "epochs": str(job.recipe.epochs),
        "trained in": f"{seconds:.0f} s",
        "seed": str(job.recipe.seed),
        "pooling": job.settings.pool,
    }


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


def _manifest(
    job: Job,
    folder: runs.RunFolder,
    model: Classifier,
    evaluation: Evaluation,
    parity: export.Parity,
    selected: float,
    seconds: float,
) -> dict[str, Any]:
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
        "parity": {"max_difference": parity.max_difference, "tolerance": export.TOLERANCE},
        "batch_invariance": {"max_difference": parity.max_batch_difference, "tolerance": export.TOLERANCE},
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


def _publish_int8(job: Job, graph: bytes, manifest: dict[str, Any], golden: NDArray[np.int64], accuracy: float) -> None:
    """Publish the graph in 8-bit integers beside the other, if that is worth it."""
    test, training = job.dataset.test, job.parts[0]
    quantised = quantize.to_int8(graph, training.images[: quantize.CALIBRATION_IMAGES].numpy())
    comparison = quantize.compare(graph, quantised, test.images.numpy(), test.labels.numpy(), accuracy)
    said = f"int8: test accuracy {comparison.accuracy:.2%}, {comparison.speed:.2f} times as fast here"
    if comparison.reason_against:
        print(f"{said}; not published: {comparison.reason_against}")
        return
    facts = manifest | {
        "quantization": {
            "kind": "int8, static",
            "calibration_images": min(quantize.CALIBRATION_IMAGES, len(training)),
            "float_accuracy": accuracy,
            "speed": round(comparison.speed, 3),
            "smaller": round(comparison.smaller, 2),
        },
        "metrics": {"test_accuracy": comparison.accuracy},
    }
    del facts["parity"], facts["batch_invariance"]
    folder = _publish(
        job,
        f"{job.name}-int8",
        quantised,
        facts,
        golden,
        comparison.probabilities,
        tolerance=quantize.GOLDEN_TOLERANCE,
    )
    print(f"{said}; published {folder}")


def _commit() -> str | None:
    """The commit of this code, marked where it was changed since; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
