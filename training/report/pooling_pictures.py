"""Pictures of what each kind of pooling does to the same feature map.

The inputs are what one trained network feeds into its first and into its last pooling layer, for one image. Each kind's
layers are those of its own trained network, found by what they do: they make feature maps smaller. So learned poolings
show what they learned, and a kind that differs in the last layer alone shows that.

Not here: training the networks (comparison.py), the page (comparison_page.py).
"""

import base64
import io
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from training.networks.classifier import Classifier

POSITIONS = ("First pooling layer", "Last pooling layer")
SHRINKS_BY = 1.5  # a convolution without padding makes maps smaller too, but by less


@dataclass(frozen=True)
class Picture:
    """A feature map as a grey PNG data URL."""

    url: str
    caption: str


@torch.inference_mode()
def pooling_layers(model: Classifier, image: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """The first and the last layer that make feature maps smaller, each with its input (1, C, H, W) for the image.

    `image` is uint8 (H, W, C). Empty if the network has none.
    """
    found: list[tuple[nn.Module, Tensor]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs and inputs[0].ndim == 4 and output.ndim == 4 and inputs[0].shape[2] >= SHRINKS_BY * output.shape[2]:
            found.append((layer, inputs[0].clone()))

    hooks = [layer.register_forward_hook(record) for layer in model.body.modules() if not any(layer.children())]
    try:
        model.eval()(image[None])
    finally:
        for hook in hooks:
            hook.remove()
    return [found[0], found[-1]] if found else []


def input_maps(model: Classifier, image: Tensor) -> list[NDArray[np.float32]]:
    """What the first and the last pooling layer get for the image: float32 (1, C, H, W) each."""
    return [inputs.float().numpy() for _, inputs in pooling_layers(model, image)]


@torch.inference_mode()
def pooled_pictures(model: Classifier, image: Tensor, maps: list[NDArray[np.float32]]) -> list[dict[str, str]]:
    """Pictures of what the network's first and last pooling layer make of the maps' strongest channel."""
    layers = [layer for layer, _ in pooling_layers(model, image)]
    return [
        asdict(picture(layer(torch.from_numpy(inputs)).numpy()[0, strongest_channel(inputs)]))
        for layer, inputs in zip(layers, maps, strict=False)
    ]


def map_pictures(maps: list[NDArray[np.float32]]) -> list[dict[str, str]]:
    """Pictures of the inputs' strongest channels."""
    return [asdict(picture(inputs[0, strongest_channel(inputs)])) for inputs in maps]


def strongest_channel(inputs: NDArray[np.float32]) -> int:
    """The channel of (1, C, H, W) that varies most."""
    return int(inputs[0].var((1, 2)).argmax())


def picture(values: NDArray[np.float32]) -> Picture:
    """Values (H, W) as grey levels from the smallest to the largest, and their range in words."""
    low, high = float(values.min()), float(values.max())
    pixels = ((values - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    height, width = values.shape
    spread = f"{low:.2f} to {high:.2f}" if values.size > 1 else f"{low:.2f}"
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(url, f"{height}×{width}, {spread}, mean {float(values.mean()):.2f}")
