"""Names of the declared element types in NumPy, ONNX, ONNX Runtime and Triton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tritone_training.declaration import DType


@dataclass(frozen=True)
class DTypeNames:
    """The names of one type.

    Attributes:
        onnx: name in `onnx.TensorProto.DataType`.
        onnxruntime: type in `InferenceSession.get_inputs()`.
        triton: name in Triton's `DataType`.
    """

    numpy: str
    onnx: str
    onnxruntime: str
    triton: str


DTYPES: Final[dict[DType, DTypeNames]] = {
    "FP32": DTypeNames("float32", "FLOAT", "tensor(float)", "TYPE_FP32"),
    "FP16": DTypeNames("float16", "FLOAT16", "tensor(float16)", "TYPE_FP16"),
    "INT64": DTypeNames("int64", "INT64", "tensor(int64)", "TYPE_INT64"),
    "INT32": DTypeNames("int32", "INT32", "tensor(int32)", "TYPE_INT32"),
    "UINT8": DTypeNames("uint8", "UINT8", "tensor(uint8)", "TYPE_UINT8"),
    "BOOL": DTypeNames("bool", "BOOL", "tensor(bool)", "TYPE_BOOL"),
    "BYTES": DTypeNames("object", "STRING", "tensor(string)", "TYPE_STRING"),
}

# With the types that no declaration uses, but that other models in a repository may have.
TRITON_BY_ONNX: Final = {
    **{names.onnx: names.triton for names in DTYPES.values()},
    "DOUBLE": "TYPE_FP64",
    "INT8": "TYPE_INT8",
    "INT16": "TYPE_INT16",
    "UINT16": "TYPE_UINT16",
    "UINT32": "TYPE_UINT32",
    "UINT64": "TYPE_UINT64",
    "BFLOAT16": "TYPE_BF16",
}
