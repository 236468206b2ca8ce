"""What the verbs that change a running server share: where it is, and the right to change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritone_cli import options
from tritone_cli.addresses import Addresses, both_addresses, require_grpc

if TYPE_CHECKING:
    from tritone_export.publishing import Live
    from tritone_serving.admin import AdminApi
    from tritone_serving.trial import Bounds

AdminTokenFile = Annotated[
    Path | None,
    typer.Option(help="File with the admin token. Default: where `tritone serve` stored it.", show_default=False),
]
Force = Annotated[
    bool, typer.Option("--force", help="Go live even if the recommender's items were embedded by another genre_cnn.")
]


@contextmanager
def connected(
    repository: Path,
    server: str,
    admin_token_file: Path | None,
    *,
    api_key_file: Path | None = None,
    ca_file: Path | None = None,
    bounds: Bounds | None = None,
) -> Iterator[Live]:
    """A running server, with the right to change it checked.

    Raises:
        typer.BadParameter: an address or the token file cannot be used.
        AdminApiError: the server does not answer, or refuses the token.
        CanaryError: the server does not answer over gRPC.
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
            api_key=options.api_key(api_key_file),
            ca_file=ca_file,
            client_cert_file=options.client_file(addresses.grpc, "TRITONE_CLIENT_CERT"),
            client_key_file=options.client_file(addresses.grpc, "TRITONE_CLIENT_KEY"),
        )
    except InvalidInputError as error:
        raise typer.BadParameter(str(error), param_hint="--server (TRITONE_SERVER)") from error
    admin = admin_api(addresses, admin_token_file, api_key=options.api_key(api_key_file))
    admin.index()
    with Calls(endpoint) as calls:
        require_grpc(server, calls)
        yield Live(repository, admin, calls, bounds or Bounds())


def admin_api(addresses: Addresses, admin_token_file: Path | None, *, api_key: str | None = None) -> AdminApi:
    """Return the administrative API of a server; nothing is sent.

    Raises:
        typer.BadParameter: there is no admin token for it.
    """
    from tritone_serving._exceptions import OptionsError
    from tritone_serving.admin import AdminApi
    from tritone_serving.security.admin_token import state_folder

    if admin_token_file is None and not addresses.is_loopback:  # this machine's token must not be sent to another one
        raise typer.BadParameter(
            f"{addresses.http} is not on this machine: expected the file with its admin token, got none",
            param_hint="--admin-token-file",
        )
    try:
        token_file = admin_token_file or state_folder() / f"{addresses.http_port}.token"
    except OptionsError as error:
        raise typer.BadParameter(f"{error}, or give the file", param_hint="--admin-token-file") from error
    try:
        token = token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(
            f"{token_file} cannot be read ({error}); is a server of yours running with HTTP port "
            f"{addresses.http_port}? Else give the file",
            param_hint="--admin-token-file",
        ) from error
    return AdminApi(addresses.host, addresses.http_port, token=token, api_key=api_key)
