"""The networks, layer for layer: normalized images (N, C, H, W) in, logits (N, classes) out.

The comments beside the layers give output shapes with pooling over windows of 2×2 with stride 2. With another window
or stride, the first fully connected layer follows the size of the maps.

Not here: pooling layers (pooling.py), the formula of sizes (sizes.py), normalization and softmax (classifier.py),
hyperparameters (registry.py).
"""

from torch import nn

from training.networks.pooling import Pooling
from training.networks.sizes import output_size


class SimpleCNN(nn.Sequential):
    """`mnist-simplecnn`: two convolutions, two fully connected layers, 421,642 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        side = pooling.last_output_size(pooling.output_size(28))
        super().__init__(  #                                (N,  1, 28, 28)
            nn.Conv2d(1, 32, kernel_size=3, padding=1),  #  (N, 32, 28, 28)
            nn.ReLU(),
            pooling.layer(32),  #                           (N, 32, 14, 14)
            nn.Conv2d(32, 64, kernel_size=3, padding=1),  # (N, 64, 14, 14)
            nn.ReLU(),
            pooling.last_layer(64),  #                      (N, 64, 7, 7)
            nn.Flatten(),  #                                (N, 3136)
            nn.Linear(64 * side * side, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, classes),  #                     (N, 10)
        )


class MnistCNN(nn.Sequential):
    """`mnist-cnn`: pooling before ReLU, log-softmax at the end; 421,642 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        side = pooling.last_output_size(pooling.output_size(28))
        super().__init__(  #                                (N,  1, 28, 28)
            nn.Conv2d(1, 32, kernel_size=3, padding=1),  #  (N, 32, 28, 28)
            pooling.layer(32),  #                           (N, 32, 14, 14)
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),  # (N, 64, 14, 14)
            pooling.last_layer(64),  #                      (N, 64, 7, 7)
            nn.ReLU(),
            nn.Flatten(),  #                                (N, 3136)
            nn.Linear(64 * side * side, 128),
            nn.ReLU(),
            nn.Linear(128, classes),  #                     (N, 10)
            # Still logits: softmax of log-softmax is softmax, and cross-entropy does not change.
            nn.LogSoftmax(dim=1),
        )


class CifarCNN(nn.Sequential):
    """`cifar10-cnn`: initialized as in Keras, Glorot uniform weights and zero biases; 167,562 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        side = pooling.output_size(output_size(32, window=3))
        side = pooling.last_output_size(output_size(side, window=3))
        super().__init__(  #                      (N,  3, 32, 32)
            nn.Conv2d(3, 32, kernel_size=3),  #   (N, 32, 30, 30)
            nn.ReLU(),
            pooling.layer(32),  #                 (N, 32, 15, 15)
            nn.Conv2d(32, 64, kernel_size=3),  #  (N, 64, 13, 13)
            nn.ReLU(),
            pooling.last_layer(64),  #            (N, 64, 6, 6)
            nn.Flatten(),  #                      (N, 2304)
            nn.Linear(64 * side * side, 64),
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
        side = pooling.output_size(output_size(32, window=5))
        side = pooling.last_output_size(output_size(side, window=5))
        super().__init__(  #                     (N,  3, 32, 32)
            nn.Conv2d(3, 6, kernel_size=5),  #   (N,  6, 28, 28)
            nn.ReLU(),
            pooling.layer(6),  #                 (N,  6, 14, 14)
            nn.Conv2d(6, 16, kernel_size=5),  #  (N, 16, 10, 10)
            nn.ReLU(),
            pooling.last_layer(16),  #           (N, 16, 5, 5)
            nn.Flatten(),  #                     (N, 400)
            nn.Linear(16 * side * side, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),  #           (N, 10)
        )


class OneLayer(nn.Sequential):
    """`cifar10-onelayer`, for teaching: one convolution, one fully connected layer; 72,906 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        side = pooling.last_output_size(output_size(32, window=3))
        super().__init__(  #                    (N,  3, 32, 32)
            nn.Conv2d(3, 32, kernel_size=3),  # (N, 32, 30, 30)
            nn.ReLU(),
            pooling.last_layer(32),  #          (N, 32, 15, 15)
            nn.Flatten(),  #                    (N, 7200)
            nn.Linear(32 * side * side, classes),
        )
