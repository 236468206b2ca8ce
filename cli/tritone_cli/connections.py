"""Connect to the server that the options `--server`, `--api-key-file` and others describe.

`tritone serve` and the images use adjacent ports, HTTP before gRPC (8000 and 8001), so one address is enough. For a
server with other ports, both addresses are given, separated by a comma.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from tritone import MusicClient
    from tritone.endpoints import Endpoint
    from tritone_export.publishing import Live
    from tritone_serving.admin import AdminApi
    from tritone_serving.calls import Calls
    from tritone_serving.trial import Bounds

_EXPECTED: Final = (
    "expected host:port of the gRPC port, http://host:port of the HTTP port, or both, separated by a comma, if the "
    "ports are not adjacent"
)
_LARGEST_PORT: Final = 65_535
_TIMEOUT_S: Final = 10.0
_MAX_SECRET_BYTES: Final = 65_536


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
        return server  # the client raises the error
    if len(given) == 2 and given[0].host == given[1].host and given[0].protocol != given[1].protocol:
        return next(part.strip() for part, each in zip(parts, given, strict=True) if each.protocol == "grpc")
    return server


def require_grpc(server: str, calls: Calls) -> None:
    """Check that a server responds over gRPC.

    Raises:
        CanaryError: the server does not respond; if the port was derived from that of HTTP, the message mentions it.
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
        f"; the gRPC port was assumed to be next to that of {addresses.http}; if it is not, give both addresses, as in "
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
        raise _bad(f"{server!r}: expected one server, got several; {_EXPECTED}")
    if http and (http[0].tls or http[0].path):
        raise _bad(f"{http[0].url}: expected http://host:port without a path, since Triton's HTTP port has no TLS")
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


def connect(
    server: str, timeout: float, api_key_file: Path | None, ca_file: Path | None, **credentials: Any
) -> MusicClient:
    """Return a client for the given options.

    Args:
        credentials: `service_key` or `user_token`, for access to stored users; `priority`.
    """
    from tritone import MusicClient

    server = model_address(server)
    return MusicClient(
        server,
        timeout_s=timeout,
        api_key=api_key_from(api_key_file),
        ca_file=ca_file,
        client_cert_file=client_file(server, "TRITONE_CLIENT_CERT"),
        client_key_file=client_file(server, "TRITONE_CLIENT_KEY"),
        **credentials,
    )


def api_key_from(file: Path | None) -> str | None:
    """Return the server's API key from a file, or else from the environment.

    Raises:
        typer.BadParameter: the file cannot be read.
    """
    if file is None:
        return os.environ.get("TRITONE_API_KEY") or None
    return read_secret(file, "--api-key-file")


def credentials(service_key_file: Path | None, user_token_file: Path | None) -> dict[str, str]:
    """Return the credentials for stored users as keyword arguments of `MusicClient`.

    Options come before environment variables, and a token before the service key.

    Raises:
        typer.BadParameter: a file cannot be read, or both are given.
    """
    if service_key_file is not None and user_token_file is not None:
        raise typer.BadParameter("expected one of --service-key-file and --user-token-file, got both")
    if user_token_file is not None:
        return {"user_token": read_secret(user_token_file, "--user-token-file")}
    if service_key_file is not None:
        return {"service_key": read_secret(service_key_file, "--service-key-file")}
    if token := os.environ.get("TRITONE_USER_TOKEN"):
        return {"user_token": token}
    if path := os.environ.get("TRITONE_SERVICE_KEY_FILE"):
        return {"service_key": read_secret(Path(path), "TRITONE_SERVICE_KEY_FILE")}
    return {}


def read_secret(file: Path, option: str) -> str:
    """Return the content of a file with a key or token.

    Raises:
        typer.BadParameter: the file cannot be read, or is empty.
    """
    try:
        secret = _short_text(file)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}", param_hint=option) from error
    if not secret:
        raise typer.BadParameter(f"{file}: expected a key or token, got an empty file", param_hint=option)
    return secret


def _short_text(file: Path) -> str:
    with file.open("rb") as opened:
        data = opened.read(_MAX_SECRET_BYTES + 1)  # a device may have no end
    if len(data) > _MAX_SECRET_BYTES:
        raise ValueError(f"expected at most {_MAX_SECRET_BYTES:,} bytes, got more")
    return data.decode().strip()


def client_file(server: str, variable: str) -> str | None:
    """Return the PEM file named by an environment variable, for servers that request a certificate (mutual TLS)."""
    return os.environ.get(variable) or None if server.startswith(("grpcs://", "https://")) else None


@contextmanager
def live_server(
    repository: Path,
    server: str,
    admin_token_file: Path | None,
    *,
    api_key_file: Path | None = None,
    ca_file: Path | None = None,
    bounds: Bounds | None = None,
) -> Iterator[Live]:
    """Connect to a running server and check the permission to change it.

    Raises:
        typer.BadParameter: an address or the token file cannot be used.
        AdminApiError: the server does not respond, or rejects the token.
        CanaryError: the server does not respond over gRPC.
    """
    from tritone import InvalidInputError
    from tritone.endpoints import make_endpoint
    from tritone_export.publishing import Live
    from tritone_serving.calls import Calls
    from tritone_serving.trial import Bounds

    addresses = both_addresses(server, tls=ca_file is not None)
    try:
        endpoint = make_endpoint(
            addresses.grpc,
            api_key=api_key_from(api_key_file),
            ca_file=ca_file,
            client_cert_file=client_file(addresses.grpc, "TRITONE_CLIENT_CERT"),
            client_key_file=client_file(addresses.grpc, "TRITONE_CLIENT_KEY"),
        )
    except InvalidInputError as error:
        raise typer.BadParameter(str(error), param_hint="--server (TRITONE_SERVER)") from error
    admin = admin_api(addresses, admin_token_file, api_key=api_key_from(api_key_file))
    admin.index()
    with Calls(endpoint) as calls:
        require_grpc(server, calls)
        yield Live(repository, admin, calls, bounds or Bounds())


def admin_api(addresses: Addresses, admin_token_file: Path | None, *, api_key: str | None = None) -> AdminApi:
    """Return the administrative API of a server; nothing is sent.

    Raises:
        typer.BadParameter: there is no admin token for it.
    """
    from tritone_serving import OptionsError
    from tritone_serving.admin import AdminApi
    from tritone_serving.security.admin_token import state_folder

    # The token of this machine must not be sent to another one.
    if admin_token_file is None and not addresses.is_loopback:
        raise typer.BadParameter(
            f"{addresses.http} is not on this machine: expected the file with its admin token, got none",
            param_hint="--admin-token-file",
        )
    try:
        token_file = admin_token_file or state_folder() / f"{addresses.http_port}.token"
    except OptionsError as error:
        raise typer.BadParameter(f"{error}, or give the token file", param_hint="--admin-token-file") from error
    try:
        token = _short_text(token_file)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(
            f"{token_file} cannot be read: {error}; check that your server runs with HTTP port "
            f"{addresses.http_port}, or give its token file",
            param_hint="--admin-token-file",
        ) from error
    return AdminApi(addresses.host, addresses.http_port, token=token, api_key=api_key)
