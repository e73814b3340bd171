"""Watch the layers of a network of any shape while it runs.

A layer is a module without children. Hooks see it when the network calls it, so that nested blocks and branches need no
description. Functions that a network calls, such as `F.relu`, are no modules, so hooks do not see them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

# What is called with a layer's name, the layer, its first input and its first output; None where that is no tensor.
Watcher = Callable[[str, nn.Module, Tensor | None, Tensor | None], None]


@contextmanager
def watch_layers(body: nn.Module, watcher: Watcher) -> Iterator[None]:
    """Call `watcher` after every call of a layer, within the context."""
    handles = [
        layer.register_forward_hook(
            lambda layer, inputs, output, name=name: watcher(name, layer, _first_tensor(inputs), _first_tensor(output))
        )
        for name, layer in body.named_modules()
        if not any(layer.children())
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(value: object) -> Tensor | None:
    """The tensor, or the first one in a tuple, list or mapping: recurrent layers return several."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next((found for item in value if (found := _first_tensor(item)) is not None), None)
    return None
