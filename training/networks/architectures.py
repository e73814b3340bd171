"""The networks, layer for layer: normalized images (N, C, H, W) in, logits (N, classes) out.

The comments beside the layers give output shapes with max pooling.

Not here: pooling layers (pooling.py), normalization and softmax (classifier.py), hyperparameters (registry.py).
"""

from torch import Tensor, nn

from training.networks.pooling import Pooling


class SimpleCNN(nn.Sequential):
    """`mnist-simplecnn`: two convolutions, two fully connected layers, 421,642 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        super().__init__(  #                                (N,  1, 28, 28)
            nn.Conv2d(1, 32, kernel_size=3, padding=1),  #  (N, 32, 28, 28)
            nn.ReLU(),
            pooling.layer(),  #                             (N, 32, 14, 14)
            nn.Conv2d(32, 64, kernel_size=3, padding=1),  # (N, 64, 14, 14)
            nn.ReLU(),
            pooling.last_layer(),  #                        (N, 64, 7, 7)
            nn.Flatten(),  #                                (N, 3136)
            nn.Linear(64 * pooling.output_area(7), 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, classes),  #                     (N, 10)
        )


class MnistCNN(nn.Sequential):
    """`mnist-cnn`: pooling before ReLU, log-softmax at the end; 421,642 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        super().__init__(  #                                (N,  1, 28, 28)
            nn.Conv2d(1, 32, kernel_size=3, padding=1),  #  (N, 32, 28, 28)
            pooling.layer(),  #                             (N, 32, 14, 14)
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),  # (N, 64, 14, 14)
            pooling.last_layer(),  #                        (N, 64, 7, 7)
            nn.ReLU(),
            nn.Flatten(),  #                                (N, 3136)
            nn.Linear(64 * pooling.output_area(7), 128),
            nn.ReLU(),
            nn.Linear(128, classes),  #                     (N, 10)
            # Still logits: softmax of log-softmax is softmax, and cross-entropy does not change.
            nn.LogSoftmax(dim=1),
        )


class CifarCNN(nn.Sequential):
    """`cifar10-cnn`: initialized as in Keras, Glorot uniform weights and zero biases; 167,562 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        super().__init__(  #                      (N,  3, 32, 32)
            nn.Conv2d(3, 32, kernel_size=3),  #   (N, 32, 30, 30)
            nn.ReLU(),
            pooling.layer(),  #                   (N, 32, 15, 15)
            nn.Conv2d(32, 64, kernel_size=3),  #  (N, 64, 13, 13)
            nn.ReLU(),
            pooling.last_layer(),  #              (N, 64, 6, 6)
            nn.Flatten(),  #                      (N, 2304)
            nn.Linear(64 * pooling.output_area(6), 64),
            nn.ReLU(),
            nn.Linear(64, classes),  #            (N, 10)
        )
        for layer in self:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)


class LeNet(nn.Sequential):
    """`cifar10-lenet`: LeNet-5 for colour images; 62,006 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        super().__init__(  #                     (N,  3, 32, 32)
            nn.Conv2d(3, 6, kernel_size=5),  #   (N,  6, 28, 28)
            nn.ReLU(),
            pooling.layer(),  #                  (N,  6, 14, 14)
            nn.Conv2d(6, 16, kernel_size=5),  #  (N, 16, 10, 10)
            nn.ReLU(),
            pooling.last_layer(),  #             (N, 16, 5, 5)
            nn.Flatten(),  #                     (N, 400)
            nn.Linear(16 * pooling.output_area(5), 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),  #           (N, 10)
        )


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
    """`mnist-teacher`: six convolutions with batch normalization; 162,562 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10, width: int = 24) -> None:
        super().__init__(  #                      (N,  1, 28, 28)
            ConvBlock(1, width),
            ConvBlock(width, width),
            pooling.layer(),  #                   (N, 24, 14, 14)
            ConvBlock(width, 2 * width),
            ConvBlock(2 * width, 2 * width),
            pooling.layer(),  #                   (N, 48, 7, 7)
            ConvBlock(2 * width, 4 * width),
            ConvBlock(4 * width, 4 * width),
            nn.AvgPool2d(7),  #           (N, 96, 1, 1)
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(4 * width, classes),  #     (N, 10)
        )


class CifarTeacher(nn.Sequential):
    """`cifar10-teacher`: seven convolutions with batch normalization and residual blocks; 657,154 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10, width: int = 24) -> None:
        super().__init__(  #                          (N,   3, 32, 32)
            ConvBlock(3, width),
            ConvBlock(width, 2 * width),
            pooling.layer(),  #                       (N,  48, 16, 16)
            Residual(2 * width),
            ConvBlock(2 * width, 4 * width),
            pooling.layer(),  #                       (N,  96, 8, 8)
            Residual(4 * width),
            ConvBlock(4 * width, 8 * width),
            pooling.layer(),  #                       (N, 192, 4, 4)
            Residual(8 * width),
            nn.MaxPool2d(4),  #               (N, 192, 1, 1)
            nn.Flatten(),
            nn.Linear(8 * width, classes),  #         (N, 10)
        )
