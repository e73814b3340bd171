"""Teachers: larger networks with batch normalization, whose answers the recipe `distilled` teaches to others.

Global pooling ends their convolutions, so that any kind, window and stride of pooling fits.

Not here: how a student learns (trainer/distillation.py).
"""

from torch import Tensor, nn

from training.networks.pooling import GlobalMaxPool, Pooling


class ConvBlock(nn.Sequential):
    """A convolution that keeps the size, batch normalization and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )


class Residual(nn.Module):
    """A block whose result is added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = ConvBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.block(x)
        return result


class MnistTeacher(nn.Sequential):
    """`mnist-teacher`: six convolutions, 162,562 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        super().__init__(  #                    (N,  1, 28, 28)
            ConvBlock(1, 24),
            ConvBlock(24, 24),
            pooling.layer(24),  #               (N, 24, 14, 14)
            ConvBlock(24, 48),
            ConvBlock(48, 48),
            pooling.layer(48),  #               (N, 48, 7, 7)
            ConvBlock(48, 96),
            ConvBlock(96, 96),
            nn.AdaptiveAvgPool2d(1),  #         (N, 96, 1, 1)
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(96, classes),  #          (N, 10)
        )


class CifarTeacher(nn.Sequential):
    """`cifar10-teacher`: seven convolutions, three of them residual, 657,154 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        super().__init__(  #             (N,   3, 32, 32)
            ConvBlock(3, 24),
            ConvBlock(24, 48),
            pooling.layer(48),  #        (N,  48, 16, 16)
            Residual(48),
            ConvBlock(48, 96),
            pooling.layer(96),  #        (N,  96, 8, 8)
            Residual(96),
            ConvBlock(96, 192),
            pooling.layer(192),  #       (N, 192, 4, 4)
            Residual(192),
            GlobalMaxPool(),  #          (N, 192, 1, 1)
            nn.Flatten(),
            nn.Linear(192, classes),  #  (N, 10)
        )
