"""`tritone user-token`: mint a token that gives its holder access to one user."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from tritone import TritoneError
from tritone_cli import console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("user-token")(user_token)


def user_token(
    user: Annotated[
        str,
        typer.Argument(
            help="User id as in the listening log. - reads it from standard input, hidden from process lists.",
            show_default=False,
        ),
    ],
    *,
    ttl_s: Annotated[int, typer.Option(min=1, max=86_400, help="Seconds until the token expires.")] = 900,
    service_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the service key. Default: TRITONE_SERVICE_KEY_FILE, or the key created by `tritone serve`.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object with the token and its expiry.")] = False,
) -> None:
    """Print a token that gives its holder access to one stored user until it expires.

    The token is a JSON Web Token (HS256) signed with the service key. Your backend can mint tokens with any JWT library
    from the claims `sub` (the user's id) and `exp`. Give it only to that user's client.
    """
    from tritone.credentials import default_key_file
    from tritone_serving.security.callers import SERVICE_KEY_VARIABLE, ServiceKeyError, read_service_key
    from tritone_serving.security.tokens import TokenError, mint_token

    if user == "-":
        user = sys.stdin.readline().rstrip("\r\n")
    named = service_key_file or os.environ.get(SERVICE_KEY_VARIABLE)
    try:
        path = Path(named) if named else default_key_file()
    except RuntimeError as error:
        raise TritoneError(
            "no service key: expected a home folder of this user or XDG_STATE_HOME, got neither; give the file with "
            "--service-key-file"
        ) from error
    now_s = time.time()
    try:
        token = mint_token(read_service_key(path), user, lifetime_s=ttl_s, now_s=now_s)
    except (ServiceKeyError, TokenError) as error:
        hint = "" if named else "; give the file with --service-key-file"
        raise TritoneError(f"{error}{hint}" if isinstance(error, ServiceKeyError) else str(error)) from None
    if json:
        expires = datetime.fromtimestamp(int(now_s) + ttl_s, UTC).isoformat(timespec="seconds")
        console.print_json({"token": token, "expires_utc": expires})
    else:
        console.print_line(token)
