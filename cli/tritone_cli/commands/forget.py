"""`tritone forget`: removes a user from the recommender that is served."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritone_cli import console

if TYPE_CHECKING:
    from tritone_export import Forgotten


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
    http_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_535,
            help="Make the new version live on the `tritone serve` of this machine that listens here.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Publish a version of the recommender without a user, and delete the versions that hold them.

    What many users' histories went into together (counts, similarities, a network's weights) stays until the next
    training; no user can be read from it.
    """
    from tritone_export import forget_in_checkpoint, forget_user

    if user == "-":
        user = sys.stdin.readline().rstrip("\r\n")
    in_checkpoint = forget_in_checkpoint(user, checkpoint, key=key) if checkpoint else None
    done = forget_user(user, repository, model=model, key=key, keep_old=keep_old)
    live = _make_live(http_port, done) if http_port else ()
    if json:
        console.print_json(
            {
                "versions": done.versions,
                "removed": done.removed,
                "kept": done.kept,
                "live": live,
                "removed_from_checkpoint": in_checkpoint,
            }
        )
        return
    # The id itself is not said: terminals are logged.
    for name, version in done.versions.items():
        console.say(f"{repository / name / str(version)}: version {version} of {name} is without the user")
    if done.removed:
        console.say(f"deleted with the user in them: versions {', '.join(map(str, done.removed))} of {model}")
    if done.kept:
        console.say(f"the user is still in: versions {', '.join(map(str, done.kept))} of {model}")
    if live:
        console.say(f"live on port {http_port}: {', '.join(live)}")
    elif done.versions:
        console.say("a running server goes on with what it has loaded: give its --http-port, or load the new versions")
    if in_checkpoint is None:
        console.say("a checkpoint that still holds the user would bring them back: name it with --checkpoint")


def _make_live(port: int, done: Forgotten) -> tuple[str, ...]:
    from tritone_serving._exceptions import AdminApiError
    from tritone_serving.admin import AdminApi
    from tritone_serving.admin_token import state_folder

    path = state_folder() / f"{port}.token"
    if not path.is_file():
        raise AdminApiError(
            f"no server of this user listens on port {port} (there is no {path}); the new version is in the repository"
        )
    api = AdminApi("127.0.0.1", port, token=path.read_text().strip())
    for name in done.versions:  # the recommender first: an ensemble's new version is to pass on to it
        api.load(name)
    return tuple(done.versions)
