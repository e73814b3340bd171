"""The classifier around a network: raw pixels in, probabilities out.

It adds normalization before the network and softmax after it, so that training and serving cannot differ in either.

Not here: the networks (architectures.py), the choice of the temperature (trainer/calibration.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Normalization:
    """A network's input for a pixel x: (x/255 − mean) / std, with one mean and std for all channels."""

    mean: float
    std: float


class Classifier(nn.Module):
    """A network with normalization before it and softmax after it: raw pixels in, probabilities out.

    Its state dictionary holds the normalization too: weights alone give other answers.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, body: nn.Module, normalization: Normalization) -> None:
        super().__init__()
        self.body = body
        # (x/255 − mean)/std as one multiplication and one addition.
        self.register_buffer("scale", torch.tensor(1 / (255 * normalization.std)))
        self.register_buffer("shift", torch.tensor(-normalization.mean / normalization.std))
        self.temperature = 1.0  # divides the logits; it stays 1 where the last layer's weights have it

    def normalize(self, images: Tensor) -> Tensor:
        """Raw pixels (N, H, W, C), uint8 or float from 0 to 255, to normalized float32 (N, C, H, W)."""
        # Permute first: ONNX Runtime multiplies far slower if the last axis has one element, as in (N, H, W, 1).
        return images.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift

    def logits(self, images: Tensor) -> Tensor:
        """Raw uint8 (N, H, W, C) to logits float32 (N, classes)."""
        logits: Tensor = self.body(self.normalize(images))
        return logits if self.temperature == 1 else logits / self.temperature

    def forward(self, images: Tensor) -> Tensor:
        """Raw uint8 (N, H, W, C) to probabilities float32 (N, classes)."""
        return torch.softmax(self.logits(images), dim=1)


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, *, batch_size: int = 1000) -> Tensor:
    """Probabilities float32 (N, classes) of raw images (N, H, W, C), computed in float32."""
    model.eval()
    return torch.cat([model(batch) for batch in images.split(batch_size)])
