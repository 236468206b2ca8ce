"""`tritone interpolate`: pieces on the way from one score to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console, options, pieces


def register(app: typer.Typer) -> None:
    """Add `interpolate` to the app."""
    app.command()(interpolate)


def interpolate(
    a: Annotated[Path, typer.Argument(help="MIDI file where the way begins.")],
    b: Annotated[Path, typer.Argument(help="MIDI file where it ends.")],
    *,
    steps: Annotated[int, typer.Option(help="How many pieces, both ends included.")] = 5,
    out: options.Out = None,
    seed: options.PieceSeed = None,
    temperature: options.Temperature = 1.0,
    top_k: options.TopK = 1,
    top_p: options.TopP = None,
    tempo: options.Tempo = None,
    model: options.Model = "music_vae",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Write pieces on the way from one score to another, with a running server; files are numbered."""
    pieces.check_outs(out)
    with pieces.connect(server, timeout, api_key_file, ca_file) as music, console.people.status("interpolating"):
        found = music.interpolate(
            a,
            b,
            steps=steps,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            tempo_qpm=tempo,
            model=model,
        )
    pieces.hand_over("interpolate", found, out, as_json=as_json)
