"""`tritone predict`: how a model expected a score to go on, step by step."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tritone_cli import console, options, pieces

if TYPE_CHECKING:
    from tritone import Prediction

SPARKS: Final = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH: Final = 60
N_PITCHES_SHOWN: Final = 6
NAMES: Final = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


def register(app: typer.Typer) -> None:
    """Add `predict` to the app."""
    app.command()(predict)


def predict(
    score: Annotated[Path, typer.Argument(help="MIDI file.")],
    *,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Draw it here (.png, .svg or .pdf); repeatable.", show_default=False
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Which model to ask: polyphony_rnn or music_transformer.")] = (
        "polyphony_rnn"
    ),
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Say how much each step of a score surprises a model, and what it expects next, with a running server."""
    pieces.check_outs(out)
    for path in out or ():
        if path.suffix.lower() not in pieces.PICTURES:
            raise typer.BadParameter(f"{path}: a prediction is drawn, as {', '.join(pieces.PICTURES)}")
    with pieces.connect(server, timeout, api_key_file, ca_file) as music, console.people.status("listening"):
        prediction = music.predict(score, model=model)
    files = [str(prediction.plot(path)) for path in out or ()]
    if as_json:
        values = prediction.to_dict()
        del values["probabilities"], values["grid"]  # megabytes for a long score
        console.print_json({**values, "dropped": dict(prediction.grid.dropped), "files": files})
        return
    _show(prediction)
    for file in files:
        console.say(f"written: {file}")


def _show(prediction: Prediction) -> None:
    console.say(
        f"{prediction.nll_per_frame:.3f} nats a step over {prediction.n_frames} steps; "
        f"{prediction.model} v{prediction.model_version}"
    )
    console.say(f"  surprise over time  {sparkline(prediction)}")
    expected = prediction.next_pitches(N_PITCHES_SHOWN)
    if expected:
        shares = ", ".join(f"{pitch_name(pitch)} {share:.0%}" for pitch, share in expected.items())
        console.say(f"  expected next: {shares}")


def sparkline(prediction: Prediction) -> str:
    """One character for each step, or for each few steps of a long score: the mean surprise there."""
    values = prediction.nll.tolist()
    n_columns = min(len(values), SPARKLINE_WIDTH)
    edges = [round(column * len(values) / n_columns) for column in range(n_columns + 1)]
    means = [sum(values[start:stop]) / (stop - start) for start, stop in pairwise(edges)]
    largest = max(means) or 1.0
    return "".join(SPARKS[min(len(SPARKS) - 1, int(max(0.0, mean) / largest * len(SPARKS)))] for mean in means)


def pitch_name(pitch: int) -> str:
    """A MIDI pitch as people say it: 60 is C4."""
    return f"{NAMES[pitch % 12]}{pitch // 12 - 1}"
