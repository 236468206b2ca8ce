"""What the two gRPC transports share of streaming: Triton's `ModelStreamInfer`, one request to a call.

tritonclient has it too, but for threads only one stream at a time per client, which ends by waiting for a
thread. So this speaks to the generated stub; a call is cheap on a channel that is open.
"""

from __future__ import annotations

import re
from typing import Any, Final

from tritonclient.grpc import service_pb2

from tritone.exceptions import RequestRejectedError, ServerError
from tritone.messages import InferResponse, StreamRequest, dtype_name
from tritone.transports import grpc_wire as wire
from tritone.transports.codec import tensor_bytes
from tritone.transports.errors import kind_by_words, refusal

# An answer of a stream carries an error as text alone, without a status. (The header `triton_grpc_error` asks for
# statuses, but 2.51 heeds it for some errors only, and complains of itself in its log for each.)
_INVALID: Final = re.compile(r"expect|must be|differ|invalid", re.I)


def message(request: StreamRequest) -> Any:
    """A request as protobuf."""
    built = service_pb2.ModelInferRequest(
        model_name=request.model, model_version=request.version, id=request.request_id
    )
    for name, array in request.inputs.items():
        built.inputs.add(name=name, datatype=dtype_name(array), shape=array.shape)
        built.raw_input_contents.append(bytes(tensor_bytes(array)))
    for name in request.outputs:
        built.outputs.add(name=name)
    return built


def read_answer(request: StreamRequest, answer: Any) -> InferResponse | None:
    """One answer of the stream; None for one that says nothing but that this was all.

    Raises:
        ServerError: of the fitting kind, if the answer is a refusal or makes no sense.
    """
    if answer.error_message:
        kind = kind_by_words(answer.error_message)
        if kind is None:
            kind = RequestRejectedError if _INVALID.search(answer.error_message) else ServerError
        raise refusal(kind, answer.error_message, request, status=None)
    if not answer.infer_response.outputs:
        return None
    return wire.read_inference(request, answer.infer_response)
