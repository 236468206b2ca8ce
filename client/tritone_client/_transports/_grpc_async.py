"""gRPC for one event loop, over tritonclient."""

from __future__ import annotations

from typing import Any

import tritonclient.grpc.aio as triton

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


class AsyncGrpcTransport:
    """One channel; opened by the first request, because a channel belongs to a running event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._headers = wire.metadata_headers(endpoint)
        self._client: Any = None

    async def handle(self, request: Request, *, timeout_s: float) -> Response:
        """See `AsyncTransport.handle`."""
        try:
            if self._client is None:
                self._client = triton.InferenceServerClient(**wire.client_options(self._endpoint))
            return await self._answer(request, Deadline(timeout_s))
        except Exception as error:
            raise wire.translated(error, request, self._endpoint, timeout_s) from error

    async def close(self) -> None:
        """See `AsyncTransport.close`."""
        if self._client is not None:
            await self._client.close()

    async def _answer(self, request: Request, deadline: Deadline) -> Response:
        client = self._client
        if isinstance(request, InferRequest):
            arguments = wire.infer_arguments(request)
            result = await client.infer(**arguments, headers=self._headers, client_timeout=deadline.check(request))
            return wire.read_inference(request, result)
        if isinstance(request, ModelRequest):
            return await self._model(request, deadline)
        limits = {"headers": self._headers, "client_timeout": deadline.check(request)}
        if request.model is None:
            return ReadyResponse(bool(await client.is_server_ready(**limits)))
        return ReadyResponse(bool(await client.is_model_ready(request.model, **limits)))

    async def _model(self, request: ModelRequest, deadline: Deadline) -> ModelResponse:
        name, headers, client = request.model, self._headers, self._client
        metadata = await client.get_model_metadata(name, headers=headers, client_timeout=deadline.check(request))
        config = await client.get_model_config(name, headers=headers, client_timeout=deadline.check(request))
        return wire.read_model(metadata, config)
