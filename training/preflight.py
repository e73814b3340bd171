"""What would end a run without a published version, found before its first epoch.

Not here: what is published in the end, for which the same rules are applied again (publishing/), the accuracy gate
(experiment.py).
"""

from pathlib import Path

from training.atomic_files import check_writable
from training.errors import CannotWrite
from training.experiment import Experiment, model_folders
from training.publishing.publish import check_publishable
from training.settings import Settings


def check_folders(settings: Settings) -> None:
    """Find out, before the data set is read, whether the run and its versions can be written. Nothing is left behind.

    Raises:
        UnknownNetwork: no network has this name.
        CannotWrite: a folder cannot be written; the message names it and the flag that chooses another.
    """
    for folder in model_folders(settings) if settings.publish else []:
        _check(folder, "--repository")
    if settings.resume:
        _check(settings.resume, "--runs-dir at its start")
    else:
        _check(settings.runs_dir, "--runs-dir")


def check_publication(experiment: Experiment) -> None:
    """Find out whether the model's folders will take what the run makes, and whether its accuracy can be judged.

    Raises:
        NotAccepted: the service would refuse the version, or older versions have other classes.
        GateError: there is no gate for this test split.
    """
    for folder in model_folders(experiment.settings):
        check_publishable(folder, experiment.dataset.label_names, experiment.network.image_shape)
    experiment.gate()


def _check(folder: Path, flag: str) -> None:
    try:
        check_writable(folder)
    except OSError as error:
        raise CannotWrite(f"cannot write: {folder}: {error.strerror}; choose another {flag}") from error
