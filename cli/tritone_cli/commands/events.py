"""`tritone events`: import listening events from a table, and manage their store."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tritone import ClientError, InvalidInputError, TritoneError
from tritone.constants import N_EVENTS_MAX
from tritone_cli import connections, console, options

if TYPE_CHECKING:
    from tritone import ListeningEvent, MusicClient
    from tritone_serving.events import EventStore

_N_SHOWN: Final = 10  # problems that are printed
_RETRIES: Final = 6
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--events",
        metavar="URL",
        help="Event store, as for `tritone serve`. Default: TRITONE_EVENTS, or a file in the state folder.",
        show_default=False,
    ),
]


def import_events(
    file: Annotated[Path, typer.Argument(help="Table of events: CSV, Parquet, JSON or Excel.", show_default=False)],
    *,
    user_column: Annotated[str | None, typer.Option(help="Column of the users.", show_default=False)] = None,
    item_column: Annotated[str | None, typer.Option(help="Column of the tracks.", show_default=False)] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of the times.", show_default=False)] = None,
    skipped_column: Annotated[
        str | None, typer.Option(help="Column that marks skips with 1 or true.", show_default=False)
    ] = None,
    after_row: Annotated[
        int, typer.Option(min=0, help="Begin after this row; 1 is the first row after the header.")
    ] = 0,
    model: options.Model = "recommender_events",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    service_key_file: options.ServiceKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Send the events of a table to a server.

    The table needs columns of users, tracks and times; those of kinds (play, skip, like, dislike), of seconds played
    and of event ids are optional. Rows that are not valid events are reported and left out. The command can be
    repeated: the server stores each event once. Listens that are also in the training log count twice in
    `tritone refit`, unless it is given --events-after.
    """
    from tritone_training.data.interactions.columns import Columns
    from tritone_training.data.interactions.event_table import batches, load_events

    columns = Columns(user=user_column, item=item_column, time=time_column, skipped=skipped_column)
    with console.people.status(f"reading {file.name}"):
        table = load_events(file, columns)
    counts = {"new": 0, "duplicate": 0}
    problems = {row: text for row, text in table.problems.items() if row > after_row}
    done_row = after_row
    failure: ClientError | None = None
    credentials = {**connections.credentials(service_key_file, None), "retries": _RETRIES, "priority": "batch"}
    n_events = sum(row > after_row for row in table.rows)
    with (
        connections.connect(server, timeout, api_key_file, ca_file, **credentials) as music,
        _progress(n_events, as_json=as_json) as advance,
    ):
        for rows, events in batches(table, N_EVENTS_MAX, after_row=after_row):
            try:
                for row, outcome, reason in _recorded(music, rows, events, model=model):
                    if outcome in counts:
                        counts[outcome] += 1
                    else:
                        problems[row] = reason
            except ClientError as error:
                failure = error
                break
            done_row = rows[-1]
            advance(len(rows))
    if as_json:
        console.print_json(
            {
                "n_new": counts["new"],
                "n_duplicates": counts["duplicate"],
                "n_refused": len(problems),
                "problems": {str(row): problems[row] for row in sorted(problems)[:1_000]},
                "last_row": done_row,
                "columns": table.columns,
                "error": None if failure is None else str(failure),
            }
        )
    else:
        console.say(f"{counts['new']:,} new events, {counts['duplicate']:,} stored before, {len(problems):,} left out")
        for row in sorted(problems)[:_N_SHOWN]:
            console.warn(f"row {row}: {problems[row]}")
        if len(problems) > _N_SHOWN:
            console.say(f"... and {len(problems) - _N_SHOWN:,} more rows; --json lists 1,000 of them")
    if failure is not None:
        raise TritoneError(f"{failure}; to go on, repeat the command with --after-row {done_row}") from failure
    if problems:
        raise typer.Exit(1)


def _recorded(
    music: MusicClient, rows: Sequence[int], events: Sequence[ListeningEvent], *, model: str
) -> Iterator[tuple[int, str, str]]:
    """Record events and yield the row, the outcome and the reason of each; invalid ones do not prevent the others."""
    try:
        recorded = music.record_many(events, model=model)
    except InvalidInputError as error:
        if len(events) == 1:
            yield rows[0], "invalid", str(error).removeprefix("invalid events[0].")
            return
        half = len(events) // 2
        yield from _recorded(music, rows[:half], events[:half], model=model)
        yield from _recorded(music, rows[half:], events[half:], model=model)
        return
    for row, each in zip(rows, recorded, strict=True):
        yield row, each.outcome, each.reason


def count(*, events: StoreUrl = None, as_json: options.Json = False) -> None:
    """Print the number of events in a store."""
    with _opened(events) as store:
        n_events = store.count()
    if as_json:
        console.print_json({"n_events": n_events})
    else:
        console.print_line(str(n_events))


def prune(*, events: StoreUrl = None, as_json: options.Json = False) -> None:
    """Delete events older than the retention or beyond the maximum per user. Servers do this every hour."""
    with _opened(events) as store:
        n_removed, n_left = store.prune(), store.count()
    if as_json:
        console.print_json({"n_removed": n_removed, "n_events": n_left})
    else:
        console.say(f"removed {n_removed:,} events; {n_left:,} left")


def forget_events(
    user: Annotated[
        str,
        typer.Argument(
            help="User id, as in the listening log. - reads it from standard input, hidden from process lists.",
            show_default=False,
        ),
    ],
    *,
    key: Annotated[
        Path, typer.Option(help="File with the key for pseudonyms of users: recommender.key.", show_default=False)
    ],
    events: StoreUrl = None,
    as_json: options.Json = False,
) -> None:
    """Remove the events of a user; `tritone forget` does so too, besides removing the user from the recommender."""
    from tritone_export.forgetting import forget_stored_events
    from tritone_serving.recommender import KeyFileError, read_key

    if user == "-":
        user = sys.stdin.readline().rstrip("\r\n")
    try:
        content = read_key(key)
    except KeyFileError as error:
        raise TritoneError(str(error)) from error
    n_removed = forget_stored_events(user, [content], events)
    if as_json:
        console.print_json({"n_removed": n_removed})
    else:
        console.say(f"removed {n_removed or 0:,} events of the user")
    if not n_removed:
        console.fail("no events stored for this user id (use the id from the listening log)")
        raise typer.Exit(1)


def build_events_app(new_app: Any) -> typer.Typer:
    """Return the app of `tritone events`."""
    app: typer.Typer = new_app(help_text="Import listening events, and manage their store.")
    app.command("import")(import_events)
    app.command("count")(count)
    app.command("prune")(prune)
    app.command("forget")(forget_events)
    return app


@contextlib.contextmanager
def _opened(url: str | None) -> Iterator[EventStore]:
    from tritone_serving.events import EventStoreError, open_store, store_url

    try:
        found = url or store_url()
        if found is None or found == "off":
            raise TritoneError("no event store: TRITONE_EVENTS is off; name one with --events URL")
        with contextlib.closing(open_store(found, must_exist=True)) as store:
            yield store
    except EventStoreError as error:
        raise TritoneError(str(error)) from error


@contextlib.contextmanager
def _progress(total: int, *, as_json: bool) -> Iterator[Any]:
    """Yield a function that reports finished events on stderr."""
    if not console.shows_progress(as_json=as_json):
        yield lambda n: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console.people) as progress:
        task = progress.add_task("events", total=total)
        yield lambda n: progress.advance(task, n)
