"""`tritone tracks`: find tracks by title, artist or id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tritone_cli import console, options, pieces

if TYPE_CHECKING:
    from tritone import TrackPage


def register(app: typer.Typer) -> None:
    """Add `tracks` to the app."""
    app.command()(tracks)


def tracks(
    query: Annotated[str, typer.Argument(help="A title, an artist, an id, or words from them.")],
    *,
    by: Annotated[
        str | None,
        typer.Option(help="Field to search: title, artist or id.  [default: all of them]", show_default=False),
    ] = None,
    n: options.TrackCount = 10,
    offset: Annotated[int, typer.Option(help="Number of tracks to skip.")] = 0,
    model: options.Model = "recommender",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Find tracks on a running server, with the ids that `recommend` and `similar` take."""
    with pieces.connect(server, timeout, api_key_file, ca_file) as music, console.people.status("searching"):
        found = music.find_tracks(query, by=by, limit=n, offset=offset, model=model)
    if as_json:
        console.print_json(found.to_dict())
    else:
        _show(found)


def _show(found: TrackPage) -> None:
    from rich.table import Table
    from rich.text import Text

    if not found.total:
        console.say("no track matches")
        return
    if not found:
        console.say(f"{found.total} tracks match; --offset {found.offset} is beyond them")
        return
    if found[0].match == "near":
        console.say("no track matches; did you mean:")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("track", "title", "artist", "match"):
        table.add_column(name, overflow="fold")
    for track in found:
        cells = (track.track_id, track.title or "", track.artist or "", f"{track.field}, {track.match}")
        table.add_row(*map(Text, cells))  # as plain text: titles may hold "[b]"
    console.people.print(table)
    end = found.offset + len(found)
    if end < found.total:
        console.say(f"{found.offset + 1} to {end} of {found.total}; the next: --offset {end}")
