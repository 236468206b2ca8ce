"""Graphs in reduced precision: half precision (fp16) for GPUs and 8-bit integers (int8) for CPUs.

A reduced graph is stored next to `model.onnx` in the version folder, and the configuration of a profile selects it. Its
tensors are the same, and its loss of quality is measured on validation data before anything is written.
"""

from tritone_export.precision.conversion import to_half, to_int8
from tritone_export.precision.reduce import (
    FILENAMES,
    Loss,
    Precision,
    Reduced,
    Reduction,
    check_reducible,
    measure,
    reduce_graph,
)

__all__ = [
    "FILENAMES",
    "Loss",
    "Precision",
    "Reduced",
    "Reduction",
    "check_reducible",
    "measure",
    "reduce_graph",
    "to_half",
    "to_int8",
]
