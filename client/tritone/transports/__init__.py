"""Transports: send requests over gRPC or HTTP, from threads or an event loop, to one server or several.

For each protocol, a `_wire` module contains the encoding and error translation that both of its transports share;
`protocol` contains what gRPC and HTTP share.
"""

from __future__ import annotations

from collections.abc import Sequence

from tritone.endpoints import Endpoint
from tritone.messages import AsyncTransport, Transport


def make_transport(endpoint: Endpoint) -> Transport:
    """Return a transport for threads; only the modules of its protocol are imported."""
    if endpoint.protocol == "http":
        from tritone.transports.http_sync import HttpTransport

        return HttpTransport(endpoint)
    from tritone.transports.grpc_sync import GrpcTransport

    return GrpcTransport(endpoint)


def make_async_transport(endpoint: Endpoint) -> AsyncTransport:
    """Return a transport for one event loop; only the modules of its protocol are imported."""
    if endpoint.protocol == "http":
        from tritone.transports.http_async import AsyncHttpTransport

        return AsyncHttpTransport(endpoint)
    from tritone.transports.grpc_async import AsyncGrpcTransport

    return AsyncGrpcTransport(endpoint)


def make_balanced_transport(endpoints: Sequence[Endpoint]) -> Transport:
    """Return a transport for threads that balances its calls over the servers."""
    if len(endpoints) == 1:
        return make_transport(endpoints[0])
    from tritone.transports.balanced import BalancedTransport

    return BalancedTransport(endpoints, [make_transport(endpoint) for endpoint in endpoints])


def make_async_balanced_transport(endpoints: Sequence[Endpoint]) -> AsyncTransport:
    """Return a transport for one event loop that balances its calls over the servers."""
    if len(endpoints) == 1:
        return make_async_transport(endpoints[0])
    from tritone.transports.balanced import AsyncBalancedTransport

    return AsyncBalancedTransport(endpoints, [make_async_transport(endpoint) for endpoint in endpoints])
