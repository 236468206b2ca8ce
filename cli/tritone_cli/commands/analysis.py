"""`tritone classify` and `predict`: analyse recordings and scores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from tritone_cli import connections, console, options, pieces

if TYPE_CHECKING:
    from rich.table import Table

    from tritone import Classification, ClientError, MusicClient, Prediction

SPARKS: Final = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH: Final = 60
BAR_WIDTH: Final = 24
N_TAGS_SHOWN: Final = 8
N_PITCHES_SHOWN: Final = 6
PITCH_NAMES: Final = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


def classify(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Recordings in any format that libsndfile reads.", show_default=False),
    ],
    *,
    server: options.Server = "localhost:8001",
    top: Annotated[
        int | None, typer.Option(min=1, help="Number of labels to show. Default: all.", show_default=False)
    ] = None,
    model: options.Model = "genre_cnn",
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Time limit of one recording in seconds, retries included.")
    ] = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    priority: Annotated[
        Literal["interactive", "batch"],
        typer.Option(help="Priority in the model's queue: batch waits for the interactive requests of all clients."),
    ] = "interactive",
    plot: Annotated[
        Path | None,
        typer.Option(help="File for a plot of the timeline of one recording (.png, .svg or .pdf).", show_default=False),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Classify recordings: genre, emotions and tags.

    If a recording cannot be read, the others are still classified, and the exit status is 1.
    """
    from tritone import ClientError

    if plot is not None and len(files) > 1:
        raise typer.BadParameter(f"--plot: expected one FILE, got {len(files)}; a plot shows one recording")
    results: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    fatal: ClientError | None = None  # an error that would also occur for all further files
    with connections.connect(server, timeout, api_key_file, ca_file, priority=priority) as music:
        for file in files:
            name = _printable(file)
            try:
                if fatal is not None:
                    raise fatal
                result = _classify(music, file, name, model, top)
                picture = None if plot is None else result.plot(plot)
            except ClientError as error:
                fatal = error if _is_fatal(error) else None
                errors.append(_error_entry(name, error))
                console.fail(f"{name}: {error}" if not str(error).startswith(name) else str(error))
                continue
            results.append({"file": name, **result.to_dict()})
            if not as_json:
                _print_classification(name, result, top)
            if picture is not None:
                console.say(f"written: {_printable(picture)}")
    if as_json:
        console.print_json({"results": results, "errors": errors})
    if errors:
        raise typer.Exit(1)


def _classify(music: MusicClient, file: Path, name: str, model: str, top: int | None) -> Classification:
    from rich.markup import escape

    with console.people.status(f"classifying {escape(name)}"):
        return music.classify(file, model=model, top=top)


def _is_fatal(error: ClientError) -> bool:
    from tritone import AccessDeniedError, ConnectionFailedError, ModelNotFoundError

    return isinstance(error, AccessDeniedError | ConnectionFailedError | ModelNotFoundError)


def _error_entry(name: str, error: ClientError) -> dict[str, Any]:
    return {
        "file": name,
        "error": type(error).__name__,
        "message": str(error),
        "reason": getattr(error, "reason", None),
        "status": error.status,
        "request_id": error.request_id,
    }


def _print_classification(name: str, result: Classification, top: int | None) -> None:
    from rich.text import Text

    people = console.people
    people.print(Text.assemble((name, "bold"), f"  {result.duration_s:.1f} s, {result.model} v{result.model_version}"))
    table = _table()
    for label, value in result.probabilities.items():
        table.add_row(Text(label, "bold green" if label == result.label else ""), f"{value:6.1%}", _bar(value, "green"))
    if result.emotions is not None:
        table.add_row()
        for emotion, value in result.emotions.items():
            table.add_row(Text(emotion.replace("_", " ")), f"{value:6.1%}", _bar(value, "magenta"))
    people.print(table)
    if result.tags is not None:
        tags = list(result.tags.items())[: top or N_TAGS_SHOWN]
        people.print(Text("  tags: " + ", ".join(f"{tag} {value:.0%}" for tag, value in tags)))
    people.print(Text(f"  {result.label} over time  {timeline_sparkline(result, result.label)}"))
    if result.emotions is not None:
        emotion = next(iter(result.emotions))
        felt = [window.emotions[emotion] for window in result.timeline if window.emotions is not None]
        people.print(Text(f"  {emotion.replace('_', ' ')} over time  {sparkline(felt, largest=1.0)}"))
    people.print(
        Text(
            f"  decoded in {1e3 * result.decode_s:.0f} ms, classified in {1e3 * result.request_s:.0f} ms\n",
            "dim",
        )
    )


