"""Check that onnxruntime can open an ONNX file: opsets, format versions, operators, shapes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from tritone_export.lint.finding import Reporter

# onnxruntime's prefix of the reason: its name, the file, and a position in its source.
_PREFIX: Final = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"|Load model from \S+ failed:"
    r"|\S+\.(?:cc|h):\d+ (?:[\w:<>&*, ~]+?\((?:[^()]|\([^()]*\))*\) (?:const )?)?"
)
_LONGEST: Final = 300


def check_loads(model: Path, config: Any, report: Reporter) -> None:
    """Report an ONNX file that the installed onnxruntime does not open.

    Models that need a custom operator library are skipped, as are all models if onnxruntime is not installed.
    """
    if config.model_operations.op_library_filename:
        return
    try:
        import onnxruntime
    except ModuleNotFoundError:
        report.note(f"{model}: not opened, because onnxruntime is not installed (pip install 'tritone[export]')")
        return
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # its warnings go to the terminal
    try:
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common root
        reason = " ".join(_PREFIX.sub("", " ".join(str(error).split())).split())[:_LONGEST]
        report.error(
            model,
            1,
            f"onnxruntime {onnxruntime.__version__} cannot open this file: {reason}",
            "export it for this version of onnxruntime, or update onnxruntime",
        )
