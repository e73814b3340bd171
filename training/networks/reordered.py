"""The order in which layers run in training: max pooling before ReLU, which is the same function and quicker.

ReLU keeps the order of values, so the largest value of a window passes it like the whole window; both orders give the
same bits, in outputs and gradients. The exported graph keeps the network's own order.
"""

from torch import nn


def pool_before_relu(body: nn.Module) -> nn.Module:
    """The network with every pair of ReLU and max pooling in a Sequential swapped; it shares all layers with `body`."""
    # A module with a forward of its own calls its layers itself.
    if not isinstance(body, nn.Sequential) or type(body).forward is not nn.Sequential.forward:
        return body
    layers = [pool_before_relu(layer) for layer in body]  # not children(), which has a layer that is used twice once
    for i in range(len(layers) - 1):
        if isinstance(layers[i], nn.ReLU) and isinstance(layers[i + 1], nn.MaxPool2d):
            layers[i], layers[i + 1] = layers[i + 1], layers[i]
    return nn.Sequential(*layers)
