"""The pipeline, from data to a published version. Read it from top to bottom.

Every stage is a function of another module; here are their order and the lines that a user sees.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.pictures.fit import Fit
from training import manifest, preflight
from training.errors import Interrupted
from training.evaluation.evaluate import Evaluation, evaluate, figures
from training.evaluation.robustness import perturbed_accuracy
from training.experiment import Experiment, int8_name, prepare
from training.networks.classifier import Classifier
from training.publishing import acceptance, card, export, golden, quantize
from training.publishing.file_check import check_files
from training.publishing.golden import Golden
from training.publishing.publish import Artifact, publish
from training.report import page, runs_page
from training.runs import files
from training.runs.pins import PinnedCheckpoints, Pins
from training.runs.run_folder import MetricsLog, RunFolder, open_run_folder
from training.runs.session import run_session
from training.runs.tracking import Results, Tracker
from training.settings import Settings
from training.signals import SignalHandler
from training.teachers import load_teachers
from training.trainer.calibration import Calibration, calibrate
from training.trainer.checkpoint import CheckpointStore
from training.trainer.device import computing_dtype, processor_name, use_threads
from training.trainer.distributed import ProcessGroup, process_group
from training.trainer.loop import TrainingResult, train
from training.trainer.progress import ProgressListener, progress_display


@dataclass(frozen=True)
class Outcome:
    """A run that reached its end: its folder, the experiment and the trained network, and what it published."""

    folder: Path
    experiment: Experiment
    model: Classifier
    version: Path | None


def run(
    settings: Settings, signals: SignalHandler, *, opened: Callable[[Path], None] = lambda _: None
) -> Outcome | None:
    """Run the job, and print what it publishes; the outcome, or None in every process but the main one.

    `opened` is called with the run folder before the first step.

    Raises:
        TrainingError: nothing was published; the message says why.
        OSError: a file cannot be written.
    """
    use_threads(settings.threads)
    with ExitStack() as stack:
        with process_group(settings.device) as (processes, device):
            if processes.is_main:
                preflight.check_folders(settings)
            experiment = prepare(settings, processes)
            teachers = load_teachers(experiment)
            if processes.is_main and settings.publish:
                preflight.check_publication(experiment)
            folder = open_run_folder(settings, experiment.name) if processes.is_main else None
            model = experiment.build_model()
            trackers: Sequence[Tracker] = ()
            if folder:
                stack.callback(_write_index, folder.path.parent)  # at the very end, however the run ends
                trackers = stack.enter_context(run_session(experiment, folder))
                opened(folder.path)
                _print_start(experiment, folder, processes, device)
            checkpoints = _pinned_checkpoints(experiment, folder, processes, device)
            result = _train(experiment, model, teachers, folder, checkpoints, trackers, processes, device, signals)
        if folder is None:
            return None
        calibration = _calibrate(experiment, model, folder)
        evaluation = _evaluate(experiment, model, folder, result)
        facts = manifest.training_facts(
            experiment,
            folder.path.name,
            model,
            result,
            evaluation,
            calibration,
            device=device,
            processes=processes.size,
        )
        version = Path(folder.result["published"]) if folder.result else None
        failure: Exception | None = None
        try:
            if version:  # a resumed run that lacks its report or its 8-bit version
                print(f"published {version} before")
            elif settings.publish:
                experiment.check_accuracy(evaluation.accuracy)
            graph, parity = _export(experiment, model, evaluation)
            evaluation = dataclasses.replace(
                evaluation, perturbed_accuracy=perturbed_accuracy(export.runner(graph), experiment.dataset.test)
            )
            facts["metrics"] |= evaluation.metrics()
            if settings.publish:
                version = _publish_versions(experiment, graph, parity, folder, evaluation, facts)
        except Exception as error:  # noqa: BLE001 # a run that published nothing has a report too
            failure = error
        folder.write_facts(facts)
        _write_report(experiment, model, folder, evaluation, facts)
        _log_results(trackers, Results(model, evaluation, facts, version))
        if failure:
            raise failure
        return Outcome(folder.path, experiment, model, version)


def _publish_versions(
    experiment: Experiment,
    graph: bytes,
    parity: export.Parity,
    folder: RunFolder,
    evaluation: Evaluation,
    facts: dict[str, Any],
) -> Path:
    """Publish the graph and, if asked for, its 8-bit version; what a run published before it was stopped stays."""
    test, result = experiment.dataset.test, folder.result or {}
    chosen = golden.choose(export.runner(graph), test, evaluation.probabilities, experiment.fit)
    if not result:
        float32 = manifest.float32_manifest(facts, parity, chosen)
        version = _publish(experiment, experiment.name, graph, float32, chosen, parity.probabilities)
        result = {"published": str(version), "test_accuracy": evaluation.accuracy}
        folder.write_json(files.RESULT, result)
        waits = acceptance.waits_for(version)
        print(f"published {version}{f'; {waits}' if waits else ''}", flush=True)
    if experiment.settings.quantize == "int8" and "int8" not in result:
        int8 = _publish_int8(experiment, graph, facts, chosen)
        folder.write_json(files.RESULT, result | {"int8": str(int8) if int8 else None})
    return Path(result["published"])


def _pinned_checkpoints(
    experiment: Experiment, folder: RunFolder | None, processes: ProcessGroup, device: torch.device
) -> PinnedCheckpoints | None:
    """The run's checkpoints, which the main process writes, and all read that resume.

    Raises:
        TrainingError: what the run to resume depends on has changed.
    """
    resume = experiment.settings.resume
    run = folder or (RunFolder(resume) if resume else None)
    if run is None:
        return None
    pins = Pins.of(experiment, processes, device)
    pinned = PinnedCheckpoints(run.checkpoints, pins, print if folder else lambda _: None)
    if folder and resume and pinned.load() is None:
        print("no checkpoint was saved before the run stopped: it starts at the first step")
    return pinned


def _train(
    experiment: Experiment,
    model: Classifier,
    teachers: Sequence[Classifier],
    folder: RunFolder | None,
    checkpoints: CheckpointStore | None,
    trackers: Sequence[Tracker],
    processes: ProcessGroup,
    device: torch.device,
    signals: SignalHandler,
) -> TrainingResult:
    """Train in every process; the main one shows progress and writes checkpoints, and all resume from them."""
    with signals, ExitStack() as stack:
        listeners: list[ProgressListener] = []
        if folder:
            listeners += [stack.enter_context(progress_display()), MetricsLog(folder.path), *trackers]
        try:
            return train(
                model,
                experiment.training,
                experiment.validation,
                experiment.recipe,
                device=device,
                test=experiment.dataset.test if experiment.recipe.name == "reference" else None,
                teachers=teachers,
                listeners=listeners,
                checkpoints=checkpoints,
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
    dtype = computing_dtype(device, mixed_precision=experiment.recipe.mixed_precision)
    print(
        f"training {experiment.network.name} on {experiment.dataset.name}: "
        f"{training} training, {validation} validation and {test} test images; "
        f"epochs: {experiment.recipe.epochs}; device: {f'{processes.size} × ' if processes.size > 1 else ''}{device} "
        f"({processor_name(device)}), {str(dtype).removeprefix('torch.')}; threads: {torch.get_num_threads()}"
    )
    if experiment.initial:
        print(f"starts from the weights of {experiment.settings.init_from}")
    print(f"run {folder.path}", flush=True)


def _calibrate(experiment: Experiment, model: Classifier, folder: RunFolder) -> Calibration | None:
    """Calibrate the network on the validation images, and save the temperature, which the checkpoint lacks."""
    if not experiment.recipe.calibrate or not (calibration := calibrate(model, experiment.validation)):
        return None
    folder.write_json(files.CALIBRATION, dataclasses.asdict(calibration))
    print(
        f"calibrated: temperature {calibration.temperature:.3f}, "
        f"fitted on {calibration.validation_images:,} validation images"
    )
    return calibration


def _evaluate(experiment: Experiment, model: Classifier, folder: RunFolder, result: TrainingResult) -> Evaluation:
    """Evaluate on the test split, for the first time, and save the predictions."""
    test = experiment.dataset.test
    evaluation = evaluate(model, test)
    taught = f", {result.teacher_seconds:.1f} s of them for the teachers' answers" if result.teacher_seconds else ""
    print(
        f"trained in {result.seconds:.1f} s{taught}; test accuracy {evaluation.accuracy_text}",
        flush=True,
    )
    folder.write_predictions(evaluation.probabilities.numpy(), test.labels.numpy())
    return evaluation


def _write_report(
    experiment: Experiment, model: Classifier, folder: RunFolder, evaluation: Evaluation, facts: dict[str, Any]
) -> None:
    """Write the report. Its failure loses nothing but the report."""
    try:
        version = Path(folder.result["published"]) if folder.result else None
        content = page.render(experiment, model, evaluation, folder.metrics, facts, version)
        print(f"report {folder.write(files.REPORT, content.encode())}", flush=True)
    except Exception as error:  # noqa: BLE001 # whatever a network of unknown shape or a full disk raises
        print(f"report not written: {type(error).__name__}: {error}", flush=True)


def _log_results(trackers: Sequence[Tracker], results: Results) -> None:
    """Give the results to the trackers. Their failure loses nothing but what they show."""
    for tracker in trackers:
        try:
            tracker.log_results(results)
        except Exception as error:  # noqa: BLE001 # whatever their packages and disks raise
            print(f"results not shown by {type(tracker).__name__}: {type(error).__name__}: {error}", flush=True)


def _write_index(runs_dir: Path) -> None:
    """Write the page of all runs. Its failure loses nothing: the next run writes it again."""
    try:
        runs_page.write_index(runs_dir)
    except Exception as error:  # noqa: BLE001 # whatever lies in the folder of somebody else
        print(f"{files.INDEX} not written: {type(error).__name__}: {error}", flush=True)


def _export(experiment: Experiment, model: Classifier, evaluation: Evaluation) -> tuple[bytes, export.Parity]:
    """Export the graph and check on every test image that ONNX Runtime and PyTorch agree."""
    images = experiment.dataset.test.images
    graph = export.to_onnx(model, images[:2], experiment.fit)
    parity = export.check_parity(graph, images, evaluation.probabilities)
    ties = f" but {parity.ties:,} ties" if parity.ties else ""
    print(
        f"exported: ONNX Runtime gives the same label for all {len(images):,} test images{ties}, "
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
        card=card.render,
    )
    return publish(experiment.settings.repository, artifact)


def _publish_int8(experiment: Experiment, graph: bytes, facts: dict[str, Any], chosen: Golden) -> Path | None:
    """Quantize the graph, and publish it as a model of its own if it is good enough."""
    best = quantize.best_int8(graph, experiment.training, experiment.validation)
    outcome = (
        f"int8: accuracy loss {100 * best.accuracy_loss:.2f} points on {best.images:,} {best.split} images, "
        f"{best.speedup:.2f} times as fast on this machine"
    )
    if best.reason_to_reject:
        print(f"{outcome}; not published: {best.reason_to_reject}")
        return None
    test, run = experiment.dataset.test, export.runner(best.model)
    evaluation = figures(torch.from_numpy(run(test.images.numpy())), test.labels)
    evaluation = dataclasses.replace(evaluation, perturbed_accuracy=perturbed_accuracy(run, test))
    int8 = manifest.int8_manifest(facts, best, evaluation, chosen)
    version = _publish(
        experiment, int8_name(experiment.name), best.model, int8, chosen, evaluation.probabilities.numpy()
    )
    print(f"{outcome}; test accuracy {evaluation.accuracy_text}; published {version}")
    return version
