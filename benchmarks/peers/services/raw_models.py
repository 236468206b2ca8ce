"""ONNX models whose requests and responses are raw bytes; the services of the peers run them.

Runs in the environments of the peers, which have NumPy and ONNX Runtime but not this project.
"""

from __future__ import annotations

import json
import os

import numpy as np
import onnxruntime

TYPES = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(int16)": np.dtype(np.int16),
    "tensor(int64)": np.dtype(np.int64),
}


class RawModel:
    """A session of one model.

    A request holds the inputs one after another as raw values; only its length is checked. A request has as many rows
    as fit if the widths of the inputs are fixed, else one row, whose inputs have the same width. A response holds the
    outputs one after another.

    Args:
        path: the ONNX file.
        n_threads: threads within an operator; 0 is ONNX Runtime's default, one for each core.
    """

    def __init__(self, path: str, n_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = {each.name: TYPES[each.type] for each in self._session.get_inputs()}
        self.outputs = [each.name for each in self._session.get_outputs()]
        widths = [each.shape[-1] for each in self._session.get_inputs()]
        self._width: int | None = widths[0] if all(isinstance(width, int) for width in widths) else None

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs in the model's order."""
        return self._session.run(self.outputs, inputs)

    def run_bytes(self, body: bytes) -> bytes:
        """Run the model on the bytes of a request.

        Raises:
            ValueError: the length is not that of whole rows.
        """
        n_rows, width = self._shape(len(body))
        inputs, at = {}, 0
        for name, dtype in self.inputs.items():
            inputs[name] = np.frombuffer(body, dtype, n_rows * width, at).reshape(n_rows, width)
            at += n_rows * width * dtype.itemsize
        return b"".join(output.tobytes() for output in self.run(inputs))

    def _shape(self, n_bytes: int) -> tuple[int, int]:
        """Return the rows of a request of this length, and the width of its inputs."""
        value_bytes = sum(dtype.itemsize for dtype in self.inputs.values())  # one value of each input
        row_bytes = value_bytes * (self._width or 1)
        if n_bytes == 0 or n_bytes % row_bytes:
            raise ValueError(f"expected a multiple of {row_bytes} bytes, got {n_bytes}")
        return (n_bytes // row_bytes, self._width) if self._width else (1, n_bytes // value_bytes)


def model_paths() -> dict[str, str]:
    """Return the ONNX files by model name, from the environment variable PEER_MODELS (JSON)."""
    return dict(json.loads(os.environ["PEER_MODELS"]))


def open_models() -> dict[str, RawModel]:
    """Open all models, with the number of threads in PEER_THREADS (1)."""
    n_threads = int(os.environ.get("PEER_THREADS", "1"))
    return {name: RawModel(path, n_threads) for name, path in model_paths().items()}
