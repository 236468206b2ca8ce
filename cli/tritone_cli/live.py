"""What the verbs that change a running server share: where it is, and the right to change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from tritone_cli import options

if TYPE_CHECKING:
    from tritone_export.publishing import Live
    from tritone_serving.trial import Bounds

HttpUrl = Annotated[str, typer.Option(help="http://host:port of the server, which is told there what to load.")]
GrpcUrl = Annotated[str, typer.Option(help="host:port of its gRPC, where the new version is asked.")]
AdminTokenFile = Annotated[
    Path | None,
    typer.Option(help="File with the admin token. Default: where `tritone serve` stored it.", show_default=False),
]
Force = Annotated[
    bool, typer.Option("--force", help="Go live even if genre_cnn and the recommender then do not belong together.")
]


@contextmanager
def connected(
    repository: Path,
    http_url: str,
    grpc_url: str,
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
    """
    from tritone_client import InvalidInputError
    from tritone_client._endpoint import make_endpoint
    from tritone_export.publishing import Live
    from tritone_serving.admin import AdminApi
    from tritone_serving.admin_token import state_folder
    from tritone_serving.calls import Calls
    from tritone_serving.trial import Bounds

    try:
        parts = urlsplit(http_url if "://" in http_url else f"http://{http_url}")
        host, port = parts.hostname, parts.port or 8000
        endpoint = make_endpoint(
            grpc_url,
            api_key=options.api_key(api_key_file),
            ca_file=ca_file,
            client_cert_file=options.client_file(grpc_url, "TRITONE_CLIENT_CERT"),
            client_key_file=options.client_file(grpc_url, "TRITONE_CLIENT_KEY"),
        )
    except (ValueError, InvalidInputError) as error:
        raise typer.BadParameter(str(error), param_hint="--http-url, --grpc-url") from error
    if parts.scheme != "http" or not host:
        raise typer.BadParameter(f"{http_url!r}: expected http://host:port", param_hint="--http-url")
    token_file = admin_token_file or state_folder() / f"{port}.token"
    try:
        token = token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(
            f"{token_file} cannot be read ({error}); is a server of yours running on port {port}? Else give the file",
            param_hint="--admin-token-file",
        ) from error
    admin = AdminApi(host, port, token=token, api_key=options.api_key(api_key_file))
    admin.index()
    with Calls(endpoint) as calls:
        yield Live(repository, admin, calls, bounds or Bounds())
