"""`tritone forget` and `user-token`: delete a user's data, and give access to it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritone import TritoneError
from tritone_cli import console, options
from tritone_cli.commands.events import StoreUrl
from tritone_cli.connections import Addresses, admin_api, both_addresses

if TYPE_CHECKING:
    from tritone_export import Forgotten
    from tritone_serving.admin import AdminApi


def forget(
    user: Annotated[
        str,
        typer.Argument(
            help="User id, as in the listening log. - reads it from standard input, hidden from process lists.",
            show_default=False,
        ),
    ],
    *,
    repository: options.Repository = Path("model_repository"),
    model: Annotated[str, typer.Option(help="Name of the recommender on the server.")] = "recommender",
    key: Annotated[
        Path | None,
        typer.Option(
            help="File with the key for pseudonyms of users. Default: that of the server.", show_default=False
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Checkpoint to remove the user from as well.", show_default=False),
    ] = None,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="Keep the old versions, which hold the user, for a rollback.")
    ] = False,
    events: StoreUrl = None,
    server: options.OptionalServer = None,
    admin_token_file: options.AdminTokenFile = None,
    as_json: options.Json = False,
) -> None:
    """Publish a version of the recommender without a user, and delete the versions and events that contain that user.

    Checkpoint, event store, repository and server are processed one after the other, and the command reports which of
    them held the user. If one fails, repeat the command. The exit status is 1 if something failed, or if no data of the
    user was found. Aggregates of many users (counts, similarities, weights of a network) stay until the next training;
    they do not reveal a single user.
    """
    from tritone_export import forget_in_checkpoint, forget_user
    from tritone_export.forgetting import forget_stored_events, users_keys

    if user == "-":
        user = sys.stdin.readline().rstrip("\r\n")
    addresses = both_addresses(server) if server else None
    admin = _connect(addresses, admin_token_file) if addresses else None  # before anything is changed
    failed: list[str] = []
    users = done = None
    live: dict[str, list[int]] = {}
    if checkpoint:
        with _collect_failure("checkpoint", failed):
            users = forget_in_checkpoint(user, checkpoint, key=key)
    n_events = None
    with _collect_failure("events", failed):  # before the versions with their keys are deleted
        n_events = forget_stored_events(user, users_keys(repository / model, key), events)
    with _collect_failure("repository", failed):
        done = forget_user(user, repository, model=model, key=key, keep_old=keep_old)
        failed += [f"repository: version {number} may hold the user: {why}" for number, why in done.unread.items()]
    if admin and addresses:
        with _collect_failure(f"server at {addresses.http}", failed):
            _make_live(admin, repository, model, live)
    held = bool((users and users[0] != users[1]) or (done and done.was_held) or live or n_events)
    if as_json:
        console.print_json(
            {
                "versions": done.versions if done else {},
                "removed": done.removed if done else [],
                "kept": done.kept if done else [],
                "other_key": done.other_key if done else [],
                "users": done.users if done else None,
                "checkpoint_users": users,
                "n_events": n_events,
                "live": list(live),
                "removed_from_checkpoint": users and users[0] != users[1],
                "failed": failed,
            }
        )
    else:
        if n_events is not None:
            console.say(f"events: removed {n_events:,} of the user")
        _print_report(done, users, live, model=model, http_url=addresses.http if addresses else None)
        if not checkpoint:
            console.say(
                "a checkpoint that holds the user would restore them: remove the user there as well, with --checkpoint"
            )
    for each in failed:
        console.fail(each)
    if not failed and not held:
        console.fail("no data stored for this user id (use the id from the training log)")
    if failed or not held:
        raise typer.Exit(1)


def user_token(
    user: Annotated[
        str,
        typer.Argument(
            help="User id as in the listening log. - reads it from standard input, hidden from process lists.",
            show_default=False,
        ),
    ],
    *,
    ttl_s: Annotated[int, typer.Option(min=1, max=86_400, help="Lifetime of the token in seconds.")] = 900,
    service_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the service key. Default: TRITONE_SERVICE_KEY_FILE, or the key created by `tritone serve`.",
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print a token that gives its holder access to one stored user until it expires.

    The token is a JSON Web Token (HS256) signed with the service key. Your backend can mint tokens with any JWT library
    from the claims `sub` (the user's id) and `exp`. Give it only to that user's client.
    """
    from tritone.credentials import default_key_file
    from tritone_serving.security.callers import (
        SERVICE_KEY_VARIABLE,
        ServiceKeyError,
        TokenError,
        mint_token,
        read_service_key,
    )

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
    if as_json:
        expires = datetime.fromtimestamp(int(now_s) + ttl_s, UTC).isoformat(timespec="seconds")
        console.print_json({"token": token, "expires_utc": expires})
    else:
        console.print_line(token)


