"""Derive the gRPC and HTTP addresses of a server from `--server`.

`tritone serve` and the images use adjacent ports, HTTP before gRPC (8000 and 8001), so one address is enough. For a
server with other ports, both addresses are given, separated by a comma.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:
    from tritone.endpoints import Endpoint
    from tritone_serving.calls import Calls

_EXPECTED: Final = (
    "expected host:port of the gRPC port, http://host:port of the HTTP port, or both, separated by a comma, if the "
    "ports are not adjacent"
)
_LARGEST_PORT: Final = 65_535
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class Addresses:
    """The addresses of one server.

    Attributes:
        grpc: `host:port`, or `grpcs://host:port` for TLS.
        http: `http://host:port`.
        grpc_is_derived: whether the gRPC port was not given.
    """

    grpc: str
    http: str
    host: str
    http_port: int
    is_loopback: bool
    grpc_is_derived: bool


def model_address(server: str) -> str:
    """Return `--server` for a command that calls models; of both addresses of one server, the gRPC address."""
    from tritone import InvalidInputError
    from tritone.endpoints import make_endpoint

    parts = server.split(",")
    try:
        given = [make_endpoint(part.strip()) for part in parts]
    except InvalidInputError:
        return server  # the client reports what is wrong
    if len(given) == 2 and given[0].host == given[1].host and given[0].protocol != given[1].protocol:
        return next(part.strip() for part, each in zip(parts, given, strict=True) if each.protocol == "grpc")
    return server


def require_grpc(server: str, calls: Calls) -> None:
    """Check that a server answers over gRPC.

    Raises:
        CanaryError: nothing answers there; the message says so if the port was derived from that of HTTP.
    """
    from tritone_serving import CanaryError

    try:
        calls.models(timeout_s=_TIMEOUT_S)
    except CanaryError as error:
        if error.failure in ("lost", "silent"):
            raise CanaryError(f"{error}{derivation(server)}", model="", failure=error.failure) from error


def derivation(server: str) -> str:
    """Return a hint for errors about a derived gRPC port; empty if the port was given."""
    addresses = both_addresses(server)
    if not addresses.grpc_is_derived:
        return ""
    return (
        f"; the gRPC port is taken to follow that of {addresses.http}: if it is another, give both addresses, as in "
        f"--server {addresses.http},{_bracketed(addresses.host)}:PORT"
    )


def grpc_address(server: str, *, tls: bool = False) -> str:
    """Return the gRPC address from `--server`; see `both_addresses`."""
    if "," not in server and ("://" not in server or server.startswith("grpc")):
        return server
    return both_addresses(server, tls=tls).grpc


def both_addresses(server: str, *, tls: bool = False) -> Addresses:
    """Return the addresses from `--server`, for a command that needs both protocols of one server.

    Args:
        server: an address in the SDK's form, or one of each protocol, separated by a comma.
        tls: use TLS for gRPC if its address is not given.

    Raises:
        typer.BadParameter: several servers are named, or the other address cannot be derived.
    """
    from tritone import InvalidInputError
    from tritone.credentials import is_loopback
    from tritone.endpoints import make_endpoint

    try:
        given = [make_endpoint(part.strip()) for part in server.split(",")]
    except InvalidInputError as error:
        raise _bad(str(error)) from error
    grpc = [endpoint for endpoint in given if endpoint.protocol == "grpc"]
    http = [endpoint for endpoint in given if endpoint.protocol == "http"]
    if len(grpc) > 1 or len(http) > 1:
        raise _bad(f"{server!r} names several servers; this command takes one: {_EXPECTED}")
    if http and (http[0].tls or http[0].path):
        raise _bad(f"{http[0].url}: Triton's own HTTP port has neither TLS nor a path; expected http://host:port")
    if http:
        host, port = http[0].host, http[0].port
    else:
        host, port = grpc[0].host, _neighbour(grpc[0], -1)
    if grpc:
        grpc_url = f"grpcs://{grpc[0].authority}" if grpc[0].tls else grpc[0].authority
    else:
        authority = f"{_bracketed(host)}:{_neighbour(http[0], 1)}"
        grpc_url = f"grpcs://{authority}" if tls else authority
    return Addresses(
        grpc=grpc_url,
        http=f"http://{_bracketed(host)}:{port}",
        host=host,
        http_port=port,
        is_loopback=all(map(is_loopback, given)),
        grpc_is_derived=not grpc,
    )


def _neighbour(endpoint: Endpoint, step: int) -> int:
    port = endpoint.port + step
    if not 1 <= port <= _LARGEST_PORT or (endpoint.tls and endpoint.port == 443):
        other = "HTTP" if endpoint.protocol == "grpc" else "gRPC"
        raise _bad(f"the {other} port cannot be derived from {endpoint.url}: {_EXPECTED}")
    return port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _bad(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--server (TRITONE_SERVER)")
