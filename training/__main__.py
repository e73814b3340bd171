"""`python -m training`: train a network, judge it once on its test set, export, prove and publish it.

Exit status: 0 published; 1 not published, with the reason in one line; 2 a setting makes no sense; 130 interrupted.
"""

import dataclasses
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from training.settings import Settings

if TYPE_CHECKING:
    import torch

# How far an answer of another machine or provider may be from the golden one.
GOLDEN_TOLERANCE = 1e-4


def main() -> None:
    """Run the command and exit."""
    try:
        settings = CliApp.run(Settings)
    except (ValidationError, SettingsError) as error:
        sys.exit(_refuse(error))
    try:
        status = run(settings)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was published", file=sys.stderr)
        status = 130
    sys.exit(status)


def run(settings: Settings) -> int:
    """Do the job that the settings describe and return the exit status."""
    from training.errors import TrainingError  # torch takes seconds to import; --help and refusals need not wait

    try:
        folder = _train_and_publish(settings)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: cannot publish into {settings.repository}: {error}", file=sys.stderr)
        return 1
    print(f"published {folder}")
    return 0


def _train_and_publish(settings: Settings) -> Path:
    import torch

    from training import data, export, networks, progress, publish, recipe
    from training.errors import GateError

    device = _device(settings.device)
    network = networks.NETWORKS[settings.model]
    dataset = data.load(settings.dataset, settings.data_dir)
    training, validation = data.split(dataset.train, validation=len(dataset.train) // 12, seed=settings.seed)
    epochs, batch_size = recipe.DEFAULTS[settings.dataset]
    how = recipe.Recipe(
        epochs=settings.epochs or epochs,
        batch_size=settings.batch_size or batch_size,
        seed=settings.seed,
    )
    print(
        f"training {network.name} on {dataset.name}: {len(training):,} images to train, {len(validation):,} to select, "
        f"{len(dataset.test):,} to test; {how.epochs} epochs on {device}",
        flush=True,
    )

    started = time.perf_counter()
    with progress.display() as report:
        model, selected = recipe.train(network, (training, validation), how, device=device, report=report)
    seconds = time.perf_counter() - started

    # The only look at the test part: the same probabilities give the accuracy and are what ONNX Runtime must answer.
    probabilities = recipe.predict(model, dataset.test.images)
    accuracy = (probabilities.argmax(1) == dataset.test.labels).float().mean().item()
    print(f"trained in {seconds:.1f} s; test accuracy {accuracy:.2%} on {len(dataset.test):,} images", flush=True)
    if accuracy < settings.min_accuracy:
        raise GateError(
            f"test accuracy {accuracy:.2%} is below --min-accuracy {settings.min_accuracy:.2%}; nothing was published"
        )

    graph = export.to_onnx(model, dataset.test.images[:2])
    parity = export.check_parity(graph, dataset.test.images, probabilities)
    print(
        f"exported: ONNX Runtime gives the same label for all {len(dataset.test):,} test images, "
        f"largest difference {parity.max_difference:.1e}",
        flush=True,
    )
    golden = torch.cat([(dataset.test.labels == label).nonzero()[:2, 0] for label in range(network.classes)])
    manifest: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "network": {"name": network.name, "pool": "max", "parameters": sum(p.numel() for p in model.parameters())},
        "dataset": {
            "name": dataset.name,
            "sha256": dataset.digest(),
            "training": len(training),
            "validation": len(validation),
            "test": len(dataset.test),
        },
        "recipe": dataclasses.asdict(how),
        "metrics": {"test_accuracy": accuracy, "validation_accuracy": selected, "training_seconds": round(seconds, 1)},
        "parity": {"max_difference": parity.max_difference, "tolerance": export.TOLERANCE},
        "batch_invariance": {"max_difference": parity.max_batch_difference, "tolerance": export.TOLERANCE},
        "golden": {"samples": len(golden), "tolerance": GOLDEN_TOLERANCE},
        "commit": _commit(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "onnx", "onnxscript", "numpy")},
    }
    return publish.publish(
        settings.repository,
        publish.Artifact(
            name=network.name,
            model=graph,
            manifest=manifest,
            golden={
                export.INPUT: dataset.test.images[golden].numpy(),
                export.OUTPUT: parity.probabilities[golden.numpy()],
            },
            label_names=dataset.label_names,
            image=network.image,
        ),
    )


def _device(wanted: str) -> "torch.device":
    import torch

    from training.errors import TrainingError

    if wanted == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: torch finds no CUDA device; use --device cpu or auto")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _commit() -> str | None:
    """The commit of this code, marked where it was changed since; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _refuse(error: "ValidationError | SettingsError") -> int:
    """Say in a line each which settings make no sense; the exit status."""
    if isinstance(error, ValidationError):
        for problem in error.errors():
            flag = "--" + ".".join(str(part) for part in problem["loc"]).replace("_", "-")
            print(f"error: {flag} {problem.get('input')!r}: {problem['msg']}", file=sys.stderr)
    else:
        print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
