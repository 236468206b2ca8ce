"""`tritone reconstruct`: what of a score a latent space understands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console, options, pieces


def register(app: typer.Typer) -> None:
    """Add `reconstruct` to the app."""
    app.command()(reconstruct)


def reconstruct(
    score: Annotated[Path, typer.Argument(help="MIDI file.")],
    *,
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
    """Encode a score and decode it again, with a running server."""
    pieces.check_outs(out)
    with pieces.connect(server, timeout, api_key_file, ca_file) as music, console.people.status("reconstructing"):
        piece = music.reconstruct(
            score,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            tempo_qpm=tempo,
            model=model,
        )
    pieces.hand_over("reconstruct", [piece], out, as_json=as_json)
