"""`tritone infill`: some bars of a score written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console, options, pieces


def register(app: typer.Typer) -> None:
    """Add `infill` to the app."""
    app.command()(infill)


def infill(
    score: Annotated[Path, typer.Argument(help="MIDI file.")],
    *,
    bars: Annotated[
        str,
        typer.Option(metavar="START:END", help="Which, counted from 0, the end not included: 2:4 are two bars."),
    ],
    out: options.Out = None,
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
    """Write some bars of a score anew, to fit what is around them, with a running server."""
    pieces.check_outs(out)
    wanted = options.parse_pair(bars, ":", "--bars", "2:4")
    with pieces.connect(server, timeout, api_key_file, ca_file) as music, console.people.status("filling in"):
        piece = music.infill(
            score,
            bars=wanted,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            style=style,
            tempo_qpm=tempo,
            model=model,
        )
    pieces.hand_over("infill", [piece], out, as_json=as_json)
