"""gRPC for threads, over tritonclient."""

from __future__ import annotations

import tritonclient.grpc as triton

from tritone_client._deadline import Deadline
from tritone_client._endpoint import Endpoint
from tritone_client._messages import (
    InferRequest,
    ModelRequest,
    ModelResponse,
    ReadyResponse,
    Request,
    Response,
)
from tritone_client._transports import _grpc_wire as wire


class GrpcTransport:
    """One channel, which all threads share: tritonclient's unary gRPC calls are thread-safe."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._headers = wire.metadata_headers(endpoint)
        self._client = triton.InferenceServerClient(**wire.client_options(endpoint))

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        """See `Transport.handle`."""
        try:
            return self._answer(request, Deadline(timeout_s))
        except Exception as error:
            raise wire.translated(error, request, self._endpoint, timeout_s) from error

    def close(self) -> None:
        """See `Transport.close`."""
        self._client.close()

    def _answer(self, request: Request, deadline: Deadline) -> Response:
        client = self._client
        if isinstance(request, InferRequest):
            arguments = wire.infer_arguments(request)
            result = client.infer(**arguments, headers=self._headers, client_timeout=deadline.check(request))
            return wire.read_inference(request, result)
        if isinstance(request, ModelRequest):
            return self._model(request, deadline)
        limits = {"headers": self._headers, "client_timeout": deadline.check(request)}
        if request.model is None:
            return ReadyResponse(bool(client.is_server_ready(**limits)))
        return ReadyResponse(bool(client.is_model_ready(request.model, **limits)))

    def _model(self, request: ModelRequest, deadline: Deadline) -> ModelResponse:
        name, headers = request.model, self._headers
        metadata = self._client.get_model_metadata(name, headers=headers, client_timeout=deadline.check(request))
        config = self._client.get_model_config(name, headers=headers, client_timeout=deadline.check(request))
        return wire.read_model(metadata, config)
