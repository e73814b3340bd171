"""A graph's signature: the inputs, outputs and metadata that it declares, as ONNX Runtime tells them.

Not here: ONNX Runtime (runtime/session.py), what a model makes of its graph and its configuration (spec.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class GraphTensor:
    """An input or output as the graph declares it. `type` is ONNX Runtime's name; None in `shape` is a free axis."""

    name: str
    type: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class GraphSignature:
    """The inputs and outputs of a graph, in its order, and its metadata."""

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


class Session(Protocol):
    """What is read of an ONNX Runtime session."""

    def get_inputs(self) -> Sequence[Any]: ...

    def get_outputs(self) -> Sequence[Any]: ...

    def get_modelmeta(self) -> Any: ...


def read_signature(session: Session) -> GraphSignature:
    """The signature of the graph that an ONNX Runtime session holds; without metadata if that is no UTF-8."""
    try:
        metadata = dict(session.get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError:
        metadata = {}
    return GraphSignature(_tensors(session.get_inputs()), _tensors(session.get_outputs()), metadata)


def _tensors(nodes: Sequence[Any]) -> tuple[GraphTensor, ...]:
    return tuple(
        GraphTensor(node.name, node.type, tuple(axis if isinstance(axis, int) else None for axis in node.shape))
        for node in nodes
    )
