"""The ways to a server: one module for what both clients of a protocol share, one for each client."""

from __future__ import annotations

from collections.abc import Sequence

from tritone.endpoints import Endpoint
from tritone.messages import AsyncTransport, Transport


def make_transport(endpoint: Endpoint) -> Transport:
    """A transport for threads; only the protocol that is used is imported."""
    if endpoint.protocol == "http":
        from tritone.transports.http_sync import HttpTransport

        return HttpTransport(endpoint)
    from tritone.transports.grpc_sync import GrpcTransport

    return GrpcTransport(endpoint)


def make_async_transport(endpoint: Endpoint) -> AsyncTransport:
    """A transport for one event loop."""
    if endpoint.protocol == "http":
        from tritone.transports.http_async import AsyncHttpTransport

        return AsyncHttpTransport(endpoint)
    from tritone.transports.grpc_async import AsyncGrpcTransport

    return AsyncGrpcTransport(endpoint)


def make_balanced_transport(endpoints: Sequence[Endpoint]) -> Transport:
    """A transport for threads that shares its calls among servers."""
    if len(endpoints) == 1:
        return make_transport(endpoints[0])
    from tritone.transports.balanced import BalancedTransport

    return BalancedTransport(endpoints, [make_transport(endpoint) for endpoint in endpoints])


def make_async_balanced_transport(endpoints: Sequence[Endpoint]) -> AsyncTransport:
    """A transport for one event loop that shares its calls among servers."""
    if len(endpoints) == 1:
        return make_async_transport(endpoints[0])
    from tritone.transports.balanced import AsyncBalancedTransport

    return AsyncBalancedTransport(endpoints, [make_async_transport(endpoint) for endpoint in endpoints])
