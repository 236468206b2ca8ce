"""`tritone forget`: removes a user from the recommender that is served."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritone import TritoneError
from tritone_cli import console
from tritone_cli.addresses import Addresses, both_addresses
from tritone_cli.live import AdminTokenFile, admin_api
from tritone_cli.options import OptionalServer

if TYPE_CHECKING:
    from tritone_export import Forgotten
    from tritone_serving.admin import AdminApi


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("forget")(forget)


def forget(
    user: Annotated[
        str,
        typer.Argument(
            help="The user's id, as in the log; - reads it from standard input, which no process list shows.",
            show_default=False,
        ),
    ],
    *,
    repository: Annotated[Path, typer.Option(help="Where Triton's models lie.")] = Path("model_repository"),
    model: Annotated[str, typer.Option(help="The recommender's name on the server.")] = "recommender",
    key: Annotated[
        Path | None,
        typer.Option(help="The key file of the pseudonyms; default: where the server looks.", show_default=False),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Remove the user here too, from what `tritone train` wrote.", show_default=False),
    ] = None,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="Keep the versions that hold the user, for going back.")
    ] = False,
    server: OptionalServer = None,
    admin_token_file: AdminTokenFile = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Publish a version of the recommender without a user, and delete the versions that hold them.

    Checkpoint, repository and server are each done by themselves, and say whether they held the user: repeat the
    command until all are done. The exit status is 1 if something failed, or if nobody of this id was held anywhere.
    What many users' histories went into together (counts, similarities, a network's weights) stays until the next
    training; no user can be read from it.
    """
    from tritone_export import forget_in_checkpoint, forget_user

    if user == "-":
        user = sys.stdin.readline().rstrip("\r\n")
    addresses = both_addresses(server) if server else None
    admin = _connect(addresses, admin_token_file) if addresses else None  # before anything is changed
    failed: list[str] = []
    users = done = None
    live: dict[str, list[int]] = {}
    if checkpoint:
        with _noting("checkpoint", failed):
            users = forget_in_checkpoint(user, checkpoint, key=key)
    with _noting("repository", failed):
        done = forget_user(user, repository, model=model, key=key, keep_old=keep_old)
        failed += [f"repository: version {number} may hold the user: {why}" for number, why in done.unread.items()]
    if admin and addresses:
        with _noting(f"server at {addresses.http}", failed):
            _make_live(admin, repository, model, live)
    held = bool((users and users[0] != users[1]) or (done and done.was_held) or live)
    if json:
        console.print_json(
            {
                "versions": done.versions if done else {},
                "removed": done.removed if done else [],
                "kept": done.kept if done else [],
                "other_key": done.other_key if done else [],
                "users": done.users if done else None,
                "checkpoint_users": users,
                "live": list(live),
                "removed_from_checkpoint": users and users[0] != users[1],
                "failed": failed,
            }
        )
    else:
        _tell(done, users, live, model=model, http_url=addresses.http if addresses else None)
        if not checkpoint:
            console.say("a checkpoint that still holds the user would bring them back: name it with --checkpoint")
    for each in failed:
        console.fail(each)
    if not failed and not held:
        console.fail("nobody of this id was held; ids are as in the log")
    if failed or not held:
        raise typer.Exit(1)


def _tell(
    done: Forgotten | None,
    users: tuple[int, int] | None,
    live: dict[str, list[int]],
    *,
    model: str,
    http_url: str | None,
) -> None:
    # The id itself is not said: terminals are logged.
    if users:
        console.say(f"checkpoint: {_change(users)}")
    if done:
        if done.versions and done.users:
            console.say(f"repository: {_change(done.users)}")
        for name, version in done.versions.items():
            console.say(f"repository: version {version} of {name} is without the user")
        if done.removed:
            console.say(f"repository: deleted with the user in them: versions {_numbers(done.removed)} of {model}")
        if done.kept:
            console.say(f"repository: the user is still in versions {_numbers(done.kept)} of {model}")
        if done.other_key:
            console.say(
                f"repository: versions {_numbers(done.other_key)} of {model} were made with another key, under which "
                f"the given one finds nobody"
            )
        if not done.was_held:
            console.say(f"repository: {'no version that was read' if done.unread else 'no version'} holds them")
    for name, versions in live.items():
        console.say(f"server at {http_url}: {name}: version {versions[0]} -> {versions[1]}")
    if http_url and not live:
        console.say(f"server at {http_url}: nothing newer was loaded")
    if done and done.versions and not http_url:
        console.say(
            "a running server keeps the versions that it has loaded: name it with --server, or load the new versions"
        )


def _change(users: tuple[int, int]) -> str:
    before, after = users
    return f"{before} -> {after} users" if before != after else f"does not hold them ({after} users)"


def _numbers(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions))


@contextmanager
def _noting(where: str, failed: list[str]) -> Iterator[None]:
    """What fails here is noted, so that the rest is done all the same."""
    try:
        yield
    except (TritoneError, OSError) as error:
        failed.append(f"{where}: {error}")


def _connect(addresses: Addresses, admin_token_file: Path | None) -> AdminApi:
    from tritone_serving._exceptions import AdminApiError

    api = admin_api(addresses, admin_token_file)
    try:
        api.index()
    except AdminApiError as error:
        raise AdminApiError(f"{error}; nothing was changed", status=error.status) from error
    return api


def _make_live(server: AdminApi, repository: Path, model: str, live: dict[str, list[int]]) -> None:
    """Load the newest version if the server has an older one, and add (old, new) to `live`."""
    from tritone_export.repository import versions
    from tritone_serving._exceptions import AdminApiError

    folder = repository / model
    found = versions(folder) if folder.is_dir() else []
    before = _loaded(server).get(model)
    if not found or before is None or before == found[-1]:
        return
    server.load(model)
    now = _loaded(server).get(model)
    if now != found[-1]:
        raise AdminApiError(
            f"it serves version {now} of {model}, and {repository} has {found[-1]}; is that the server's repository?"
        )
    live[model] = [before, found[-1]]


def _loaded(server: AdminApi) -> dict[str, int]:
    """The version of each model that answers."""
    ready = [each for each in server.index() if each.get("state") == "READY"]
    return {each["name"]: int(each.get("version") or 0) for each in ready}
