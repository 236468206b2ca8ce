"""`tritone keys`: manage API keys for callers of the gateway."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritone_cli import console, options

if TYPE_CHECKING:
    from tritone_gateway.security.keys import ApiKey, KeyStore

KeysFile = Annotated[
    Path | None,
    typer.Option(
        envvar="TRITONE_GATEWAY_KEYS",
        help="File with the API keys. Default: TRITONE_GATEWAY_KEYS, or a file in the state folder.",
        show_default=False,
        show_envvar=False,
    ),
]
KeyId = Annotated[str, typer.Argument(help="Id of the key, as `tritone keys list` shows it.", show_default=False)]


def create(
    caller: Annotated[str, typer.Argument(help="Name of the caller in logs and metrics.", show_default=False)],
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="Scope of the key: listen, write, recommend or admin; repeatable. Default: all except admin.",
            show_default=False,
        ),
    ] = None,
    users: Annotated[
        str,
        typer.Option(
            help="Stored users whose data `recommend` may use: none, all, or a prefix of their ids.",
        ),
    ] = "none",
    rate: Annotated[
        str | None,
        typer.Option(
            help="Maximum rate per second, minute, hour or day, such as 600/minute. Default: unlimited.",
            show_default=False,
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of concurrent requests. Default: unlimited.", show_default=False),
    ] = None,
    ttl: Annotated[
        float | None, typer.Option(min=1, help="Lifetime in seconds. Default: unlimited.", show_default=False)
    ] = None,
    keys_file: KeysFile = None,
    as_json: options.Json = False,
) -> None:
    """Create a key and print it. It cannot be shown again."""
    scopes: Any = tuple(scope) if scope else ("listen", "write", "recommend")
    key, text = _store(keys_file).create(caller, scopes, users=users, rate=rate, concurrency=concurrency, ttl_s=ttl)
    _print_secret(key, text, as_json=as_json)


def list_keys(*, keys_file: KeysFile = None, as_json: options.Json = False) -> None:
    """List the keys without their secrets."""
    keys = _store(keys_file).keys()
    if as_json:
        console.print_json({"keys": [_key_dict(each) for each in keys]})
        return
    if not keys:
        console.say("no keys; create one with `tritone keys create CALLER`")
        return
    rows = [
        {
            "id": each.id,
            "caller": each.caller,
            "state": _state(each),
            "scopes": ", ".join(each.scopes),
            "users": each.users,
            "rate": each.rate or "any",
            "concurrency": each.concurrency or "any",
            "created": _format_time(each.created_s),
        }
        for each in keys
    ]
    console.print_rows("API keys", rows)


def rotate(
    key_id: KeyId,
    *,
    grace: Annotated[float, typer.Option(min=0, help="Seconds for which the previous secret stays valid.")] = 0.0,
    keys_file: KeysFile = None,
    as_json: options.Json = False,
) -> None:
    """Replace the secret of a key and print the new one."""
    key, text = _store(keys_file).rotate(key_id, grace_s=grace)
    _print_secret(key, text, as_json=as_json)


def revoke(key_id: KeyId, *, keys_file: KeysFile = None, as_json: options.Json = False) -> None:
    """Revoke a key permanently; gateways refuse it within a second."""
    key = _store(keys_file).revoke(key_id)
    if as_json:
        console.print_json(_key_dict(key))
    else:
        console.say(f"revoked key {key.id} of {key.caller}")


def build_keys_app(new_app: Any) -> typer.Typer:
    """Return the app of `tritone keys`."""
    app: typer.Typer = new_app(help_text="Create, list, rotate and revoke API keys of the gateway.")
    app.command("create")(create)
    app.command("list")(list_keys)
    app.command("rotate")(rotate)
    app.command("revoke")(revoke)
    return app


def _store(keys_file: Path | None) -> KeyStore:
    from tritone_gateway.security.keys import KeyStore, default_keys_file

    return KeyStore(keys_file or default_keys_file())


def _print_secret(key: ApiKey, text: str, *, as_json: bool) -> None:
    if as_json:
        console.print_json({**_key_dict(key), "key": text})
        return
    console.say(f"key {key.id} of {key.caller} for {', '.join(key.scopes)}; store it now, it cannot be shown again:")
    console.print_line(text)


def _key_dict(key: ApiKey) -> dict[str, Any]:
    return {**key.model_dump(mode="json", exclude={"digest", "retired"}), "state": _state(key)}


def _state(key: ApiKey) -> str:
    if key.revoked_s is not None:
        return "revoked"
    if not key.is_valid(time.time()):
        return "expired"
    return "valid" if key.expires_s is None else f"until {_format_time(key.expires_s)}"


def _format_time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
