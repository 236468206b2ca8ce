"""`tritone vary`: a score with more or less of something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console, options, pieces


def register(app: typer.Typer) -> None:
    """Add `vary` to the app."""
    app.command()(vary)


def vary(
    score: Annotated[Path, typer.Argument(help="MIDI file.")],
    *,
    attribute: Annotated[str, typer.Option(help="note_density, pitch_range or rhythmic_complexity.")],
    amount: Annotated[float, typer.Option(help="How much more, in standard deviations; less below 0.")],
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
    """Move a score along an attribute, with a running server."""
    pieces.check_outs(out)
    with pieces.connect(server, timeout, api_key_file, ca_file) as music, console.people.status("varying"):
        piece = music.vary(
            score,
            attribute=attribute,
            amount=amount,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            tempo_qpm=tempo,
            model=model,
        )
    pieces.hand_over("vary", [piece], out, as_json=as_json)
