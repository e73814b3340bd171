"""The training loop.

The whole data set is one uint8 tensor on the device. A step gathers a batch, augments it, normalizes it and takes one
optimizer step, in channels-last layout and, if the recipe says so, in mixed precision; weights stay float32. After
every epoch the weights, or their moving average, are validated and kept; if the recipe selects the best epoch, only if
none before was better. The test split decides nothing: it can be watched, for the curve of its accuracy.

Not here: the hyperparameters (recipe.py), which images a batch has and how they are augmented (batches.py), how
checkpoints are stored (checkpoint.py).
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

from training.data.augment import NO_AUGMENTATION
from training.data.dataset import Split
from training.errors import Interrupted, OutOfMemory, TrainingError
from training.networks.classifier import Classifier, predict
from training.networks.reordered import pool_before_relu
from training.trainer.batches import Batches
from training.trainer.checkpoint import CheckpointStore
from training.trainer.device import is_out_of_memory, keep_freed_memory, mixed_precision_dtype
from training.trainer.distillation import TeacherAnswers, distillation_loss
from training.trainer.distributed import SINGLE_PROCESS, ProcessGroup
from training.trainer.progress import ProgressListener, TrainingProgress, reports_after
from training.trainer.recipe import Recipe, optimizer_for, schedule_for

# What a checkpoint holds as state dictionaries, by attribute of Trainer.
STATEFUL = ("model", "ema", "optimizer", "schedule", "grad_scaler")


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training that reached its last step."""

    validation_accuracy: float | None  # of the weights that were kept, from 0 to 1; None without a validation split
    seconds: float  # of training, including the time before the run was resumed
    epochs: int  # the recipe's number, or less if its patience ended
    teacher_seconds: float = 0.0  # of the seconds, those in which the teachers answered


