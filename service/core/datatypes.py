"""The element types of tensors and their names.

One row a type: its name on the wire, in config.pbtxt and in ONNX Runtime, its NumPy type, and the field of
InferTensorContents that carries it. FP16 and BF16 have no such field: they can only be sent raw.

NumPy lacks two of the types. BF16 is held as its 16 bits in uint16. BYTES is held as an object array of str, since
ONNX strings are UTF-8; in raw contents, each element is its length in four little-endian bytes, then its text.
"""

import struct
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DataType:
    """An element type. `contents` is "" if values can only be sent raw."""

    name: str  # on the wire
    config: str  # in config.pbtxt
    onnx: str  # as ONNX Runtime prints it
    dtype: np.dtype[np.generic]
    contents: str  # field of InferTensorContents


def _row(name: str, onnx: str, dtype: type[np.generic], contents: str, config: str = "") -> DataType:
    return DataType(name, f"TYPE_{config or name}", f"tensor({onnx})", np.dtype(dtype), contents)


DATA_TYPES = (
    _row("BOOL", "bool", np.bool_, "bool_contents"),
    _row("UINT8", "uint8", np.uint8, "uint_contents"),
    _row("UINT16", "uint16", np.uint16, "uint_contents"),
    _row("UINT32", "uint32", np.uint32, "uint_contents"),
    _row("UINT64", "uint64", np.uint64, "uint64_contents"),
    _row("INT8", "int8", np.int8, "int_contents"),
    _row("INT16", "int16", np.int16, "int_contents"),
    _row("INT32", "int32", np.int32, "int_contents"),
    _row("INT64", "int64", np.int64, "int64_contents"),
    _row("FP16", "float16", np.float16, ""),
    _row("BF16", "bfloat16", np.uint16, ""),
    _row("FP32", "float", np.float32, "fp32_contents"),
    _row("FP64", "double", np.float64, "fp64_contents"),
    _row("BYTES", "string", np.object_, "bytes_contents", config="STRING"),
)
BYTES = DATA_TYPES[-1]
# The length that precedes each element of a raw BYTES tensor.
ELEMENT_LENGTH = struct.Struct("<I")
BY_NAME = {row.name: row for row in DATA_TYPES}
BY_CONFIG = {row.config: row for row in DATA_TYPES}
BY_ONNX = {row.onnx: row for row in DATA_TYPES}

# The NumPy type of each field of InferTensorContents: the widest type that the field carries.
CONTENTS_DTYPES = {
    "bool_contents": np.dtype(np.bool_),
    "int_contents": np.dtype(np.int32),
    "int64_contents": np.dtype(np.int64),
    "uint_contents": np.dtype(np.uint32),
    "uint64_contents": np.dtype(np.uint64),
    "fp32_contents": np.dtype(np.float32),
    "fp64_contents": np.dtype(np.float64),
}
