"""Low-level gRPC calls to a running server: statistics, configurations and inference.

Unlike the SDK, these calls give access to whole configurations, to single versions and to the kind of a failure. Import
this module only where it is needed, because importing gRPC takes a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from tritone.endpoints import Endpoint
from tritone.transports import grpc_wire as wire
from tritone_serving._exceptions import CanaryError
from tritone_serving.repository import is_candidate

Array = np.ndarray[Any, Any]
# `lost`: no server. `silent`: no answer in time. `broken`: the server cannot run the model. `refused`: it answered
# that it does not want this request. `busy`: its queue is full. `absent`: there is no such model, or not now.
Failure = Literal["lost", "silent", "broken", "refused", "busy", "absent"]
_BY_STATUS: dict[str, Failure] = {
    "DEADLINE_EXCEEDED": "silent",
    "INVALID_ARGUMENT": "refused",
    "NOT_FOUND": "absent",
    "RESOURCE_EXHAUSTED": "busy",
    "CANCELLED": "lost",
    "PERMISSION_DENIED": "refused",
    "UNAUTHENTICATED": "refused",
}


@dataclass(frozen=True)
class Answer:
    """Outputs by name and the version that computed them; the first response of a stream."""

    version: str
    outputs: Mapping[str, Array]


class Calls:
    """A channel to one server; threads may share it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._metadata = wire.call_metadata(endpoint)
        self._connection = wire.connect(endpoint, grpc)

    def models(self, *, timeout_s: float) -> dict[str, int]:
        """Return the loaded models and the number of runs that each has finished, without responses from the cache.

        Candidates of a publication are left out.

        Raises:
            CanaryError: the server does not respond.
        """
        answer = self._call("ModelStatistics", service_pb2.ModelStatisticsRequest(), "", timeout_s)
        counts: dict[str, int] = {}
        for each in answer.model_stats:
            if not is_candidate(each.name):
                counts[each.name] = counts.get(each.name, 0) + each.execution_count
        return counts

    def config(self, model: str, *, timeout_s: float) -> Any:
        """Return the configuration of a model, an `inference.ModelConfig` message.

        Raises:
            CanaryError: as `infer`.
        """
        return self._call("ModelConfig", service_pb2.ModelConfigRequest(name=model), model, timeout_s).config

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        timeout_s: float,
        version: str = "",
        decoupled: bool = False,
        parameters: Mapping[str, str | bool] | None = None,
    ) -> Answer:
        """Run a model once.

        Args:
            parameters: request parameters, which backends can read.

        Raises:
            CanaryError: `failure` says in which way it failed.
        """
        request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
        for name, value in (parameters or {}).items():
            if isinstance(value, bool):
                request.parameters[name].bool_param = value
            else:
                request.parameters[name].string_param = value
        for name, array in inputs.items():
            text = array.dtype == np.object_
            request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
            request.raw_input_contents.append(serialize_byte_tensor(array).item() if text else array.tobytes())
        if decoupled:
            response = self._first_of_stream(request, timeout_s)
        else:
            response = self._call("ModelInfer", request, model, timeout_s)
        result = triton.InferResult(response)
        return Answer(response.model_version, {each.name: result.as_numpy(each.name) for each in response.outputs})

    def close(self) -> None:
        """Close the channel; calls without a response fail."""
        self._connection.channel.close()

    def __enter__(self) -> Calls:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _first_of_stream(self, request: Any, timeout_s: float) -> Any:
        stream = self._connection.stub.ModelStreamInfer(iter((request,)), metadata=self._metadata, timeout=timeout_s)
        try:
            answer = next(stream)
        except StopIteration:
            raise CanaryError(
                f"{request.model_name}: the stream ended without an answer", model=request.model_name, failure="broken"
            ) from None
        except grpc.RpcError as error:
            raise self._translated(error, request.model_name, timeout_s) from error
        finally:
            stream.cancel()
        if answer.error_message:  # a stream reports a failure as text only
            failure: Failure = "broken" if "not healthy" in answer.error_message else "refused"
            raise CanaryError(
                f"{request.model_name}: {_line(answer.error_message)}", model=request.model_name, failure=failure
            )
        return answer.infer_response

    def _call(self, method: str, message: Any, model: str, timeout_s: float) -> Any:
        try:
            return getattr(self._connection.stub, method)(message, metadata=self._metadata, timeout=timeout_s)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed meanwhile
            raise self._translated(error, model, timeout_s) from error

    def _translated(self, error: Exception, model: str, timeout_s: float) -> CanaryError:
        status = error.code().name if isinstance(error, grpc.RpcError) else "CANCELLED"
        said = (error.details() or "") if isinstance(error, grpc.RpcError) else str(error)
        failure = _BY_STATUS.get(status, "broken")
        if status == "UNAVAILABLE":  # Triton's for a full queue and for a model that is not there; gRPC's for no server
            about_model = "unknown model" in said or "is not ready" in said or "not found" in said
            failure = "absent" if about_model else "busy" if "queue" in said else "lost"
        if "unknown model" in said:
            failure = "absent"
        who = model or f"the server at {self._endpoint.authority}"
        if wire.speaks_another_protocol(said):
            said = "what listens there does not speak gRPC; expected Triton's gRPC port (8001 by default)"
        what = f"no answer within {timeout_s:.1f} s" if failure == "silent" else _line(said) or status
        if failure == "lost":
            what = (
                f"cannot be reached at {self._endpoint.authority} ({what})" if model else f"cannot be reached ({what})"
            )
        return CanaryError(f"{who}: {what}", model=model, failure=failure)


def _line(text: str, n_chars: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= n_chars else f"{line[:n_chars]} ..."