def train(
    model: Classifier,
    training: Split,
    validation: Split,
    recipe: Recipe,
    *,
    device: torch.device,
    test: Split | None = None,
    listeners: Sequence[ProgressListener] = (),
    checkpoints: CheckpointStore | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
    teachers: Sequence[Classifier] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train the model, which ends on the CPU with the weights that were kept.

    Resumes from the checkpoint if there is one. Saves one after each epoch, and when `should_stop` returns true.
    `test` is measured after every epoch for its curve, and decides nothing.

    Raises:
        TrainingError: the loss is not finite, the batch size does not suit the data or the processes, or the
            checkpoint is not one of this network, recipe and code.
        OutOfMemory: the device has too little memory.
        Interrupted: `should_stop` returned true before the last step.
    """
    if recipe.batch_size > len(training):
        raise TrainingError(f"--batch-size {recipe.batch_size} is more than the {len(training)} training images")
    if recipe.batch_size % processes.size:
        raise TrainingError(f"--batch-size {recipe.batch_size} is not divisible by {processes.size} processes")
    try:
        trainer = Trainer(model, training, validation, recipe, device, processes, test=test, teachers=teachers)
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
        *,
        test: Split | None = None,
        teachers: Sequence[Classifier] = (),
    ) -> None:
        self.started, self.seconds_before_resume = time.perf_counter(), 0.0
        keep_freed_memory()
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # filling costs 5 %, changes nothing
        self.recipe, self.device, self.processes = recipe, device, processes
        self.training, self.validation = training.to(device), validation.to(device)
        self.test = test.to(device) if test else None
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
        views = 1 if recipe.augmentation == NO_AUGMENTATION else recipe.teacher_views
        self.batches = Batches(self.training, recipe, views=views if teachers else None)
        self.step = 0  # steps done
        self.kept_weights: dict[str, Tensor] = {}
        self.kept_accuracy: float | None = None  # of the kept weights on the validation split
        self.validation_losses: list[float] = []  # at the end of each epoch
        self.epoch_sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss and accuracy, of this process
        self.reported_sums, self.reported_step = self.epoch_sums.clone(), 0  # at the last report
        self.interval_start = 0, self.started  # the step and the time from which images per second are measured
        self.unchecked_losses: list[Tensor] = []  # since the last check that the loss is finite

    def train(
        self,
        listeners: Sequence[ProgressListener],
        checkpoints: CheckpointStore | None,
        should_stop: Callable[[], bool],
    ) -> TrainingResult:
        """Take all remaining steps."""
        self.started = time.perf_counter()
        if checkpoints and (state := checkpoints.load()):
            self.load_state_dict(state)
        self.interval_start = self.step, time.perf_counter()
        while self.step < self.steps and not self._out_of_patience():
            for batch in self.batches.of_epoch(*divmod(self.step, self.steps_per_epoch)):
                self.unchecked_losses.append(self.train_step(batch))
                self.step += 1
                epoch_ended = self.step % self.steps_per_epoch == 0
                reports = reports_after(self._steps_of_epoch(), self.steps_per_epoch)
                if reports:
                    self._check_losses()
                    progress = self._progress(epoch_ended)
                    for listener in listeners:
                        listener(progress)
                    stop = self.processes.any(should_stop())
                else:
                    stop = self.processes.size == 1 and should_stop()
                if epoch_ended:
                    self.epoch_sums.zero_()
                if reports:
                    self.reported_sums, self.reported_step = self.epoch_sums.clone(), self.step
                if checkpoints and (epoch_ended or stop):
                    self._check_losses()
                    if self.processes.is_main:
                        checkpoints.save(self.state_dict())
                if stop and self.step < self.steps:
                    raise Interrupted(f"stopped at step {self.step} of {self.steps}")
                if reports:
                    self.interval_start = self.step, time.perf_counter()
        self.model.load_state_dict(self.kept_weights)
        self.model.to("cpu", memory_format=torch.contiguous_format).eval()
        epochs = self.step // self.steps_per_epoch
        return TrainingResult(self.kept_accuracy, self.seconds(), epochs, self.teachers.seconds)

    def train_step(self, batch: Tensor) -> Tensor:
        """Take one optimizer step on the images with these indices (B,), this process on its shard; the loss."""
        torch.manual_seed(self.batches.dropout_seed(self.step) + self.processes.rank)
        indices = self.processes.shard(batch)
        images = self.batches.images(indices)  # (B, H, W, C)
        labels = self.training.labels[indices.to(self.device)]  # (B,)
        inputs = self.model.normalize(images).contiguous(memory_format=torch.channels_last)
        self.model.train()
        with torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            logits = self.body(inputs).float()  # (B, classes)
        loss = self._loss(logits, labels, indices)
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

    def _loss(self, logits: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """The mean loss of the images with these indices: on their labels, on the teachers' answers, or on both."""
        recipe, weight = self.recipe, self.recipe.teacher_weight
        loss = F.cross_entropy(logits, labels, self.class_weights, label_smoothing=recipe.label_smoothing)
        if not self.teachers.teachers:
            return loss
        answers = self.teachers.of_view(self.batches, self.autocast_dtype)[indices.to(self.device)]
        return weight * distillation_loss(logits, answers, recipe.teacher_temperature) + (1 - weight) * loss

    def measure(self, split: Split | None) -> tuple[float | None, float | None]:
        """Accuracy and mean negative log-likelihood on the split; None if there are no images."""
        if not split:
            return None, None
        images, labels = (self.processes.shard(t) for t in (split.images, split.labels))
        probabilities = predict(self._averaged(), images)
        of_truth = probabilities.gather(1, labels[:, None]).clamp_min(1e-12).double()
        sums = torch.stack([(probabilities.argmax(1) == labels).sum().double(), -of_truth.log().sum()])
        accuracy, loss = (self.processes.sum(sums) / len(split)).tolist()
        return accuracy, loss

    def keep_weights(self, accuracy: float | None) -> None:
        """Keep the weights of this epoch; if the recipe selects the best, only if none before were better."""
        if not self.recipe.select_best or (accuracy or 0.0) >= (self.kept_accuracy or 0.0):
            self.kept_weights, self.kept_accuracy = self._copy_of_weights(), accuracy

    def seconds(self) -> float:
        """Seconds of training, including those before the run was resumed."""
        return self.seconds_before_resume + time.perf_counter() - self.started

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint: everything that the remaining steps depend on.

        `weights` are the Classifier's, normalization included, that the run would end with if no step followed.
        """
        return {
            "recipe": dataclasses.asdict(self.recipe),
            "step": self.step,
            "steps": self.steps,
            "ended": self.step == self.steps or self._out_of_patience(),
            "weights": self.kept_weights or self._copy_of_weights(),
            "validation_accuracy": self.kept_accuracy,
            "validation_losses": self.validation_losses,
            "epoch_sums": self.epoch_sums,
            "reported_sums": self.reported_sums,
            "reported_step": self.reported_step,
            "seconds": self.seconds(),
            "teacher_seconds": self.teachers.seconds,
        } | {name: getattr(self, name).state_dict() for name in STATEFUL}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint.

        Raises:
            TrainingError: the checkpoint is of another recipe, or does not fit the network or this code.
        """
        try:
            if changed := _changed_fields(state["recipe"], dataclasses.asdict(self.recipe)):
                raise TrainingError(
                    f"the checkpoint was made with another recipe ({changed}); take the same settings and code, or "
                    "start a new run without --resume"
                )
            for name in STATEFUL:
                getattr(self, name).load_state_dict(state[name])
            self.step, self.seconds_before_resume = state["step"], state["seconds"]
            self.kept_weights, self.kept_accuracy = state["weights"], state["validation_accuracy"]
            self.validation_losses = state["validation_losses"]
            self.teachers.seconds = state["teacher_seconds"]
            self.epoch_sums, self.reported_step = state["epoch_sums"].to(self.device), state["reported_step"]
            self.reported_sums = state["reported_sums"].to(self.device)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise TrainingError(
                f"the checkpoint does not fit this network and code ({type(error).__name__}: {error}); resume with the "
                "code that made it, or start a new run without --resume"
            ) from error

    def _out_of_patience(self) -> bool:
        """Whether an epoch ended whose validation loss, like those of the recipe's patience before, was no lower."""
        losses, patience = self.validation_losses, self.recipe.patience
        at_end = self.step % self.steps_per_epoch == 0
        return bool(at_end and patience and losses) and len(losses) - 1 - losses.index(min(losses)) >= patience

    def _steps_of_epoch(self) -> int:
        """Steps done of the epoch that the last step belongs to."""
        return (self.step - 1) % self.steps_per_epoch + 1

    def _averaged(self) -> nn.Module:
        """The network with its weights or, if the recipe averages them, with their moving average."""
        return self.ema.module if self.recipe.ema_fraction else self.model

    def _copy_of_weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self._averaged().state_dict().items()}

    def _progress(self, epoch_ended: bool) -> TrainingProgress:
        """Progress over all processes; if the epoch ended, validates and keeps the weights."""
        step, since = self.interval_start
        images_per_second = (self.step - step) * self.recipe.batch_size / (time.perf_counter() - since)
        validation_accuracy, validation_loss = self.measure(self.validation if epoch_ended else None)
        test_accuracy, test_loss = self.measure(self.test if epoch_ended else None)
        if epoch_ended:
            self.keep_weights(validation_accuracy)
            self.validation_losses += [] if validation_loss is None else [validation_loss]
        sums = torch.stack([self.epoch_sums - self.reported_sums, self.epoch_sums])
        (loss, accuracy), (epoch_loss, epoch_accuracy) = (self.processes.sum(sums) / self.processes.size).tolist()
        steps, steps_of_epoch = self.step - self.reported_step, self._steps_of_epoch()
        return TrainingProgress(
            epoch=(self.step - 1) // self.steps_per_epoch + 1,
            epochs=self.recipe.epochs,
            step=self.step,
            steps=self.steps,
            images=self.step * self.recipe.batch_size,
            seconds=round(self.seconds(), 3),
            images_per_second=round(images_per_second, 1),
            loss=loss / steps,
            accuracy=accuracy / steps,
            epoch_loss=epoch_loss / steps_of_epoch,
            epoch_accuracy=epoch_accuracy / steps_of_epoch,
            learning_rate=float(self.schedule.get_last_lr()[0]),
            epoch_ended=epoch_ended,
            validation_accuracy=validation_accuracy,
            validation_loss=validation_loss,
            test_accuracy=test_accuracy,
            test_loss=test_loss,
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


def _class_weights(training: Split) -> Tensor:
    """The inverse of each class's frequency (classes,), with mean 1 over the images."""
    counts = training.labels.bincount()
    return len(training) / (counts.clamp_min(1) * (counts > 0).sum())


def _changed_fields(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The fields whose values differ, with both: `epochs 3 before, 4 now`."""
    names = [*now, *(name for name in before if name not in now)]
    pairs = ((name, before.get(name), now.get(name)) for name in names)
    return "; ".join(f"{name} {was} before, {is_now} now" for name, was, is_now in pairs if was != is_now)


def is_trained(state: dict[str, Any]) -> bool:
    """Whether a checkpoint is that of a run that took its last step, or whose patience ended."""
    return bool(state["ended"])
