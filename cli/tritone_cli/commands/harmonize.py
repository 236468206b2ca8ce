"""`tritone harmonize`: other voices under a melody."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console, options, pieces


def register(app: typer.Typer) -> None:
    """Add `harmonize` to the app."""
    app.command()(harmonize)


def harmonize(
    melody: Annotated[Path, typer.Argument(help="MIDI file with one voice.")],
    *,
    out: options.Out = None,
    highest: Annotated[
        bool, typer.Option("--highest", help="Take the highest notes of a score that has chords.")
    ] = False,
    seed: options.PieceSeed = None,
    temperature: options.Temperature = 1.0,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    style: options.Style = None,
    tempo: options.Tempo = None,
    model: options.Model = "music_transformer",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Write other voices under a melody, with a running server."""
    pieces.check_outs(out)
    with pieces.connect(server, timeout, api_key_file, ca_file) as music, console.people.status("harmonizing"):
        piece = music.harmonize(
            melody,
            highest=highest,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            style=style,
            tempo_qpm=tempo,
            model=model,
        )
    pieces.hand_over("harmonize", [piece], out, as_json=as_json)
