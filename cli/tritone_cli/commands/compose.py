"""`tritone compose`, `harmonize` and `infill`: generate notes with a model trained on scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritone_cli import connections, console, options, pieces

if TYPE_CHECKING:
    from tritone import MusicClient, Piece


def compose(
    prompt: Annotated[
        Path | None, typer.Argument(help="MIDI file to continue. Without it, compose from scratch.", show_default=False)
    ] = None,
    *,
    bars: Annotated[int, typer.Option(help="Number of new bars, 1 to 256.")] = 8,
    out: options.Out = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show the bars as they arrive (gRPC only).")] = False,
    seed: options.PieceSeed = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    style: options.Style = None,
    meter: Annotated[str | None, typer.Option(help="Time signature, such as 3/4.", show_default=False)] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="Tonic, such as C, F# or Bb. Default: that of PROMPT, or chosen by the seed.", show_default=False
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="major or minor. Default: that of PROMPT, or chosen by the seed.", show_default=False),
    ] = None,
    density: Annotated[
        str | None,
        typer.Option(
            help="Notes per bar among pieces of the style: low, medium or high. Default: chosen by the seed.",
            show_default=False,
        ),
    ] = None,
    voices: Annotated[
        int | None,
        typer.Option(
            help="Number of notes at once, 1 to 6. Default: that of PROMPT, or chosen by the seed.",
            show_default=False,
        ),
    ] = None,
    structure: Annotated[
        str | None,
        typer.Option(
            help="A letter for each phrase, such as AABA: equal letters are the same music. Default: chosen by the "
            "seed.",
            show_default=False,
        ),
    ] = None,
    ending: Annotated[
        bool, typer.Option("--ending/--no-ending", help="End the piece with the last bar, or stop without an ending.")
    ] = True,
    candidates: Annotated[
        int,
        typer.Option(
            help="Maximum number of pieces, 1 to 16, that are composed until one has the requested key and ending; "
            "with --stream always one."
        ),
    ] = 8,
    tempo: options.Tempo = None,
    instruments: options.Instruments = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Name of the model, for example polyphony_rnn. Default: music_transformer; with --stream, composer.",
            show_default=False,
        ),
    ] = None,
    server: options.Server = "localhost:8001",
    timeout: Annotated[
        float,
        typer.Option(min=0.001, help="Time limit in seconds for the whole call; with --stream, for each bar."),
    ] = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Compose music. With --stream, Ctrl-C stops and keeps the bars that have arrived."""
    pieces.check_outs(out)
    request: dict[str, Any] = {
        "prompt": prompt,
        "bars": bars,
        "seed": seed,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "style": style,
        "meter": None if meter is None else options.parse_pair(meter, "/", "--meter", "3/4"),
        "key": key,
        "mode": mode,
        "density": density,
        "voices": voices,
        "structure": structure,
        "ending": ending,
        "tempo_qpm": tempo,
        "instruments": options.parse_instruments(instruments),
        **({} if model is None else {"model": model}),
    }
    with connections.connect(server, timeout, api_key_file, ca_file) as music:
        if stream:
            piece = _stream(music, request, bars, shown=console.shows_progress(as_json=as_json))
        else:
            with console.people.status("composing"):
                piece = music.compose(**request, n_candidates=candidates)
    pieces.write_pieces("compose", [piece], out, as_json=as_json)


def _stream(music: MusicClient, request: dict[str, Any], bars: int, *, shown: bool) -> Piece:
    from tritone_training.progress import progress_bar

    with (
        music.stream_compose(**request) as stream,
        progress_bar("composing (bars)", shown=shown, console=console.people) as on_progress,
    ):
        first_bar = None
        try:
            for chunk in stream:
                first_bar = chunk.bars[0] if first_bar is None else first_bar
                on_progress(min(bars, chunk.bars[1] - first_bar), bars)
        except KeyboardInterrupt:
            if first_bar is None:
                raise
            console.say("stopped; the bars that have arrived are kept")
    return stream.result()


def harmonize(
    melody: Annotated[Path, typer.Argument(help="MIDI file with one voice.", show_default=False)],
    *,
    out: options.Out = None,
    highest: Annotated[
        bool, typer.Option("--highest", help="Use the highest notes of a score with chords as the melody.")
    ] = False,
    candidates: Annotated[
        int,
        typer.Option(
            help="Harmonize so many times, 1 to 16, and keep the best result: with a cadence at the end, few parallel "
            "fifths and octaves, and a high likelihood."
        ),
    ] = 8,
    seed: options.PieceSeed = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    style: options.Style = None,
    tempo: options.Tempo = None,
    instruments: options.Instruments = None,
    model: options.Model = "music_transformer",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Add lower voices to a melody."""
    pieces.check_outs(out)
    with (
        connections.connect(server, timeout, api_key_file, ca_file) as music,
        console.people.status("harmonizing"),
    ):
        piece = music.harmonize(
            melody,
            highest=highest,
            n_candidates=candidates,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            style=style,
            tempo_qpm=tempo,
            instruments=options.parse_instruments(instruments),
            model=model,
        )
    pieces.write_pieces("harmonize", [piece], out, as_json=as_json)


def infill(
    score: Annotated[Path, typer.Argument(help="MIDI file.", show_default=False)],
    *,
    bars: Annotated[
        str,
        typer.Option(
            metavar="START:END",
            help="Bars to replace, counted from 0, END excluded: 2:4 replaces the third and the fourth bar.",
            show_default=False,
        ),
    ],
    out: options.Out = None,
    seed: options.PieceSeed = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    style: options.Style = None,
    tempo: options.Tempo = None,
    instruments: options.Instruments = None,
    model: options.Model = "music_transformer",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Replace bars of a score by new ones that fit the bars around them."""
    pieces.check_outs(out)
    bar_range = options.parse_pair(bars, ":", "--bars", "2:4")
    with (
        connections.connect(server, timeout, api_key_file, ca_file) as music,
        console.people.status("infilling"),
    ):
        piece = music.infill(
            score,
            bars=bar_range,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            style=style,
            tempo_qpm=tempo,
            instruments=options.parse_instruments(instruments),
            model=model,
        )
    pieces.write_pieces("infill", [piece], out, as_json=as_json)
