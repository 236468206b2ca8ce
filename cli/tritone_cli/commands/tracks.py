"""`tritone tracks`: find tracks, and add tracks to a served recommender."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from tritone_cli import connections, console, options
from tritone_cli.commands.recommend import tracks as search

if TYPE_CHECKING:
    from tritone_export.new_tracks import Embedder, TracksAdded
    from tritone_export.publishing import Live
    from tritone_serving.recommender.new_items import NewItem
    from tritone_training.data.interactions.new_tracks import NewTracks, RowProblem

_N_SHOWN: Final = 10


class SearchByDefault(TyperGroup):
    """The group `tracks`, in which a query without a command is a search: `tritone tracks reel`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `search` before arguments that do not begin with a command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["search", *args]
        return super().parse_args(ctx, args)


def build_tracks_app(new_app: Callable[..., typer.Typer]) -> typer.Typer:
    """Return the app of `tritone tracks`."""
    app = new_app(
        help_text="Find tracks, or add tracks to a served recommender; `tracks QUERY` is `tracks search QUERY`."
    )
    app.command("search")(search)
    app.command("add")(add)
    return app


def add(
    file: Annotated[
        Path,
        typer.Argument(help="Table of tracks: id, title, artist and other columns, as --metadata.", show_default=False),
    ],
    *,
    repository: options.Repository = Path("model_repository"),
    model: Annotated[str, typer.Option(help="Name of the recommender on the server.")] = "recommender",
    recordings: Annotated[
        Path | None,
        typer.Option(help="Folder with recordings of the tracks, named by their ids.", show_default=False),
    ] = None,
    item_column: options.ItemColumn = None,
    server: options.Servers = None,
    admin_token_file: options.AdminTokenFile = None,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    max_slowdown: options.MaxSlowdown = 1.5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would change, and write nothing.")] = False,
    as_json: options.Json = False,
) -> None:
    """Add tracks to a recommender, which recommends them at once by their tags, words and sound, without a new fit.

    A track that is known already is updated. Adding the same table again changes nothing. Rows that cannot be used are
    listed, and the exit status is then 1.
    """
    from tritone_export.new_tracks import add_tracks, recording_embedder
    from tritone_training.data.interactions.new_tracks import load_new_tracks

    tracks = load_new_tracks(file, item=item_column)
    with console.people.status("reading the tracks") as status:
        embed = None if recordings is None else recording_embedder(repository, model=model)
        items, problems = _items(tracks, recordings, embed, status.update)
        with live_or_none(
            server or (),
            repository,
            admin_token_file,
            api_key_file=api_key_file,
            ca_file=ca_file,
            max_slowdown=max_slowdown,
        ) as live:
            done = add_tracks(items, repository, model=model, live=live, dry_run=dry_run, on_step=status.update)
            if done.version is not None:
                for each in (server or ())[1:]:
                    status.update(f"{each}: loading version {done.version}")
                    load_on(
                        each,
                        done.version,
                        repository,
                        model,
                        admin_token_file=admin_token_file,
                        api_key_file=api_key_file,
                    )
    problems = [*tracks.problems, *problems]
    if as_json:
        console.print_json(_to_dict(done, problems, tracks.notes, dry_run=dry_run))
    else:
        _print_report(done, problems, tracks.notes, dry_run=dry_run)
    if problems:
        raise typer.Exit(1)


def _items(
    tracks: NewTracks, recordings: Path | None, embed: Embedder | None, on_step: Callable[[str], None]
) -> tuple[list[NewItem], list[RowProblem]]:
    """Return the tracks as items, with the sound of those that have a recording, and recordings that cannot be used."""
    from tritone import InvalidAudioError
    from tritone_serving.recommender.new_items import NewItem
    from tritone_training.data.interactions.new_tracks import RowProblem

    files = {} if recordings is None else _recordings(recordings)
    items, problems = [], []
    for number, (track, row) in enumerate(tracks.rows.items(), start=1):
        sound: Mapping[str, Any] = {}
        if embed is not None and track in files:
            on_step(f"embedding recordings: track {number} of {len(tracks.rows)}")
            try:
                embedding, emotions = embed(files[track])
                sound = {"embedding": embedding, "emotions": emotions}
            except InvalidAudioError as error:
                problems.append(RowProblem(tracks.numbers[track], track, f"its recording is left out: {error}"))
        words = tracks.words(track)
        items.append(NewItem(track, row.get("title", ""), row.get("artist", ""), words, **sound))
    return items, problems


