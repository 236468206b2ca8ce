"""`tritone sample`: new pieces of two bars, from noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritone_cli import console, options, pieces

if TYPE_CHECKING:
    from tritone import Conditions


def register(app: typer.Typer) -> None:
    """Add `sample` to the app."""
    app.command()(sample)


def sample(
    n: Annotated[int, typer.Option("--n", "-n", help="How many pieces, 1 to 1000.")] = 4,
    *,
    out: options.Out = None,
    seed: options.PieceSeed = None,
    key: Annotated[str | None, typer.Option(help="Tonic, as in C, F# or Bb (music_gan).", show_default=False)] = None,
    mode: Annotated[str | None, typer.Option(help="major or minor (music_gan).", show_default=False)] = None,
    density: Annotated[
        float | None, typer.Option(help="Struck notes in a quarter (music_gan).", show_default=False)
    ] = None,
    truncation: Annotated[
        float | None, typer.Option(help="Up to 1; less is safer, less varied (music_gan).", show_default=False)
    ] = None,
    note_density: Annotated[
        float | None, typer.Option(help="In standard deviations (music_vae).", show_default=False)
    ] = None,
    pitch_range: Annotated[float | None, typer.Option(help="As --note-density.", show_default=False)] = None,
    rhythmic_complexity: Annotated[float | None, typer.Option(help="As --note-density.", show_default=False)] = None,
    temperature: options.Temperature = 1.0,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    tempo: options.Tempo = None,
    model: options.Model = "music_gan",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Make new pieces of two bars with a running server; files of several are numbered."""
    pieces.check_outs(out)
    asked: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "tempo_qpm": tempo,
        "key": key,
        "mode": mode,
        "density": density,
        "truncation": truncation,
        "note_density": note_density,
        "pitch_range": pitch_range,
        "rhythmic_complexity": rhythmic_complexity,
    }
    conditions: Conditions = {name: value for name, value in asked.items() if value is not None}  # type: ignore[assignment]
    with pieces.connect(server, timeout, api_key_file, ca_file) as music, console.people.status("sampling"):
        found = music.sample(model, n, seed, **conditions)
    pieces.hand_over("sample", found, out, as_json=as_json)
