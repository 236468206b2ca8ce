"""`tritone classify`: what a served model hears in recordings."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from tritone_cli import console, options, pieces

if TYPE_CHECKING:
    from rich.table import Table

    from tritone import Classification, ClientError, MusicClient

SPARKS: Final = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH: Final = 60
BAR_WIDTH: Final = 24
N_TAGS_SHOWN: Final = 8


def register(app: typer.Typer) -> None:
    """Add `classify` to the app."""
    app.command()(classify)


def classify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings, in any format libsndfile reads.")],
    *,
    server: options.Server = "localhost:8001",
    top: Annotated[int | None, typer.Option(min=1, help="How many labels to show; all unless given.")] = None,
    model: options.Model = "genre_cnn",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds for one recording, retries included.")] = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    priority: Annotated[
        Literal["interactive", "batch"],
        typer.Option(help="Priority in the model's queue: batch waits for the interactive requests of all clients."),
    ] = "interactive",
    plot: Annotated[
        Path | None, typer.Option(help="Draw the timeline of one recording here (.png, .svg or .pdf).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Name the genre, emotions and tags of recordings, by asking a running server.

    A recording that cannot be used is reported and the others are still answered; the exit status is then 1.
    """
    from tritone import ClientError

    if plot is not None and len(files) > 1:
        raise typer.BadParameter("one picture shows one recording: give one FILE with --plot")
    results: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    hopeless: ClientError | None = None  # an error that every further file would meet as well
    with pieces.connect(server, timeout, api_key_file, ca_file, priority=priority) as music:
        for file in files:
            name = _printable(file)
            try:
                if hopeless is not None:
                    raise hopeless
                result = _listened(music, file, name, model, top)
                picture = None if plot is None else result.plot(plot)
            except ClientError as error:
                hopeless = error if _is_hopeless(error) else None
                errors.append(_error_entry(name, error))
                console.fail(f"{name}: {error}" if not str(error).startswith(name) else str(error))
                continue
            results.append({"file": name, **result.to_dict()})
            if not as_json:
                _show(name, result, top)
            if picture is not None:
                console.say(f"timeline drawn in {_printable(picture)}")
    if as_json:
        console.print_json({"results": results, "errors": errors})
    if errors:
        raise typer.Exit(1)


def _listened(music: MusicClient, file: Path, name: str, model: str, top: int | None) -> Classification:
    from rich.markup import escape

    with console.people.status(f"listening to {escape(name)}"):
        return music.classify(file, model=model, top=top)


def _is_hopeless(error: ClientError) -> bool:
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


def _show(name: str, result: Classification, top: int | None) -> None:
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
    people.print(Text(f"  {result.label} over time  {sparkline(result, result.label)}"))
    people.print(
        Text(
            f"  decoded in {1e3 * result.decode_s:.0f} ms, answered in {1e3 * result.request_s:.0f} ms\n",
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


def sparkline(result: Classification, label: str) -> str:
    """One character for each window, or for each few windows of a long recording: the label's probability."""
    values = [window.probabilities[label] for window in result.timeline]
    n_columns = min(len(values), SPARKLINE_WIDTH)
    edges = [round(column * len(values) / n_columns) for column in range(n_columns + 1)]
    groups = [values[start:end] for start, end in pairwise(edges)]
    means = [sum(group) / len(group) for group in groups]
    return "".join(SPARKS[min(len(SPARKS) - 1, int(max(0.0, mean) * len(SPARKS)))] for mean in means)


def _printable(path: Path) -> str:
    """A file's name may hold bytes that are no UTF-8, which neither a terminal nor JSON takes."""
    return os.fsencode(path).decode("utf-8", "replace")
