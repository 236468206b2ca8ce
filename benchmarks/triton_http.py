"""Requests to Triton over HTTP with tensors in binary form, prepared for `HttpClient` and other senders of bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import tritonclient.http as triton
from tritonclient.utils import np_to_triton_dtype


def infer_call(
    model: str, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]
) -> tuple[str, bytes, dict[str, str]]:
    """Return path, body and headers of an inference, as `http_clients.request_bytes` takes them.

    Args:
        model: name of the model.
        inputs: arrays by input name.
        outputs: names of the outputs, which the server returns in binary form. Without a list, it would return all of
            them as JSON.
    """
    tensors = []
    for name, array in inputs.items():
        tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, binary_data=True)
        tensors.append(tensor)
    wanted = [triton.InferRequestedOutput(name, binary_data=True) for name in outputs]
    body, n_json = triton.InferenceServerClient.generate_request_body(tensors, outputs=wanted)
    headers = {"Inference-Header-Content-Length": str(n_json), "Content-Type": "application/octet-stream"}
    return f"/v2/models/{model}/infer", body, headers
