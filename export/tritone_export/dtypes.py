"""Names of element types in Triton's configuration, ONNX and ONNX Runtime.

`tritonclient.utils.triton_to_np_dtype` has those of NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tritone_training.declaration import DType

# Name in `onnx.TensorProto.DataType` by name on Triton's wire; also of types that only models of other origin have.
_ONNX: Final[Mapping[str, str]] = {
    "FP64": "DOUBLE",
    "FP32": "FLOAT",
    "FP16": "FLOAT16",
    "BF16": "BFLOAT16",
    "BYTES": "STRING",
    **{name: name for name in ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")},
}


def config_type(dtype: DType | str) -> str:
    """Return the name in a model configuration, such as `TYPE_FP32`."""
    return "TYPE_STRING" if dtype == "BYTES" else f"TYPE_{dtype}"


def onnxruntime_type(dtype: DType) -> str:
    """Return the type that `InferenceSession.get_inputs` reports, such as `tensor(float)`."""
    return f"tensor({_ONNX[dtype].lower()})"


CONFIG_TYPE_BY_ONNX: Final[Mapping[str, str]] = {onnx: config_type(dtype) for dtype, onnx in _ONNX.items()}
