"""The training job: from a data set to a published model version.

In reading order:

    settings.py    every flag and environment variable
    __main__.py    the command (signals.py, errors.py, summary.py, processors.py)
    comparison.py  several runs: --seeds, --pooling all
    pipeline.py    all stages, from data to the published version
    preflight.py   what would keep a run from publishing, found before its first epoch
    experiment.py  what the settings ask for, with data set, network and recipe
    teachers.py    the trained networks that a student learns from
    data/          data sets, splits, augmentation
    networks/      the networks, layer for layer, and pooling
    trainer/       the recipe and the training loop
    evaluation/    accuracy and other figures on the test split
    publishing/    the ONNX graph, its proofs, and the model repository
    manifest.py    what a published version says about itself
    runs/          the files that a run leaves (atomic_files.py, strict_json.py), and the table of all runs
                   (runs_command.py)
    report/        the pages of one run, of all runs and of a comparison
    evaluate_version.py  a published version on any data set, for --evaluate

The service and the job share the files that publishing/publish.py writes and, of code, service/pictures/, since how a
picture becomes an image of the network is part of the model, and service/models/repository/, since "published" means
that the service takes the version.

In Python, training.load("runs/ID") returns the classifier that a run trained.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.runs.load import TrainedClassifier


def load(run: str | Path) -> "TrainedClassifier":
    """The classifier that the run in this folder trained, on the CPU, with its `labels` and `fit`.

    It takes raw pixels uint8 (N, H, W, C) and returns probabilities float32 (N, classes). Of an unfinished run it has
    the weights of the last checkpoint.

    Raises:
        training.errors.TrainingError: the folder holds no run, no checkpoint, or one of other code.
    """
    from training.runs import load as runs_load  # the import of torch takes seconds

    return runs_load.load(Path(run))
