"""`tritone similar`: tracks that are like a track or a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console, options, pieces, titles, tracks


def register(app: typer.Typer) -> None:
    """Add `similar` to the app."""
    app.command()(similar)


def similar(
    track: Annotated[str | None, typer.Argument(help="Id or title of a track.", show_default=False)] = None,
    *,
    audio: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A recording instead, in any format.", show_default=False)
    ] = None,
    by: Annotated[str, typer.Option(help="listening (the same people's), sound, or both.")] = "both",
    n: options.TrackCount = 10,
    model: options.Model = "recommender",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Find tracks that are like TRACK, or like a recording, with a running server."""
    if (track is None) == (audio is None):
        raise typer.BadParameter("expected either TRACK or --audio FILE")
    with pieces.connect(server, timeout, api_key_file, ca_file) as music, console.people.status("comparing"):
        if track is None:
            found = music.similar(audio=audio, by=by, n=n, model=model)
        else:
            found = titles.similar(music, lambda each: music.similar(each, by=by, n=n, model=model), track, model=model)
    tracks.hand_over(found, as_json=as_json)
