"""The pipeline, from data to a published version. Read it from top to bottom.

Every stage is a function of another module; here are their order and the lines that a user sees.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.pictures.fit import Fit
from training import manifest, preflight
from training.errors import Interrupted
from training.evaluation.evaluate import Evaluation, evaluate
from training.experiment import Experiment, int8_name, prepare
from training.networks.classifier import Classifier
from training.publishing import acceptance, export, golden, quantize
from training.publishing.file_check import check_files
from training.publishing.golden import Golden
from training.publishing.publish import Artifact, publish
from training.report import page
from training.runs import run_folder
from training.runs.run_folder import MetricsLog, RunFolder, open_run_folder
from training.settings import Settings
from training.signals import SignalHandler
from training.trainer.device import mixed_precision_dtype
from training.trainer.distributed import ProcessGroup, process_group
from training.trainer.loop import TrainingResult, train
from training.trainer.progress import ProgressListener, progress_display


def run(settings: Settings, signals: SignalHandler) -> None:
    """Run the job. The main process prints what it publishes.

    Raises:
        TrainingError: nothing was published; the message says why.
        OSError: a file cannot be written.
    """
    with process_group(settings.device) as (processes, device):
        if processes.is_main:
            preflight.check_folders(settings)
        experiment = prepare(settings, processes)
        if processes.is_main:
            preflight.check_publication(experiment)
        folder = open_run_folder(settings, experiment.name) if processes.is_main else None
        model = experiment.build_model()
        if folder:
            _print_start(experiment, folder, processes, device)
        result = _train(experiment, model, folder, processes, device, signals)
    if folder is None:
        return
    evaluation = _evaluate(experiment, model, folder, result)
    facts = manifest.training_facts(experiment, folder.path.name, model, result, evaluation)
    try:
        if folder.result:  # a resumed run that lacks its report alone
            print(f"published {folder.result['published']} before")
        else:
            _publish_versions(experiment, model, folder, evaluation, facts)
    finally:  # also of a run that published nothing
        _write_report(experiment, model, folder, evaluation, facts)


def _publish_versions(
    experiment: Experiment, model: Classifier, folder: RunFolder, evaluation: Evaluation, facts: dict[str, Any]
) -> None:
    """Export the network, prove the graph and publish it; then, if asked for, its 8-bit version."""
    experiment.check_accuracy(evaluation.accuracy)
    graph, parity = _export(experiment, model, evaluation)
    test = experiment.dataset.test
    chosen = golden.choose(export.runner(graph), test, evaluation.probabilities, experiment.fit)
    float32 = manifest.float32_manifest(facts, parity, chosen)
    version = _publish(experiment, experiment.name, graph, float32, chosen, parity.probabilities)
    folder.write_json(run_folder.RESULT, {"published": str(version), "test_accuracy": evaluation.accuracy})
    waits = acceptance.waits_for(version)
    print(f"published {version}{f'; {waits}' if waits else ''}", flush=True)
    if experiment.settings.quantize == "int8":
        _publish_int8(experiment, graph, facts, chosen)


def _train(
    experiment: Experiment,
    model: Classifier,
    folder: RunFolder | None,
    processes: ProcessGroup,
    device: torch.device,
    signals: SignalHandler,
) -> TrainingResult:
    """Train in every process; the main one shows progress and writes checkpoints, and all resume from them."""
    settings = experiment.settings
    resumed = folder or (RunFolder(settings.resume) if settings.resume else None)
    with signals, ExitStack() as stack:
        listeners: list[ProgressListener] = []
        if folder:
            metrics_log = MetricsLog(folder.path, tensorboard=settings.tensorboard)
            listeners += [stack.enter_context(progress_display()), stack.enter_context(metrics_log)]
        try:
            return train(
                model,
                experiment.training,
                experiment.validation,
                experiment.recipe,
                device=device,
                listeners=listeners,
                checkpoints=resumed.checkpoints if resumed else None,
                processes=processes,
                should_stop=signals.should_stop,
            )
        except Interrupted as error:
            if folder is None:  # only the main process tells the user
                raise Interrupted("") from error
            raise Interrupted(
                f"{error}; nothing was published. Resume with: python -m training --resume {folder.path}"
            ) from error


def _print_start(experiment: Experiment, folder: RunFolder, processes: ProcessGroup, device: torch.device) -> None:
    training, validation, test = (
        f"{len(split):,}" for split in (experiment.training, experiment.validation, experiment.dataset.test)
    )
    dtype = (mixed_precision_dtype(device) if experiment.recipe.mixed_precision else None) or torch.float32
    print(
        f"training {experiment.network.name} on {experiment.dataset.name}: "
        f"{training} training, {validation} validation and {test} test images; "
        f"epochs: {experiment.recipe.epochs}; device: {f'{processes.size} × ' if processes.size > 1 else ''}{device}, "
        f"{str(dtype).removeprefix('torch.')}"
    )
    print(f"run {folder.path}", flush=True)


def _evaluate(experiment: Experiment, model: Classifier, folder: RunFolder, result: TrainingResult) -> Evaluation:
    """Evaluate on the test split, for the first time, and save the predictions."""
    test = experiment.dataset.test
    evaluation = evaluate(model, test)
    print(
        f"trained in {result.seconds:.1f} s; test accuracy {evaluation.accuracy:.2%} on {len(test):,} images",
        flush=True,
    )
    folder.write_predictions(evaluation.probabilities.numpy(), test.labels.numpy())
    return evaluation


def _write_report(
    experiment: Experiment, model: Classifier, folder: RunFolder, evaluation: Evaluation, facts: dict[str, Any]
) -> None:
    """Write the report. Its failure loses nothing but the report."""
    try:
        content = page.render(experiment, model, evaluation, folder.metrics, facts)
        print(f"report {folder.write(run_folder.REPORT, content.encode())}", flush=True)
    except Exception as error:  # noqa: BLE001 # whatever a network of unknown shape or a full disk raises
        print(f"report not written: {type(error).__name__}: {error}", flush=True)


def _export(experiment: Experiment, model: Classifier, evaluation: Evaluation) -> tuple[bytes, export.Parity]:
    """Export the graph and check on every test image that ONNX Runtime and PyTorch agree."""
    images = experiment.dataset.test.images
    graph = export.to_onnx(model, images[:2], experiment.fit)
    parity = export.check_parity(graph, images, evaluation.probabilities)
    print(
        f"exported: ONNX Runtime gives the same label for all {len(images):,} test images, "
        f"largest difference {parity.max_abs_diff:.1e}",
        flush=True,
    )
    return graph, parity


def _publish(
    experiment: Experiment,
    name: str,
    graph: bytes,
    its_manifest: dict[str, Any],
    chosen: Golden,
    probabilities: NDArray[np.float32],
) -> Path:
    """Publish the graph with its manifest and golden answers; `probabilities` are its own, of all test images.

    First, a user's own test files go the way that they will go in the service.
    """
    run, fit = export.runner(graph), Fit.from_record(its_manifest["fit"])
    if files := check_files(run, experiment.dataset, probabilities, fit):
        print(f"files: {files:,} test files get the same labels as their images did, read as the service will")
    images = experiment.dataset.test.images.numpy()
    artifact = Artifact(
        name=name,
        model=graph,
        manifest=its_manifest,
        golden=chosen.arrays(run, images, probabilities, fit),
        label_names=experiment.dataset.label_names,
        image_shape=experiment.network.image_shape,
    )
    return publish(experiment.settings.repository, artifact)


def _publish_int8(experiment: Experiment, graph: bytes, facts: dict[str, Any], chosen: Golden) -> None:
    """Quantize the graph, and publish it as a model of its own if it is good enough."""
    test, accuracy = experiment.dataset.test, facts["metrics"]["test_accuracy"]
    calibration_images = experiment.training.images[: quantize.CALIBRATION_IMAGES].numpy()
    quantized = quantize.to_int8(graph, calibration_images)
    comparison = quantize.compare(graph, quantized, test.images.numpy(), test.labels.numpy(), accuracy)
    outcome = f"int8: test accuracy {comparison.accuracy:.2%}, {comparison.speedup:.2f} times as fast on this machine"
    if comparison.reason_to_reject:
        print(f"{outcome}; not published: {comparison.reason_to_reject}")
        return
    int8 = manifest.int8_manifest(facts, comparison, len(calibration_images), chosen)
    version = _publish(experiment, int8_name(experiment.name), quantized, int8, chosen, comparison.probabilities)
    print(f"{outcome}; published {version}")
