"""The requests of the comparison: inputs of a model, and the outputs that every peer must return for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from tritone_serving.repository import newest_version
from tritone_training.registry import get_kind

N_REQUESTS = 32
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Workload:
    """Requests to one model, N in all.

    Attributes:
        model: name of the model.
        path: its ONNX file.
        requests: the inputs of each request by name, (rows, ...) each.
        batch: the inputs of all requests by name, (N * rows, ...) each.
        outputs: names of the outputs, in the order of the graph.
        expected: the outputs of the first request one after another, as float32.
    """

    model: str
    path: Path
    requests: tuple[dict[str, Array], ...]
    batch: dict[str, Array]
    outputs: tuple[str, ...]
    expected: npt.NDArray[np.float32]

    @property
    def n_rows(self) -> int:
        """Number of inferences in each request."""
        return len(next(iter(self.requests[0].values())))

    @property
    def request_bytes(self) -> int:
        """Size of the inputs of a request."""
        return sum(array.nbytes for array in self.requests[0].values())

    @property
    def n_values(self) -> int:
        """Number of output values of a request."""
        return self.expected.size


def make_workload(repository: Path, model: str, n_rows: int = 1) -> Workload:
    """Draw the requests to a model from the declaration of its kind.

    Args:
        repository: folder of exported models.
        model: name of the model, which is also that of its kind.
        n_rows: inferences in each request.

    Raises:
        ValueError: the repository has no version of the model, or its file is not an ONNX file with the kind's inputs.
    """
    version = newest_version(repository / model)
    if version is None:
        raise ValueError(f"{repository / model}: expected a version, got none; run `tritone export {model}`")
    drawn = get_kind(model).example_inputs(N_REQUESTS * n_rows, 0)
    try:
        session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common root
        raise ValueError(f"{version}: expected an ONNX file, got: {error}; run `tritone export {model}`") from error
    unknown = [each.name for each in session.get_inputs() if each.name not in drawn]
    if unknown:
        raise ValueError(f"{version}: expected inputs {', '.join(drawn)}, got {', '.join(unknown)} as well")
    batch = {each.name: np.ascontiguousarray(drawn[each.name]) for each in session.get_inputs()}
    requests = tuple(
        {name: array[at : at + n_rows] for name, array in batch.items()} for at in range(0, N_REQUESTS * n_rows, n_rows)
    )
    outputs = tuple(each.name for each in session.get_outputs())
    expected = np.concatenate([output.ravel() for output in session.run(outputs, requests[0])])
    return Workload(model, version / "model.onnx", requests, batch, outputs, expected.astype(np.float32))
