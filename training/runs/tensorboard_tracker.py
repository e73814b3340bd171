"""TensorBoard: scalars, hyperparameters, augmented training images, filters and errors, as events in the run folder.

Not here: what makes up the scalars and the hyperparameters (tracking.py).
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from training.data.augment import RANDOM_NUMBERS_PER_IMAGE
from training.errors import TrainingError
from training.experiment import Experiment
from training.runs import files
from training.runs.tracking import Results, final_scalars, hyperparameters, scalars
from training.trainer.progress import TrainingProgress

MAX_IMAGES = 32  # of each kind


class TensorBoardTracker:
    """Writes events into the run folder. If a resumed run repeats steps, TensorBoard drops their former events."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self._experiment = experiment
        self._folder = folder
        self._writer: Any = None
        self._step = 0

    def __enter__(self) -> Self:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
        before = files.last_metrics(self._folder / files.METRICS).get("step")
        self._writer = SummaryWriter(str(self._folder), purge_step=before + 1 if before else None)
        if not before:
            self._add_images("training images, augmented", augmented(self._experiment))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def __call__(self, progress: TrainingProgress) -> None:
        self._step = progress.step
        for name, value in scalars(progress).items():
            self._writer.add_scalar(name, value, progress.step)

    def log_results(self, results: Results) -> None:
        """Add the figures on the test split, hyperparameters, filters and the most confident errors."""
        figures = final_scalars(results.facts)
        for name, value in figures.items():
            self._writer.add_scalar(name, value, self._step)
        self._add_hyperparameters(figures)
        if (filters := first_filters(results.model)) is not None:
            self._add_images("filters of the first convolution", filters)
        test, (confidence, predicted) = self._experiment.dataset.test, results.evaluation.probabilities.max(1)
        wrong = (predicted != test.labels).nonzero()[:, 0]
        worst = wrong[confidence[wrong].argsort(descending=True)][:MAX_IMAGES]
        self._add_images("test images, the most confident errors", test.images[worst])

    def _add_hyperparameters(self, figures: dict[str, float]) -> None:
        # SummaryWriter.add_hparams would write them as a run of its own, in a folder below.
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(hyperparameters(self._experiment), figures):
            self._writer.file_writer.add_summary(summary)

    def _add_images(self, name: str, images: Tensor) -> None:
        """Add uint8 images (N, H, W, C)."""
        if len(images):
            self._writer.add_images(name, images, self._step, dataformats="NHWC")


def augmented(experiment: Experiment) -> Tensor:
    """Training images uint8 (N, H, W, C) as the network may see them."""
    images = experiment.training.images[:MAX_IMAGES]
    numbers = torch.rand(len(images), RANDOM_NUMBERS_PER_IMAGE, generator=torch.Generator().manual_seed(0))
    return experiment.recipe.augmentation(images, numbers).round().clamp(0, 255).to(torch.uint8)


def first_filters(model: nn.Module) -> Tensor | None:
    """The first convolution's filters as uint8 images (N, H, W, C), in colour or the mean of the input channels."""
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None:
        return None
    weights = first.weight.detach().float()
    if weights.shape[1] != 3:
        weights = weights.mean(1, keepdim=True)
    low, high = weights.amin((1, 2, 3), keepdim=True), weights.amax((1, 2, 3), keepdim=True)
    pixels = (weights - low) / (high - low).clamp_min(1e-12) * 255
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1)
