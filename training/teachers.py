"""The teachers of a run: trained classifiers whose answers the recipe `distilled` takes as labels.

Not here: how a student learns from them (trainer/distillation.py).
"""

from training.data.dataset import split_digest
from training.errors import InvalidSetting, TrainingError
from training.experiment import Experiment
from training.networks.classifier import Classifier
from training.runs import load
from training.runs.pins import Pins
from training.runs.run_folder import RunFolder
from training.trainer.loop import is_trained


def load_teachers(experiment: Experiment) -> list[Classifier]:
    """The classifiers of the run folders that `--teacher` names.

    Raises:
        InvalidSetting: the recipe and `--teacher` contradict each other, or a teacher has other classes or images, or
            was trained on other images of the data set: it may have seen this run's validation images.
        TrainingError: a folder holds no finished run.
    """
    folders, weight = experiment.settings.teacher, experiment.recipe.teacher_weight
    if weight and not folders:
        raise InvalidSetting(
            "--recipe distilled needs --teacher runs/ID, a run of a larger network on the same data; train one with, "
            f"for example, --model {experiment.network.dataset}-teacher"
        )
    if folders and not weight:
        raise InvalidSetting(f"--teacher has no effect under --recipe {experiment.recipe.name}: add --recipe distilled")
    if weight == 1 and (experiment.recipe.class_weights or experiment.recipe.label_smoothing):
        raise InvalidSetting(
            "--class-weights and --label-smoothing change the loss on the labels, which has no part in --recipe "
            "distilled; leave them out, or add --set teacher_weight=0.9"
        )
    if _needs_no_step(experiment):
        return []
    own = split_digest(experiment.training, experiment.validation, experiment.dataset.test)
    teachers: list[Classifier] = []
    for folder in folders:
        teacher = load.load(folder)
        state = load.checkpoint(folder)
        pins = Pins.of_checkpoint(state)
        if not is_trained(state):
            raise TrainingError(f"--teacher {folder}: the run is not finished: python -m training --resume {folder}")
        if teacher.labels != experiment.dataset.label_names:
            raise InvalidSetting(
                f"--teacher {folder}: its classes are {', '.join(teacher.labels)}; expected this run's"
            )
        if pins.split != own:
            raise InvalidSetting(
                f"--teacher {folder} was trained on other images: use the same data set, --fit and --validation-share"
            )
        teachers.append(teacher)
    return teachers


def _needs_no_step(experiment: Experiment) -> bool:
    """Whether a resumed run has taken its last step, so that its teachers, which may be gone, have no part any more."""
    resume = experiment.settings.resume
    return bool(resume and (state := RunFolder(resume).checkpoints.load()) and is_trained(state))