def _table() -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    return table


def _bar(value: float, style: str) -> Any:
    from rich.text import Text

    n_full = round(max(0.0, min(1.0, value)) * BAR_WIDTH)
    return Text("█" * n_full, style) + Text("·" * (BAR_WIDTH - n_full), "dim")


def timeline_sparkline(result: Classification, label: str) -> str:
    """Return the label's probability over time, one character for each window or each group of windows."""
    return sparkline([window.probabilities[label] for window in result.timeline], largest=1.0)


def sparkline(values: Sequence[float], *, largest: float | None = None) -> str:
    """Return values as a line of at most 60 characters, each for one value or for the mean of a group of values.

    Args:
        largest: value of the highest character. Default: the largest mean.
    """
    n_columns = min(len(values), SPARKLINE_WIDTH)
    edges = [round(column * len(values) / n_columns) for column in range(n_columns + 1)]
    means = [sum(values[start:stop]) / (stop - start) for start, stop in pairwise(edges)]
    scale = (largest if largest is not None else max(means)) or 1.0
    return "".join(SPARKS[min(len(SPARKS) - 1, int(max(0.0, mean) / scale * len(SPARKS)))] for mean in means)


def _printable(path: Path) -> str:
    """Return a path as text; bytes that are not UTF-8, which terminals and JSON cannot hold, are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def predict(
    score: Annotated[Path, typer.Argument(help="MIDI file.", show_default=False)],
    *,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="File for a plot (.png, .svg or .pdf); repeatable.", show_default=False
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Name of the model: polyphony_rnn or music_transformer.")] = (
        "polyphony_rnn"
    ),
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Evaluate a score with a model: the surprise of each step, and the most likely next notes."""
    pieces.check_outs(out)
    for path in out or ():
        if path.suffix.lower() not in pieces.PICTURES:
            raise typer.BadParameter(f"{path}: expected a file name that ends in {', '.join(pieces.PICTURES)}")
    with connections.connect(server, timeout, api_key_file, ca_file) as music, console.people.status("predicting"):
        prediction = music.predict(score, model=model)
    files = [str(prediction.plot(path)) for path in out or ()]
    if as_json:
        values = prediction.to_dict()
        del values["probabilities"], values["grid"]  # megabytes for a long score
        console.print_json({**values, "dropped": dict(prediction.grid.dropped), "files": files})
        return
    _print_prediction(prediction)
    for file in files:
        console.say(f"written: {file}")


def _print_prediction(prediction: Prediction) -> None:
    console.say(
        f"{prediction.nll_per_frame:.3f} nats per step over {prediction.n_frames} steps; "
        f"{prediction.model} v{prediction.model_version}"
    )
    console.say(f"  surprise over time  {sparkline(prediction.nll.tolist())}")
    expected = prediction.next_pitches(N_PITCHES_SHOWN)
    if expected:
        shares = ", ".join(f"{pitch_name(pitch)} {share:.0%}" for pitch, share in expected.items())
        console.say(f"  likely next: {shares}")


def pitch_name(pitch: int) -> str:
    """Return the name of a MIDI pitch: 60 is C4."""
    return f"{PITCH_NAMES[pitch % 12]}{pitch // 12 - 1}"
