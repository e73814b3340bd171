"""The training loop.

The whole data set is one uint8 tensor on the device. A step gathers a batch, augments it, normalizes it and takes one
optimizer step, in channels-last layout and, if the recipe says so, in mixed precision; weights stay float32. After
every epoch the validation accuracy decides whether the weights, or their moving average, are kept. The test split is
not used.

All randomness follows from the seed and the number of the step or the epoch. So a checkpoint holds no generator's
state, and every process draws the same numbers for all images and uses those of its shard.

Not here: the hyperparameters (recipe.py), how checkpoints are stored (checkpoint.py).
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.data.augment import FLIP_NUMBER, RANDOM_NUMBERS_PER_IMAGE
from training.data.dataset import Split
from training.errors import Interrupted, OutOfMemory, TrainingError
from training.networks.classifier import Classifier, predict
from training.networks.reordered import pool_before_relu
from training.trainer.checkpoint import CheckpointStore
from training.trainer.device import is_out_of_memory, keep_freed_memory, mixed_precision_dtype
from training.trainer.distillation import TeacherAnswers, distillation_loss
from training.trainer.distributed import SINGLE_PROCESS, ProcessGroup
from training.trainer.progress import REPORT_EVERY_STEPS, ProgressListener, TrainingProgress
from training.trainer.recipe import Recipe, optimizer_for, schedule_for

# Independent streams of random numbers under one seed.
SHUFFLE_STREAM, DROPOUT_STREAM, AUGMENTATION_STREAM, FLIP_STREAM = range(4)
# What a checkpoint holds as state dictionaries, by attribute of Trainer.
STATEFUL = ("model", "ema", "optimizer", "schedule", "grad_scaler")


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training that reached its last step."""

    validation_accuracy: float | None  # of the weights that were kept, from 0 to 1; None without a validation split
    seconds: float  # of training, including the time before the run was resumed
    teacher_seconds: float = 0.0  # of them, those in which the teachers answered


