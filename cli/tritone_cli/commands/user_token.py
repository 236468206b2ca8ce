"""`tritone user-token`: mint a token that lets its holder ask about one user."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console
from tritone_client import TritoneError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("user-token")(user_token)


def user_token(
    user: Annotated[
        str,
        typer.Argument(
            help="The user's id, as in the log; - reads it from standard input, which no process list shows.",
            show_default=False,
        ),
    ],
    *,
    ttl_s: Annotated[int, typer.Option(min=1, max=86_400, help="Seconds until the token expires.")] = 900,
    service_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the service key. Default: TRITONE_SERVICE_KEY_FILE, or the one `tritone serve` made.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object with the token and its expiry.")] = False,
) -> None:
    """Print a token that lets its holder ask a recommender about one user until it expires.

    It is a JSON Web Token (HS256) signed with the service key: a backend of yours mints the same with any JWT library,
    from the claims `sub` (the user's id) and `exp`. Hand it to that user's own client and to nobody else.
    """
    from tritone_client._service_key import default_key_file
    from tritone_serving.recommender.callers import SERVICE_KEY_VARIABLE, ServiceKeyError, read_service_key
    from tritone_serving.recommender.tokens import TokenError, mint_token

    if user == "-":
        user = sys.stdin.readline().rstrip("\r\n")
    named = service_key_file or os.environ.get(SERVICE_KEY_VARIABLE)
    path = Path(named) if named else default_key_file()
    now_s = time.time()
    try:
        token = mint_token(read_service_key(path), user, lifetime_s=ttl_s, now_s=now_s)
    except (ServiceKeyError, TokenError) as error:
        raise TritoneError(str(error)) from None
    if json:
        expires = datetime.fromtimestamp(int(now_s) + ttl_s, UTC).isoformat(timespec="seconds")
        console.print_json({"token": token, "expires_utc": expires})
    else:
        console.print_line(token)
