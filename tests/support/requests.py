"""ModelInfer requests from arrays, and arrays from responses."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.pb import inference_pb2 as pb


def infer_request(model: str, request_id: str = "", **inputs: NDArray[Any]) -> pb.ModelInferRequest:
    """A request with raw contents. Datatypes follow the arrays; object arrays of str are BYTES."""
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(raw_bytes(array))
    return request


def raw_bytes(array: NDArray[Any]) -> bytes:
    """The raw contents of the array."""
    if array.dtype != np.object_:
        return array.tobytes()
    return b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in array.ravel())


def outputs_of(response: pb.ModelInferResponse) -> dict[str, NDArray[Any]]:
    """The response's tensors by name."""
    names = {name: dtype for dtype, name in DATATYPES.items()} | {"BF16": "uint16"}
    return {
        tensor.name: (
            _texts(raw) if tensor.datatype == "BYTES" else np.frombuffer(raw, names[tensor.datatype])
        ).reshape(tensor.shape)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _texts(raw: bytes) -> NDArray[Any]:
    texts = []
    while raw:
        end = 4 + int.from_bytes(raw[:4], "little")
        texts.append(raw[4:end].decode())
        raw = raw[end:]
    return np.array(texts, np.object_)


DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "object": "BYTES",
}  # fmt: skip
