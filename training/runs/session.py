"""What surrounds a run from its folder's creation to its end: the folder's lock, its trackers and what made it fail.

Not here: the stages of the run (pipeline.py), what the trackers show (tracking.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from training.errors import Interrupted
from training.experiment import Experiment
from training.runs import files
from training.runs.lock import run_lock
from training.runs.mlflow_tracker import MlflowTracker
from training.runs.run_folder import RunFolder
from training.runs.tensorboard_tracker import TensorBoardTracker
from training.runs.tracking import Tracker


@contextmanager
def run_session(experiment: Experiment, folder: RunFolder) -> Iterator[Sequence[Tracker]]:
    """Hold the run folder and its trackers; if the run fails, leave the message in error.txt.

    Raises:
        TrainingError: another process trains in the folder, or a tracker cannot be opened.
    """
    with run_lock(folder.path):
        (folder.path / files.ERROR).unlink(missing_ok=True)
        try:
            with ExitStack() as stack:
                yield [stack.enter_context(tracker) for tracker in _trackers(experiment, folder)]
        except Interrupted:
            raise
        except Exception as error:
            folder.write(files.ERROR, f"{error or type(error).__name__}\n".encode())
            raise


def _trackers(experiment: Experiment, folder: RunFolder) -> list[Tracker]:
    """The trackers that the settings ask for."""
    trackers: list[Tracker] = []
    if experiment.settings.tensorboard:
        trackers.append(TensorBoardTracker(experiment, folder.path))
    if experiment.settings.mlflow:
        trackers.append(MlflowTracker(experiment, folder.path, experiment.settings.mlflow))
    return trackers