def _print_report(
    done: Forgotten | None,
    users: tuple[int, int] | None,
    live: dict[str, list[int]],
    *,
    model: str,
    http_url: str | None,
) -> None:
    # Without the user id, since terminals are logged.
    if users:
        console.say(f"checkpoint: {_change(users)}")
    if done:
        if done.versions and done.users:
            console.say(f"repository: {_change(done.users)}")
        for name, version in done.versions.items():
            console.say(f"repository: version {version} of {name} does not hold the user")
        if done.removed:
            console.say(f"repository: deleted versions that held the user: {_numbers(done.removed)} of {model}")
        if done.kept:
            console.say(f"repository: versions that still hold the user: {_numbers(done.kept)} of {model}")
        if done.other_key:
            console.say(
                f"repository: versions with another key, in which the user cannot be found with this one: "
                f"{_numbers(done.other_key)} of {model}"
            )
        if not done.was_held:
            console.say(
                f"repository: {'no version that could be read' if done.unread else 'no version'} holds the user"
            )
    for name, versions in live.items():
        console.say(f"server at {http_url}: {name}: version {versions[0]} -> {versions[1]}")
    if http_url and not live:
        console.say(f"server at {http_url}: no newer version was loaded")
    if done and done.versions and not http_url:
        console.say("a running server keeps its loaded versions: load the new ones by giving its address with --server")


def _change(users: tuple[int, int]) -> str:
    before, after = users
    return f"{before} -> {after} users" if before != after else f"does not hold the user ({after} users)"


def _numbers(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions))


@contextmanager
def _collect_failure(where: str, failed: list[str]) -> Iterator[None]:
    """Add a failure of the block to `failed` instead of raising it."""
    try:
        yield
    except (TritoneError, OSError) as error:
        failed.append(f"{where}: {error}")


def _connect(addresses: Addresses, admin_token_file: Path | None) -> AdminApi:
    from tritone_serving import AdminApiError

    api = admin_api(addresses, admin_token_file)
    try:
        api.index()
    except AdminApiError as error:
        raise AdminApiError(f"{error}; nothing was changed", status=error.status) from error
    return api


def _make_live(server: AdminApi, repository: Path, model: str, live: dict[str, list[int]]) -> None:
    """Load the newest version if the server has an older one, and add (old, new) to `live`."""
    from tritone_export.repository import versions
    from tritone_serving import AdminApiError

    folder = repository / model
    found = versions(folder) if folder.is_dir() else []
    before = _loaded(server).get(model)
    if not found or before is None or before == found[-1]:
        return
    server.load(model)
    now = _loaded(server).get(model)
    if now != found[-1]:
        raise AdminApiError(
            f"expected version {found[-1]} of {model} after loading it, got {now}; check that {repository} is the "
            f"server's repository"
        )
    live[model] = [before, found[-1]]


def _loaded(server: AdminApi) -> dict[str, int]:
    """Return the version of each ready model."""
    ready = [each for each in server.index() if each.get("state") == "READY"]
    return {each["name"]: int(each.get("version") or 0) for each in ready}
