"""Messages of the Open Inference Protocol (version 2), which Triton and MLServer speak over gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from benchmarks.peers.interface import Request
from benchmarks.peers.workloads import Array

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def encode_grpc(model: str, inputs: Mapping[str, Array]) -> Request:
    """Return a ModelInfer request with the inputs as raw values."""
    message = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        message.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    return Request(METHOD, message.SerializeToString())


def decode_grpc(body: bytes, outputs: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return the outputs of a ModelInfer response one after another."""
    message = service_pb2.ModelInferResponse.FromString(body)
    raw = dict(zip([each.name for each in message.outputs], message.raw_output_contents, strict=True))
    return np.concatenate([np.frombuffer(raw[name], np.float32) for name in outputs])
