"""`tritone refit`: the log and the recorded events become a new version of the recommender."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tritone import TritoneError
from tritone_cli import console, options
from tritone_cli.commands.events import StoreUrl
from tritone_cli.commands.publish import exported
from tritone_cli.commands.tracks import live_or_none, load_on

if TYPE_CHECKING:
    from tritone_export.publishing import Live
    from tritone_serving.recommender import Artifact
    from tritone_training.kinds.recommender.refit.state import RefitResult

_MODEL: Final = "recommender"
_STAGES: Final = {
    "log": "reading the log",
    "events": "reading the events",
    "fit": "fitting without the latest listens",
    "compare": "comparing with the previous recommender",
    "fit_on_all": "fitting on everything",
    "publish": "publishing",
    "replace": "replacing the checkpoint",
}


def refit(
    *,
    checkpoint: Annotated[
        Path, typer.Option(help="Checkpoint folder of the recommender, whose settings and data are used.")
    ] = Path("runs/recommender"),
    events: StoreUrl = None,
    events_after: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            help="Use only events after this time (UTC), such as those that the log does not have.",
            show_default=False,
        ),
    ] = None,
    interactions: Annotated[
        Path | None,
        typer.Option(help="Listening log. Default: the one of the training.", show_default=False),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Key of the users' pseudonyms. Default: that of the training.", show_default=False),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(
            help="Model repository to publish to. Without it, only the checkpoint changes.", show_default=False
        ),
    ] = None,
    server: options.Servers = None,
    admin_token_file: options.AdminTokenFile = None,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    max_slowdown: options.MaxSlowdown = 1.5,
    max_loss: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Largest accepted relative loss of NDCG@10 on the latest listens, 0 to 1. A refit with a larger loss "
            "that also exceeds a standard error is refused.",
        ),
    ] = 0.05,
    force: Annotated[
        bool, typer.Option("--force", help="Refit without new data, and publish a refit that is worse.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again instead of continuing an interrupted refit.")
    ] = False,
    engine: options.Engine = None,
    workers: options.Workers = None,
    engine_address: options.EngineAddress = None,
    read: options.Read = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read the data, report, and change nothing.")] = False,
    as_json: options.Json = False,
) -> None:
    """Fit the recommender on its log and the recorded events, and publish it if it is not worse than before.

    An interrupted refit is continued by the same command. Without new data, the command does nothing.
    """
    from tritone_serving.events import EventStoreError
    from tritone_training.kinds.recommender.refit.pipeline import run_refit
    from tritone_training.kinds.recommender.refit.state import RefitRequest

    if server and repository is None:
        raise typer.BadParameter("--server: expected --repository too, the server's model repository")
    request = RefitRequest(
        checkpoint=checkpoint,
        events=_event_store(events, as_json=as_json),
        key=key,
        interactions=interactions,
        events_after=None if events_after is None else events_after.replace(tzinfo=UTC).timestamp(),
        max_loss=max_loss,
        force=force,
        restart=restart,
        dry_run=dry_run,
        progress=console.shows_progress(as_json=as_json),
        command=options.command_line(sys.argv),
        engine=engine,
        workers=workers,
        engine_address=engine_address,
        read=read,
    )
    with live_or_none(
        () if dry_run else server or (),
        repository,
        admin_token_file,
        api_key_file=api_key_file,
        ca_file=ca_file,
        max_slowdown=max_slowdown,
    ) as live:
        try:
            done = run_refit(
                request,
                served=lambda: _served(repository),
                publish=None if repository is None else _publisher(repository, live),
                on_stage=lambda stage, left_s: None if as_json else _say_stage(stage, left_s),
            )
        except EventStoreError as error:
            raise TritoneError(str(error)) from error
    version = done.versions.get(_MODEL)
    if version is not None and repository is not None:
        for each in (server or ())[1:]:
            for model, number in done.versions.items():
                load_on(each, number, repository, model, admin_token_file=admin_token_file, api_key_file=api_key_file)
    if as_json:
        console.print_json(done.to_dict())
    else:
        _print_report(done)


def _served(repository: Path | None) -> Artifact | None:
    """Return the recommender that is in the repository; None if there is none yet."""
    from tritone_export.new_tracks import open_newest
    from tritone_serving.repository import newest_version

    if repository is None or newest_version(repository / _MODEL) is None:
        return None
    return open_newest(repository, _MODEL)


def _publisher(repository: Path, live: Live | None) -> Callable[[Path], Mapping[str, int]]:
    """Return a function that exports a checkpoint into the repository, and makes it live on a running server."""

    def publish(folder: Path) -> Mapping[str, int]:
        from tritone_export import export_kind
        from tritone_export.publishing import publish_live
        from tritone_training.registry import get_kind

        if live is None:
            kind = get_kind(_MODEL)
            results = export_kind(kind.export(folder), kind, repository=repository)
            return {result.model: result.version for result in results}
        before = _served(repository)
        replaces = {} if before is None else {_MODEL: int(before.folder.name)}
        with exported([_MODEL], folder, None, None, repository, lambda step: None) as (source, names):
            published = publish_live(source, names, live, replaces=replaces)
        return {each.model: each.version for each in published}

    return publish


def _say_stage(stage: str, left_s: float | None) -> None:
    left = "" if left_s is None else f"; about {_duration(left_s)} left"
    console.say(f"{_STAGES[stage]}{left}")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _print_report(done: RefitResult) -> None:
    counts = done.events
    if done.resumed:
        console.say(f"continued; done before: {', '.join(done.resumed)}")
    console.say(
        f"{done.n_listens} listens of {done.n_users} users; {counts['n']} events ({counts['play']} plays, "
        f"{counts['like']} likes, {counts['skip']} skips, {counts['dislike']} dislikes); left out: "
        f"{counts['n_of_unknown_tracks']} events of unknown tracks, {done.n_forgotten} users who were removed"
    )
    if done.comparison is not None:
        each = done.comparison
        console.say(
            f"NDCG@10 on {each.n_listens} new listens of {each.n_users} users: {each.after:.4f} "
            f"(previous recommender: {each.before:.4f}, standard error of the difference {each.standard_error:.4f})"
        )
    if done.status == "nothing new":
        console.say("nothing new since the last fit; --force refits all the same")
    elif done.status == "dry run":
        console.say("dry run: nothing was changed")
    elif done.comparison is None:
        console.say("too few new listens to compare with the previous recommender")
    for model, version in done.versions.items():
        console.say(f"{model}: version {version}")
    if done.status == "fitted":
        console.say("the checkpoint is refitted; next: tritone publish recommender")


def _event_store(given: str | None, *, as_json: bool) -> str | None:
    """Return the address of the event store; None if there is none, or nothing was recorded in the default one."""
    from tritone_serving.events import EventStoreError, existing_store_url

    try:
        found = existing_store_url(given)
    except EventStoreError as error:
        raise TritoneError(str(error)) from error
    if found is None and not as_json:
        console.say("no event store: only the log is read")
    return found
