"""`tritone reconstruct`, `interpolate`, `vary` and `sample`: generate pieces from a latent space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritone_cli import connections, console, options, pieces

if TYPE_CHECKING:
    from tritone import Conditions


def reconstruct(
    score: Annotated[Path, typer.Argument(help="MIDI file.", show_default=False)],
    *,
    out: options.Out = None,
    seed: options.PieceSeed = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = 1,
    top_p: options.TopP = None,
    tempo: options.Tempo = None,
    instruments: options.Instruments = None,
    model: options.Model = "music_vae",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Encode a score and decode it again, to see how much of it the model preserves."""
    pieces.check_outs(out)
    with (
        connections.connect(server, timeout, api_key_file, ca_file) as music,
        console.people.status("reconstructing"),
    ):
        piece = music.reconstruct(
            score,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            tempo_qpm=tempo,
            instruments=options.parse_instruments(instruments),
            model=model,
        )
    pieces.write_pieces("reconstruct", [piece], out, as_json=as_json)


def interpolate(
    a: Annotated[Path, typer.Argument(help="First MIDI file.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Last MIDI file.", show_default=False)],
    *,
    steps: Annotated[int, typer.Option(help="Number of pieces, both ends included.")] = 5,
    out: options.Out = None,
    seed: options.PieceSeed = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = 1,
    top_p: options.TopP = None,
    tempo: options.Tempo = None,
    instruments: options.Instruments = None,
    model: options.Model = "music_vae",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Interpolate between two scores; the output files are numbered."""
    pieces.check_outs(out)
    with (
        connections.connect(server, timeout, api_key_file, ca_file) as music,
        console.people.status("interpolating"),
    ):
        found = music.interpolate(
            a,
            b,
            steps=steps,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            tempo_qpm=tempo,
            instruments=options.parse_instruments(instruments),
            model=model,
        )
    pieces.write_pieces("interpolate", found, out, as_json=as_json)


def vary(
    score: Annotated[Path, typer.Argument(help="MIDI file.", show_default=False)],
    *,
    attribute: Annotated[
        str,
        typer.Option(help="Attribute to change: note_density, pitch_range or rhythmic_complexity.", show_default=False),
    ],
    amount: Annotated[
        float, typer.Option(help="Change in standard deviations; negative decreases the attribute.", show_default=False)
    ],
    out: options.Out = None,
    seed: options.PieceSeed = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = 1,
    top_p: options.TopP = None,
    tempo: options.Tempo = None,
    instruments: options.Instruments = None,
    model: options.Model = "music_vae",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Change an attribute of a score, such as its note density."""
    pieces.check_outs(out)
    with (
        connections.connect(server, timeout, api_key_file, ca_file) as music,
        console.people.status("varying"),
    ):
        piece = music.vary(
            score,
            attribute=attribute,
            amount=amount,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            tempo_qpm=tempo,
            instruments=options.parse_instruments(instruments),
            model=model,
        )
    pieces.write_pieces("vary", [piece], out, as_json=as_json)


def sample(
    n: Annotated[int, typer.Option("--n", "-n", help="Number of pieces, 1 to 1000.")] = 4,
    *,
    out: options.Out = None,
    seed: options.PieceSeed = None,
    key: Annotated[
        str | None, typer.Option(help="Tonic, such as C, F# or Bb (music_gan only).", show_default=False)
    ] = None,
    mode: Annotated[str | None, typer.Option(help="major or minor (music_gan only).", show_default=False)] = None,
    density: Annotated[
        float | None, typer.Option(help="Note onsets per quarter (music_gan only).", show_default=False)
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(
            help="Scale of the noise, at most 1: smaller values are more typical and less varied (music_gan only).",
            show_default=False,
        ),
    ] = None,
    note_density: Annotated[
        float | None,
        typer.Option(help="Note density in standard deviations from the mean (music_vae only).", show_default=False),
    ] = None,
    pitch_range: Annotated[
        float | None,
        typer.Option(help="Pitch range in standard deviations from the mean (music_vae only).", show_default=False),
    ] = None,
    rhythmic_complexity: Annotated[
        float | None,
        typer.Option(
            help="Rhythmic complexity in standard deviations from the mean (music_vae only).", show_default=False
        ),
    ] = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    tempo: options.Tempo = None,
    instruments: options.Instruments = None,
    model: options.Model = "music_gan",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Sample new pieces of two bars; the output files of several pieces are numbered."""
    pieces.check_outs(out)
    given: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "tempo_qpm": tempo,
        "instruments": options.parse_instruments(instruments),
        "key": key,
        "mode": mode,
        "density": density,
        "truncation": truncation,
        "note_density": note_density,
        "pitch_range": pitch_range,
        "rhythmic_complexity": rhythmic_complexity,
    }
    conditions: Conditions = {name: value for name, value in given.items() if value is not None}  # type: ignore[assignment]
    with (
        connections.connect(server, timeout, api_key_file, ca_file) as music,
        console.people.status("sampling"),
    ):
        found = music.sample(model, n, seed, **conditions)
    pieces.write_pieces("sample", found, out, as_json=as_json)
