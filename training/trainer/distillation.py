"""Distillation: the answers of trained teachers as labels, which also tell how alike the classes of an image are.

Every epoch takes one of a few views of the training images, each a fixed draw of random augmentation. The teachers
answer a view once, when an epoch first needs it, and the student sees the same pixels as they did.
Source: https://arxiv.org/abs/1503.02531, and https://arxiv.org/abs/2106.05237 for the same pixels.

Not here: the loss (loop.py), which teachers (experiment.py).
"""

import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.networks.classifier import Classifier
from training.trainer.batches import Batches

BATCH_SIZE = 1000


class TeacherAnswers:
    """The mean of the teachers' probabilities for each view of the training images, computed once per view."""

    def __init__(self, teachers: Sequence[Classifier], *, temperature: float, device: torch.device) -> None:
        self.teachers = [teacher.to(device).eval() for teacher in teachers]
        self.temperature = temperature
        self.device = device
        self.seconds = 0.0  # spent on answers
        self._views: dict[int, Tensor] = {}

    def of_view(self, batches: Batches, dtype: torch.dtype | None) -> Tensor:
        """Probabilities float16 (N, classes) of the N training images in the view that `batches` shows.

        The teachers compute in `dtype`, a 16-bit type, or in float32 if it is None.
        """
        if batches.view not in self._views:
            started = time.perf_counter()
            everything = torch.arange(len(batches.training)).split(BATCH_SIZE)
            self._views[batches.view] = torch.cat([self._answer(batches.images(some), dtype) for some in everything])
            self.seconds += time.perf_counter() - started
        return self._views[batches.view]

    @torch.no_grad()
    def _answer(self, images: Tensor, dtype: torch.dtype | None) -> Tensor:
        total = torch.zeros(())
        for teacher in self.teachers:
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                inputs = teacher.normalize(images).contiguous(memory_format=torch.channels_last)
                logits = teacher.body(inputs).float() / teacher.temperature
            total = total + F.softmax(logits / self.temperature, dim=1)
        return (total / len(self.teachers)).half()


def distillation_loss(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """The cross-entropy of the student's logits (B, classes) with the teachers' answers, both at the temperature.

    Multiplied by its square, so that the gradient's size does not depend on it.
    """
    return temperature**2 * F.cross_entropy(logits / temperature, answers.float())