def train(
    model: Classifier,
    training: Split,
    validation: Split,
    recipe: Recipe,
    *,
    device: torch.device,
    listeners: Sequence[ProgressListener] = (),
    checkpoints: CheckpointStore | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
    teachers: Sequence[Classifier] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train the model, which ends on the CPU with the weights that were kept.

    Resumes from the checkpoint if there is one. Saves one after each epoch, and when `should_stop` returns true.

    Raises:
        TrainingError: the loss is not finite, or the batch size does not suit the data or the processes.
        OutOfMemory: the device has too little memory.
        Interrupted: `should_stop` returned true before the last step.
    """
    if recipe.batch_size > len(training):
        raise TrainingError(f"--batch-size {recipe.batch_size} is more than the {len(training)} training images")
    if recipe.batch_size % processes.size:
        raise TrainingError(f"--batch-size {recipe.batch_size} is not divisible by {processes.size} processes")
    try:
        trainer = Trainer(model, training, validation, recipe, device, processes, teachers)
        return trainer.train(listeners, checkpoints, should_stop)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory on {device} with batches of {recipe.batch_size} images: lower --batch-size"
        ) from error


class Trainer:
    """One training run: the model, its optimizer and everything else that changes from step to step."""

    def __init__(
        self,
        model: Classifier,
        training: Split,
        validation: Split,
        recipe: Recipe,
        device: torch.device,
        processes: ProcessGroup,
        teachers: Sequence[Classifier] = (),
    ) -> None:
        self.started, self.seconds_before_resume = time.perf_counter(), 0.0
        keep_freed_memory()
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # filling costs 5 %, changes nothing
        self.recipe, self.device, self.processes = recipe, device, processes
        self.training, self.validation = training.to(device), validation.to(device)
        self.steps_per_epoch = len(training) // recipe.batch_size
        self.steps = self.steps_per_epoch * recipe.epochs
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.autocast_dtype = mixed_precision_dtype(device) if recipe.mixed_precision else None
        # Small gradients underflow in float16 unless the loss is scaled; bfloat16 has float32's range.
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=self.autocast_dtype == torch.float16)
        ema_steps = max(1.0, recipe.ema_fraction * self.steps)
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / ema_steps), use_buffers=True)
        self.optimizer = optimizer_for(recipe, self.model)
        self.schedule = schedule_for(recipe, self.optimizer, self.steps)
        body = pool_before_relu(self.model.body)
        self.body = body if processes.size == 1 else DistributedDataParallel(body)
        self.class_weights = _class_weights(training).to(device) if recipe.class_weights else None
        self.teachers = TeacherAnswers(teachers, temperature=recipe.teacher_temperature, device=device)
        self.random = torch.Generator()  # on the CPU, so that a GPU sees the same batches and augmentation
        self.numbers, self.numbers_of_view = torch.empty(0), -1  # random numbers of augmentation, by image
        self.step = 0  # steps done
        self.best_weights: dict[str, Tensor] = {}
        self.best_accuracy = -1.0
        self.epoch_sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss and accuracy, of this process
        self.unchecked_losses: list[Tensor] = []  # since the last check that the loss is finite

    def train(
        self,
        listeners: Sequence[ProgressListener],
        checkpoints: CheckpointStore | None,
        should_stop: Callable[[], bool],
    ) -> TrainingResult:
        """Take all remaining steps."""
        if checkpoints and (state := checkpoints.load()):
            self.load_state_dict(state)
        while self.step < self.steps:
            for batch in self._remaining_batches_of_epoch():
                self.unchecked_losses.append(self.train_step(batch))
                self.step += 1
                epoch_ended = self.step % self.steps_per_epoch == 0
                if epoch_ended or self.step % REPORT_EVERY_STEPS == 0:
                    self._check_losses()
                    progress = self._progress(epoch_ended)
                    for listener in listeners:
                        listener(progress)
                    stop = self.processes.any(should_stop())
                else:
                    stop = self.processes.size == 1 and should_stop()
                if epoch_ended:
                    self.epoch_sums.zero_()
                if checkpoints and (epoch_ended or stop):
                    self._check_losses()
                    if self.processes.is_main:
                        checkpoints.save(self.state_dict())
                if stop and self.step < self.steps:
                    raise Interrupted(f"stopped at step {self.step} of {self.steps}")
        self.model.load_state_dict(self.best_weights)
        self.model.to("cpu", memory_format=torch.contiguous_format).eval()
        accuracy = self.best_accuracy if len(self.validation) else None
        return TrainingResult(accuracy, self.seconds(), self.teachers.seconds)

    def train_step(self, batch: Tensor) -> Tensor:
        """Take one optimizer step on the images with these indices (B,), this process on its shard; the loss."""
        torch.manual_seed(self._seed(DROPOUT_STREAM, self.step) + self.processes.rank)
        view = self._view()
        indices = self.processes.shard(batch)
        images = self._images(view, indices)  # (B, H, W, C)
        labels = self.training.labels[indices.to(self.device)]  # (B,)
        inputs = self.model.normalize(images).contiguous(memory_format=torch.channels_last)
        self.model.train()
        with torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            logits = self.body(inputs).float()  # (B, classes)
        loss = self._loss(logits, labels, indices, view)
        self.optimizer.zero_grad(set_to_none=True)
        self.grad_scaler.scale(loss).backward()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self.schedule.step()
        if self.recipe.ema_fraction:
            self.ema.update_parameters(self.model)
        loss = loss.detach()
        self.epoch_sums += torch.stack([loss, (logits.argmax(1) == labels).float().mean()])
        return loss

    def _loss(self, logits: Tensor, labels: Tensor, indices: Tensor, view: int) -> Tensor:
        """The mean loss of the images with these indices: on their labels, on the teachers' answers, or on both."""
        recipe, weight = self.recipe, self.recipe.teacher_weight
        loss = F.cross_entropy(logits, labels, self.class_weights, label_smoothing=recipe.label_smoothing)
        if not self.teachers.teachers:
            return loss
        answers = self.teachers.of_view(
            view,
            lambda rows: self._images(view, torch.arange(len(self.training))[rows]),
            len(self.training),
            self.autocast_dtype,
        )
        taught = distillation_loss(logits, answers[indices.to(self.device)], recipe.teacher_temperature)
        return weight * taught + (1 - weight) * loss

    def _view(self) -> int:
        """The number of this epoch's draw of random augmentation: its own or, with teachers, one of a few."""
        epoch = self.step // self.steps_per_epoch
        return epoch % self.recipe.teacher_views if self.teachers.teachers else epoch

    def _images(self, view: int, indices: Tensor) -> Tensor:
        """The training images with these indices (B,), augmented as the view says, (B, H, W, C)."""
        if view != self.numbers_of_view:
            count = len(self.training)
            random = self._generator(AUGMENTATION_STREAM, view)
            self.numbers, self.numbers_of_view = torch.rand(count, RANDOM_NUMBERS_PER_IMAGE, generator=random), view
            if self.recipe.augmentation.alternate:
                half = torch.rand(count, generator=self._generator(FLIP_STREAM, 0)) < 0.5
                self.numbers[:, FLIP_NUMBER] = ((half ^ (view % 2 == 1)).float() + 0.5) / 2
        images = self.training.images[indices.to(self.device)]
        return self.recipe.augmentation(images, self.numbers[indices].to(self.device))

    def validate(self) -> float | None:
        """The validation accuracy, if there is a validation split; keeps the weights if none before were better."""
        model: nn.Module = self.ema.module if self.recipe.ema_fraction else self.model
        accuracy = None
        if len(self.validation):
            images, labels = (self.processes.shard(t) for t in (self.validation.images, self.validation.labels))
            correct = (predict(model, images).argmax(1) == labels).sum()
            accuracy = self.processes.sum(correct).item() / len(self.validation)
        if accuracy is None or accuracy >= self.best_accuracy:
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
            self.best_accuracy = -1.0 if accuracy is None else accuracy
        return accuracy

    def seconds(self) -> float:
        """Seconds of training, including those before the run was resumed."""
        return self.seconds_before_resume + time.perf_counter() - self.started

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint: everything that the remaining steps depend on."""
        return {
            "recipe": dataclasses.asdict(self.recipe),
            "step": self.step,
            "best_weights": self.best_weights,
            "best_accuracy": self.best_accuracy,
            "epoch_sums": self.epoch_sums,
            "seconds": self.seconds(),
        } | {name: getattr(self, name).state_dict() for name in STATEFUL}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint.

        Raises:
            TrainingError: the checkpoint is of another recipe.
        """
        if state["recipe"] != dataclasses.asdict(self.recipe):
            raise TrainingError("the checkpoint was made with other settings; the run cannot be resumed with these")
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.step, self.best_weights, self.best_accuracy = state["step"], state["best_weights"], state["best_accuracy"]
        self.epoch_sums, self.seconds_before_resume = state["epoch_sums"].to(self.device), state["seconds"]

    def _remaining_batches_of_epoch(self) -> Sequence[Tensor]:
        """Batches of image indices; a last, smaller batch is dropped."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        order = torch.randperm(len(self.training), generator=self._generator(SHUFFLE_STREAM, epoch))
        batches: Sequence[Tensor] = order[: self.steps_per_epoch * self.recipe.batch_size].split(self.recipe.batch_size)
        return batches[done:]

    def _progress(self, epoch_ended: bool) -> TrainingProgress:
        """Progress over all processes; validates if the epoch ended."""
        validation_accuracy = self.validate() if epoch_ended else None
        loss, accuracy = (self.processes.sum(self.epoch_sums) / self.processes.size).tolist()
        steps_of_epoch = (self.step - 1) % self.steps_per_epoch + 1
        return TrainingProgress(
            epoch=(self.step - 1) // self.steps_per_epoch + 1,
            epochs=self.recipe.epochs,
            step=self.step,
            steps=self.steps,
            images=self.step * self.recipe.batch_size,
            loss=loss / steps_of_epoch,
            accuracy=accuracy / steps_of_epoch,
            learning_rate=float(self.schedule.get_last_lr()[0]),
            epoch_ended=epoch_ended,
            validation_accuracy=validation_accuracy,
        )

    def _check_losses(self) -> None:
        """Raise TrainingError if a loss since the last check is not finite."""
        if not self.unchecked_losses:
            return
        finite = torch.stack(self.unchecked_losses).isfinite().tolist()
        self.unchecked_losses.clear()
        if self.processes.any(not all(finite)):
            step = self.step - len(finite) + 1 + (finite.index(False) if False in finite else 0)
            raise TrainingError(
                f"the loss is not finite at step {step} of {self.steps}; the last checkpoint is kept. "
                "Change --seed or --batch-size"
            )

    def _generator(self, stream: int, index: int) -> torch.Generator:
        """The random generator for one use, the same in every run with the same seed."""
        return self.random.manual_seed(self._seed(stream, index))

    def _seed(self, stream: int, index: int) -> int:
        return (self.recipe.seed * 1_000_003 + 4 * index + stream) % 2**62


def _class_weights(training: Split) -> Tensor:
    """The inverse of each class's frequency (classes,), with mean 1 over the images."""
    counts = training.labels.bincount()
    return len(training) / (counts.clamp_min(1) * (counts > 0).sum())
