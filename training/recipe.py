"""The recipe: how weights are found. Read it from top to bottom.

The whole data set lies on the device as one uint8 tensor; a step gathers a batch, shifts its images at random, scales
them and takes one AdamW step under a one-cycle schedule. Compute is bfloat16 where the device has it, in
channels-last layout; weights stay float32. An exponential moving average of the weights is what is judged, on the
validation part, after every epoch; the best one is kept. The test part is never seen here.
"""

import ctypes
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.data import Part
from training.errors import TrainingError
from training.networks import Classifier, Network

# Epochs after which more no longer pays much, and the batch size that goes with them, by data set.
DEFAULTS = {"mnist": (3, 192), "mnist-sample": (20, 96)}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, given the data and the machine."""

    epochs: int
    batch_size: int
    seed: int
    learning_rate: float = 6e-3  # the peak of the cycle
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    averaging: float = 0.98  # decay of the moving average, a step
    shift: int = 1  # pixels that an image moves at most, each way


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
    validation: float | None = None  # accuracy, at the end of an epoch


def train(
    network: Network,
    parts: tuple[Part, Part],
    recipe: Recipe,
    *,
    device: torch.device,
    report: Callable[[Step], None],
) -> tuple[Classifier, float]:
    """Train `network` on (training, validation) parts.

    Returns the weights that did best on the validation part, on the CPU, and that accuracy from 0 to 1.

    Raises:
        TrainingError: the loss stopped being a number, or the training part is smaller than one batch.
    """
    keep_freed_memory()
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # costs 5 % and decides nothing
    training, validation = (Part(part.images.to(device), part.labels.to(device)) for part in parts)
    steps_per_epoch = len(training) // recipe.batch_size
    if steps_per_epoch == 0:
        raise TrainingError(f"--batch-size {recipe.batch_size} is more than the {len(training)} training images")
    steps = steps_per_epoch * recipe.epochs

    model = Classifier(network, network.build()).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    # Up for a fifth of the steps; not 0.2, for OneCycleLR divides by zero where that is exactly one step.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.21)
    random = torch.Generator(device).manual_seed(recipe.seed)
    best, best_accuracy = average.module.state_dict(), -1.0

    step = 0
    for epoch in range(1, recipe.epochs + 1):
        order = torch.randperm(len(training), generator=random, device=device)
        loss_sum = torch.zeros((), device=device)
        correct = torch.zeros((), device=device)
        for batch in order[: steps_per_epoch * recipe.batch_size].split(recipe.batch_size):
            images, labels = training.images[batch], training.labels[batch]  # (B, H, W, C), (B,)
            images = shift_randomly(images, recipe.shift, random)
            loss, logits = _loss(model, images, labels, recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            step += 1
            loss_sum += loss.detach()
            correct += (logits.argmax(1) == labels).sum()
            done = step - (epoch - 1) * steps_per_epoch
            if done % 25 == 0 or done == steps_per_epoch:
                state = Step(
                    epoch=epoch,
                    epochs=recipe.epochs,
                    step=step,
                    steps=steps,
                    images=step * recipe.batch_size,
                    loss=loss_sum.item() / done,
                    accuracy=correct.item() / (done * recipe.batch_size),
                    validation=accuracy(average.module, validation) if done == steps_per_epoch else None,
                )
                if not math.isfinite(state.loss):
                    raise TrainingError(f"the loss is {state.loss} at step {step}; lower --batch-size or change --seed")
                report(state)
        if state.validation is not None and state.validation >= best_accuracy:
            best_accuracy = state.validation
            best = {name: tensor.clone() for name, tensor in average.module.state_dict().items()}

    trained = Classifier(network, network.build())
    trained.load_state_dict({name: tensor.cpu() for name, tensor in best.items()})
    return trained.eval(), best_accuracy


def _loss(model: Classifier, images: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Loss and logits (B, classes) of raw images (B, H, W, C), in the device's fast precision."""
    inputs = model.prepare(images).contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=has_bfloat16(images.device)):
        logits = model.body(inputs)
    logits = logits.float()
    return F.cross_entropy(logits, labels, label_smoothing=smoothing), logits


def shift_randomly(images: Tensor, limit: int, random: torch.Generator) -> Tensor:
    """Move each image of (B, H, W, C) by up to `limit` pixels each way; what comes in is 0, the background."""
    count, height, width, _ = images.shape
    padded = F.pad(images, (0, 0, limit, limit, limit, limit))
    offset = torch.randint(0, 2 * limit + 1, (2, count, 1), generator=random, device=images.device)
    rows = offset[0] + torch.arange(height, device=images.device)  # (B, H)
    columns = offset[1] + torch.arange(width, device=images.device)  # (B, W)
    every = torch.arange(count, device=images.device)
    return padded[every[:, None, None], rows[:, :, None], columns[:, None, :]]


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, *, batch_size: int = 1000) -> Tensor:
    """Probabilities float32 (N, classes) of raw images (N, H, W, C), in full precision."""
    model.eval()
    return torch.cat([model(batch) for batch in images.split(batch_size)])


def accuracy(model: nn.Module, part: Part) -> float:
    """Share of the part's images whose most probable class is their label, from 0 to 1."""
    return (predict(model, part.images).argmax(1) == part.labels).float().mean().item()


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is in the hardware, and so faster than float32, rather than emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


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