def _recordings(folder: Path) -> dict[str, Path]:
    from tritone_serving.ids import normalize_id
    from tritone_training.data.loading import visible_files

    return {normalize_id(file.relative_to(folder).with_suffix("").as_posix()): file for file in visible_files(folder)}


@contextmanager
def live_or_none(
    servers: Sequence[str],
    repository: Path | None,
    token_file: Path | None,
    *,
    api_key_file: Path | None,
    ca_file: Path | None,
    max_slowdown: float,
) -> Iterator[Live | None]:
    """Connect to the first of the servers, as `connections.live_server`; yield None without servers.

    Args:
        max_slowdown: see `Bounds`.
    """
    if not servers or repository is None:
        yield None
        return
    from tritone_serving.trial import Bounds

    bounds = Bounds(max_slowdown=max_slowdown)
    with connections.live_server(
        repository, servers[0], token_file, api_key_file=api_key_file, ca_file=ca_file, bounds=bounds
    ) as live:
        yield live


def load_on(
    server: str,
    version: int,
    repository: Path,
    model: str,
    *,
    admin_token_file: Path | None,
    api_key_file: Path | None,
) -> None:
    """Load the newest version on a further replica.

    Raises:
        AdminApiError: it serves another version afterwards, as with a repository of its own.
    """
    from tritone_serving import AdminApiError

    addresses = connections.both_addresses(server)
    admin = connections.admin_api(addresses, admin_token_file, api_key=connections.api_key_from(api_key_file))
    admin.load(model)
    ready = [each for each in admin.index() if each.get("state") == "READY" and each.get("name") == model]
    found = int(ready[0].get("version") or 0) if ready else None
    if found != version:
        raise AdminApiError(
            f"{server}: expected version {version} of {model} after loading it, got {found}; this replica does not "
            f"share {repository}: repeat the command with its repository"
        )


def _to_dict(
    done: TracksAdded, problems: Sequence[RowProblem], notes: Sequence[str], *, dry_run: bool
) -> dict[str, Any]:
    items = done.items
    return {
        "added": list(items.added),
        "updated": list(items.updated),
        "unchanged": list(items.unchanged),
        "texts_only": list(items.texts_only),
        "n_words": items.n_words,
        "n_words_known": items.n_words_known,
        "n_rankings_changed": items.n_lists_changed,
        "version": done.version,
        "before": done.before,
        "n_items": done.n_items,
        "is_live": done.is_live,
        "dry_run": dry_run,
        "seconds": round(done.seconds, 3),
        "problems": [each.to_dict() for each in problems],
        "notes": list(notes),
    }


def _print_report(done: TracksAdded, problems: Sequence[RowProblem], notes: Sequence[str], *, dry_run: bool) -> None:
    items = done.items
    for note in notes:
        console.say(f"note: {note}")
    for problem in problems:
        name = f" ({problem.track})" if problem.track else ""
        console.fail(f"row {problem.row}{name}: {problem.reason}")
    verb = "would be added" if dry_run else "added"
    console.say(
        f"{len(items.added)} tracks {verb}, {len(items.updated)} updated, {len(items.unchanged)} unchanged; "
        f"{items.n_words_known} of {items.n_words} words are known to the recommender; "
        f"{items.n_lists_changed} rankings of users changed"
    )
    if items.texts_only:
        shown = ", ".join(items.texts_only[:_N_SHOWN])
        if len(items.texts_only) > _N_SHOWN:
            shown += " ..."
        console.say(
            f"tags and words of these tracks are used from the next fit, because the current one contains them: {shown}"
        )
    if done.version is not None:
        where = "is live" if done.is_live else "is in the repository; running servers load it when they restart"
        console.say(f"version {done.version} {where}: {done.n_items} tracks, {done.seconds:.1f} s")
