"""Graphs in less than single precision: half precision for GPUs, whole numbers of eight bits for CPUs.

A reduced graph lies beside `model.onnx` in the version folder, and the configuration of the profile that it is for
names it. It has the same tensors, and what it costs is measured on validation data before anything is written.
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
