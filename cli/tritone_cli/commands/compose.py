"""`tritone compose`: music from nothing, or on from a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritone_cli import console, options, pieces

if TYPE_CHECKING:
    from tritone import MusicClient, Piece


def register(app: typer.Typer) -> None:
    """Add `compose` to the app."""
    app.command()(compose)


def compose(
    prompt: Annotated[Path | None, typer.Argument(help="MIDI file to go on from; from nothing without.")] = None,
    *,
    bars: Annotated[int, typer.Option(help="How many new ones, 1 to 256.")] = 8,
    out: options.Out = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show the bars as they arrive (gRPC).")] = False,
    seed: options.PieceSeed = None,
    temperature: options.Temperature = 1.0,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    style: options.Style = None,
    meter: Annotated[str | None, typer.Option(help="Time signature, as in 3/4.", show_default=False)] = None,
    tempo: options.Tempo = None,
    model: Annotated[
        str | None,
        typer.Option(help="Default: music_transformer, with --stream composer. Or polyphony_rnn.", show_default=False),
    ] = None,
    server: options.Server = "localhost:8001",
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds for the whole call; with --stream for each bar.")
    ] = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Write music with a running server; Ctrl-C during --stream keeps the bars that have arrived."""
    pieces.check_outs(out)
    asked: dict[str, Any] = {
        "prompt": prompt,
        "bars": bars,
        "seed": seed,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "style": style,
        "meter": None if meter is None else options.parse_pair(meter, "/", "--meter", "3/4"),
        "tempo_qpm": tempo,
        **({} if model is None else {"model": model}),
    }
    with pieces.connect(server, timeout, api_key_file, ca_file) as music:
        if stream:
            piece = _streamed(music, asked, bars)
        else:
            with console.people.status("composing"):
                piece = music.compose(**asked)
    pieces.hand_over("compose", [piece], out, as_json=as_json)


def _streamed(music: MusicClient, asked: dict[str, Any], bars: int) -> Piece:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("composing"), BarColumn(), TextColumn("{task.fields[at]}"), TimeElapsedColumn())
    with (
        music.stream_compose(**asked) as stream,
        Progress(*columns, console=console.people, transient=True) as progress,
    ):
        task = progress.add_task("", total=None, at=f"0 of {bars} bars")
        first_bar = None
        try:
            for chunk in stream:
                first_bar = chunk.bars[0] if first_bar is None else first_bar
                n_bars = min(bars, chunk.bars[1] - first_bar)
                progress.update(task, total=bars, completed=n_bars, at=f"{n_bars} of {bars} bars")
        except KeyboardInterrupt:
            if first_bar is None:
                raise
            console.say("stopped; what has arrived is kept")
    return stream.result()
