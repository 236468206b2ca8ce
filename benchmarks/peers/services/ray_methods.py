"""The gRPC service of `ray_service`, written by hand: bytes in, bytes out, without a generated module."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BytesValue

SERVICE = "peers.Models"


def add_to_server(servicer: Any, server: Any) -> None:
    """Register the method as generated code would; Ray Serve calls this in its proxy."""
    infer = grpc.unary_unary_rpc_method_handler(
        servicer.Infer,
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Infer": infer}),))
