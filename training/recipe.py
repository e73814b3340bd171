"""The recipe: how weights are found. Read it from top to bottom.

The whole data set lies on the device as one uint8 tensor; a step gathers a batch, changes its images at random
(augment.py), scales them and takes one optimiser step. Compute is 16 bits wide where the device has that in hardware,
in channels-last layout; weights stay float32. Under `best` the learning rate follows one cycle, and what is judged on
the validation part after every epoch, and kept if it is the best yet, is a moving average of the weights. Under `paper`
the weights are those after the last step, as whoever reported the figures did it. The test part is never seen here.

All that is random in a step follows from the seed and the step's number: a checkpoint holds no generator's state, and
every process of a group draws the same numbers for the whole batch, of which it takes its own part.
"""

import ctypes
import dataclasses
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.augment import NONE, NUMBERS, Augmentation, augmentation_for
from training.data import Dataset, Part
from training.errors import Interrupted, OutOfMemory, TrainingError
from training.group import ALONE, Group
from training.networks import Classifier, Network, Scaling

# How often, in steps, the loss is looked at and progress reported: looking makes a GPU wait.
REPORT_EVERY = 25


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, given the network, the data and the machine."""

    name: str
    epochs: int
    batch_size: int  # of all processes together
    seed: int
    learning_rate: float = 6e-3  # the peak of the cycle, if there is one
    one_cycle: bool = True
    weight_decay: float = 0.05  # 0 is plain Adam
    label_smoothing: float = 0.0
    averaging: float = 0.06  # the last share of the run that the moving average remembers; 0 is none
    validation: float = 1 / 20  # share of the training part that is set aside to choose by
    standardize: bool = True  # scale pixels to mean 0 and deviation 1 over the training part, else as the table says
    narrow: bool = True  # compute in 16 bits where the device can
    augmentation: Augmentation = NONE


# Of few images batches are made so small that an epoch has about so many steps.
FEWEST_STEPS, SMALLEST_BATCH = 50, 8


def recipe_for(
    kind: str, network: Network, dataset: Dataset, *, seed: int, epochs: int = 0, batch_size: int = 0
) -> Recipe:
    """The recipe `kind` for a network and data set; epochs and batch size are as given unless they are 0."""
    plan = network.paper if kind == "paper" else network.best
    recipe = Recipe(
        name=kind,
        epochs=epochs or plan.epochs,
        batch_size=batch_size or min(plan.batch_size, max(SMALLEST_BATCH, len(dataset.train) // FEWEST_STEPS)),
        seed=seed,
        learning_rate=plan.learning_rate,
        label_smoothing=plan.label_smoothing,
        augmentation=augmentation_for(dataset.name),
    )
    if kind == "paper":
        return dataclasses.replace(
            recipe,
            batch_size=batch_size or plan.batch_size,
            one_cycle=False,
            weight_decay=0.0,
            averaging=0.0,
            validation=0.0,
            standardize=False,
            narrow=False,
            augmentation=NONE,
        )
    return recipe


def scaling_for(recipe: Recipe, network: Network, training: Part) -> Scaling:
    """How pixels are scaled, which becomes part of the graph."""
    if not recipe.standardize:
        return network.scaling
    std, mean = torch.std_mean(training.images.to(torch.float32) / 255)
    return Scaling(round(mean.item(), 4), round(std.item(), 4) or 1.0)


@dataclass(frozen=True)
class Step:
    """Where training stands: steps done and in all, and averages over the epoch so far."""

    epoch: int  # from 1
    epochs: int
    step: int  # of the whole run, from 1
    steps: int
    images: int  # done in the whole run
    loss: float
    accuracy: float  # on the augmented training images, from 0 to 1
    learning_rate: float
    ended: bool = False  # whether the epoch has
    validation: float | None = None  # accuracy then, if there is a validation part


class Keeper(Protocol):
    """Keeps checkpoints."""

    def load(self) -> dict[str, Any] | None:
        """The last one, or None."""

    def save(self, state: dict[str, Any]) -> None:
        """Keep this one instead."""


def train(
    model: Classifier,
    parts: tuple[Part, Part],
    recipe: Recipe,
    *,
    device: torch.device,
    report: Callable[[Step], None],
    keeper: Keeper | None = None,
    group: Group = ALONE,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[float, float]:
    """Train the model, which is left on the CPU with the weights to keep, on (training, validation) parts.

    Goes on from the keeper's checkpoint if it has one, and gives it another after each epoch and when stopping. Returns
    the accuracy on the validation part, from 0 to 1, or nan where there is none, and the seconds that it took in all.

    Raises:
        TrainingError: the loss stopped being a number, or the training part is smaller than one batch.
        OutOfMemory: the device's memory does not suffice.
        Interrupted: `stopping` said so.
    """
    steps_per_epoch = len(parts[0]) // recipe.batch_size
    if steps_per_epoch == 0:
        raise TrainingError(f"--batch-size {recipe.batch_size} is more than the {len(parts[0])} training images")
    if recipe.batch_size % group.size:
        raise TrainingError(f"--batch-size {recipe.batch_size} cannot be divided among {group.size} processes")
    try:
        return Run(model, parts, recipe, device, group, steps_per_epoch).train(report, keeper, stopping)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory on {device} with batches of {recipe.batch_size} images: lower --batch-size"
        ) from error


class Run:
    """One training from its first step to its last, and all that changes on the way."""

    def __init__(
        self,
        model: Classifier,
        parts: tuple[Part, Part],
        recipe: Recipe,
        device: torch.device,
        group: Group,
        steps_per_epoch: int,
    ) -> None:
        self.started, self.seconds_before = time.perf_counter(), 0.0
        keep_freed_memory()
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # costs 5 % and decides nothing
        self.recipe, self.device, self.group = recipe, device, group
        self.training, self.validation = (part.to(device) for part in parts)
        self.steps_per_epoch = steps_per_epoch
        self.steps = steps_per_epoch * recipe.epochs
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = narrow_type(device) if recipe.narrow else None
        # float16 has so little range that small gradients vanish unless the loss is scaled up; bfloat16 has enough.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        remembered = max(1.0, recipe.averaging * self.steps)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / remembered))
        kind = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
        self.optimizer = kind(
            self.model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        # Up for a fifth of the steps; not 0.2, for OneCycleLR divides by zero where that is exactly one step.
        self.schedule = (
            torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer, recipe.learning_rate, total_steps=self.steps, pct_start=0.21
            )
            if recipe.one_cycle
            else torch.optim.lr_scheduler.ConstantLR(self.optimizer, factor=1.0)
        )
        self.body = self.model.body if group.size == 1 else DistributedDataParallel(self.model.body)
        self.random = torch.Generator()  # on the CPU, so that a GPU is given the same images
        self.step = 0  # done
        self.best: dict[str, Tensor] = {}
        self.best_accuracy = -1.0
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss and right answers, this epoch, here

    def train(
        self, report: Callable[[Step], None], keeper: Keeper | None, stopping: Callable[[], bool]
    ) -> tuple[float, float]:
        """Take all steps that are left."""
        if keeper and (state := keeper.load()):
            self.load(state)
        while self.step < self.steps:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            order = torch.randperm(len(self.training), generator=self._seeded(0, epoch))
            batches = order[: self.steps_per_epoch * self.recipe.batch_size].split(self.recipe.batch_size)
            losses: list[Tensor] = []  # of the steps since the last report
            for batch in batches[done:]:
                losses.append(self.take_step(batch))
                self.step += 1
                ends = self.step % self.steps_per_epoch == 0
                if ends or self.step % REPORT_EVERY == 0:
                    self._check(losses)
                    losses.clear()
                    report(self.state(ended=ends, validation=self.judge() if ends else None))
                    stop = self.group.any(stopping())
                else:
                    stop = self.group.size == 1 and stopping()
                if ends:
                    self.sums.zero_()
                if keeper and (ends or stop):
                    self._check(losses)
                    if self.group.leads:
                        keeper.save(self.state_dict())
                if stop and self.step < self.steps:
                    raise Interrupted(f"stopped at step {self.step} of {self.steps}")
        self.model.load_state_dict(self.best)
        self.model.to("cpu", memory_format=torch.contiguous_format).eval()
        return self.best_accuracy if len(self.validation) else math.nan, self.seconds()

    def take_step(self, batch: Tensor) -> Tensor:
        """Learn from the images with these indices, this process from its part of them; the loss."""
        random = self._seeded(1, self.step)
        numbers = torch.rand(len(batch), NUMBERS, generator=random)
        torch.manual_seed(int(torch.randint(2**62, (), generator=random)) + self.group.rank)  # of dropout
        mine = self.group.part(batch).to(self.device)
        images, labels = self.training.images[mine], self.training.labels[mine]  # (B, H, W, C), (B,)
        images = self.recipe.augmentation(images, self.group.part(numbers).to(self.device))
        inputs = self.model.prepare(images).contiguous(memory_format=torch.channels_last)
        self.model.train()
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            logits = self.body(inputs).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.recipe.averaging:
            self.average.update_parameters(self.model)
        loss = loss.detach()
        self.sums += torch.stack([loss, (logits.argmax(1) == labels).float().mean()])
        return loss

    def judge(self) -> float | None:
        """Accuracy on the validation part, if there is one; the weights are kept if they are the best so far."""
        model: nn.Module = self.average.module if self.recipe.averaging else self.model
        accuracy = None
        if len(self.validation):
            images, labels = self.group.part(self.validation.images), self.group.part(self.validation.labels)
            right = (predict(model, images).argmax(1) == labels).sum()
            accuracy = self.group.sum(right).item() / len(self.validation)
        if accuracy is None or accuracy >= self.best_accuracy:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
            self.best_accuracy = -1.0 if accuracy is None else accuracy
        return accuracy

    def state(self, *, ended: bool, validation: float | None) -> Step:
        """Where training stands, over all processes."""
        loss, accuracy = (self.group.sum(self.sums) / self.group.size).tolist()
        done = (self.step - 1) % self.steps_per_epoch + 1
        return Step(
            epoch=(self.step - 1) // self.steps_per_epoch + 1,
            epochs=self.recipe.epochs,
            step=self.step,
            steps=self.steps,
            images=self.step * self.recipe.batch_size,
            loss=loss / done,
            accuracy=accuracy / done,
            learning_rate=float(self.schedule.get_last_lr()[0]),
            ended=ended,
            validation=validation,
        )

    def seconds(self) -> float:
        """How long it has been training, with what it did before it was continued."""
        return self.seconds_before + time.perf_counter() - self.started

    def state_dict(self) -> dict[str, Any]:
        """All that the steps to come depend on."""
        return {
            "recipe": dataclasses.asdict(self.recipe),
            "step": self.step,
            "best": self.best,
            "best_accuracy": self.best_accuracy,
            "sums": self.sums,
            "seconds": self.seconds(),
        } | {name: getattr(self, name).state_dict() for name in STATEFUL}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            TrainingError: it was another recipe's.
        """
        if state["recipe"] != dataclasses.asdict(self.recipe):
            raise TrainingError("the checkpoint is of a run with other settings; it cannot be continued with these")
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.step, self.best, self.best_accuracy = state["step"], state["best"], state["best_accuracy"]
        self.sums, self.seconds_before = state["sums"].to(self.device), state["seconds"]

    def _check(self, losses: list[Tensor]) -> None:
        """See that every loss since the last report is a number."""
        if losses:
            finite = torch.stack(losses).isfinite().tolist()
            if self.group.any(not all(finite)):
                at = self.step - len(finite) + 1 + (finite.index(False) if False in finite else 0)
                raise TrainingError(
                    f"the loss is no number at step {at} of {self.steps}; the last good checkpoint is kept. "
                    "Change --seed or --batch-size"
                )

    def _seeded(self, what: int, number: int) -> torch.Generator:
        """The generator for one use of randomness, the same in every run of the seed."""
        return self.random.manual_seed((self.recipe.seed * 1_000_003 + 2 * number + what) % 2**63)


STATEFUL = ("model", "average", "optimizer", "schedule", "scaler")


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, *, batch_size: int = 1000) -> Tensor:
    """Probabilities float32 (N, classes) of raw images (N, H, W, C), in full precision."""
    model.eval()
    return torch.cat([model(batch) for batch in images.split(batch_size)])


def narrow_type(device: torch.device) -> torch.dtype | None:
    """The 16-bit type whose arithmetic is in the hardware, and so faster than float32, rather than emulated."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16")) else None


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks for the next step instead of handing them back to the kernel.

    A step frees and takes tens of megabytes; getting them anew costs a page fault each 4 KiB, which was a fifth of an
    epoch's time on 2 cores (7.7 s against 6.3, medians of 3). Where the C library is another, nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt(3)
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _is_out_of_memory(error: BaseException) -> bool:
    """Torch's CPU allocator has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
