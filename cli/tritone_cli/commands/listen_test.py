"""`tritone listen-test`: compare the pieces of a model with real pieces."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritone.atomic import write_atomically
from tritone_cli import connections, console, options
from tritone_cli.marked_tables import check_marks, markdown_table, replace_marked

if TYPE_CHECKING:
    from tritone import Piece
    from tritone_training.listening_test import ListeningTestResult


def listen_test(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Generative model: music_transformer, composer, polyphony_rnn, music_vae or music_gan.",
            show_default=False,
        ),
    ] = None,
    *,
    files: Annotated[
        Path | None,
        typer.Option(
            help="Folder of MIDI files to measure instead of a model. A subfolder is the style of its files.",
            show_default=False,
        ),
    ] = None,
    bars: Annotated[
        str | None,
        typer.Option(
            help="Lengths of the pieces in bars, 1 to 256 each. Default: 8,16,32,64; 2 for music_vae and music_gan.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of pieces of each length.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="First random seed; the others are consecutive.")] = 0,
    style: options.Style = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature. Default: the client's default.", show_default=False)
    ] = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    all_keys: Annotated[
        bool, typer.Option("--all-keys", help="Request the 24 keys in turn, and measure whether the pieces keep them.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Real scores to compare with: a folder of MIDI files, .mat, .json or corpus:public-domain. Default: "
            "held-out pieces of the embedded corpus.",
            show_default=False,
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Folder to write the model's pieces to, as MIDI files.", show_default=False),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for plots and a JSON file of the results.", show_default=False)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of an earlier run in --save and --report.")
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(
            help="Markdown file whose table is replaced: the lines between `<!-- listen-test MODEL: begin -->` and "
            "`<!-- listen-test MODEL: end -->`. With --files, MODEL is the name of the folder.",
            show_default=False,
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Number of concurrent requests.")] = 4,
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 300.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Compare pieces of a model or a folder with real pieces of the same length: key, range, repetition, endings."""
    if (model is None) == (files is None):
        raise typer.BadParameter("expected either a model or --files")
    lengths = None if bars is None else _lengths(bars)
    progress = console.shows_progress(as_json=as_json)
    given = {"style": style, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    arguments: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for folder, option in ((save, "--save"), (report, "--report")):
        options.require_unused(folder, overwrite=overwrite, option=option)
    name = model if files is None else files.resolve().name
    if table is not None:
        check_marks(table, f"listen-test {name}")
    if report is not None:
        import matplotlib  # noqa: F401  - a missing extra is reported before the test, not after it
    from tritone_training.listening_test import listening_test_of_files, listening_test_of_model

    if files is not None:
        unsupported = [f"--{option.replace('_', '-')}" for option in arguments if option != "style"]
        unsupported += ["--all-keys"] * all_keys + ["--save"] * (save is not None)
        if unsupported:
            raise typer.BadParameter(f"{' and '.join(unsupported)}: expected a model, got --files; remove the option")
        result = listening_test_of_files(files, bars=lengths, style=style, data=data, progress=progress)
    else:
        with connections.connect(server, timeout, api_key_file, ca_file) as music:
            result = listening_test_of_model(
                music,
                str(model),
                bars=lengths,
                n_seeds=seeds,
                seed=seed,
                arguments=arguments,
                all_keys=all_keys,
                data=data,
                concurrency=concurrency,
                progress=progress,
                on_piece=None if save is None else lambda n_bars, piece: _save(save, n_bars, piece),
            )
    written = [] if report is None else _write_report(report, result)
    if table is not None:
        replace_marked(table, f"listen-test {name}", _table_lines(result))
        written.append(str(table))
    if as_json:
        console.print_json({**result.to_dict(), "written": written})
        return
    console.print_summary(result.summary)
    for path in written:
        console.say(f"written: {path}")


def _lengths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"expected numbers of bars such as 8,16, got {text!r}", param_hint="--bars") from error


def _save(folder: Path, n_bars: int, piece: Piece) -> None:
    into = folder / f"{n_bars:03d}-bars"
    into.mkdir(parents=True, exist_ok=True)
    piece.save(into / f"{piece.seed:05d}.mid")


def _write_report(folder: Path, result: ListeningTestResult) -> list[str]:
    from tritone_training.listening_test.plot import draw_measures, draw_self_similarity

    folder.mkdir(parents=True, exist_ok=True)
    values = folder / "listening-test.json"
    write_atomically(values, json.dumps(console.plain(result.to_dict()), indent=1) + "\n")
    plots = [draw_measures(folder / "measures.png", result), draw_self_similarity(folder / "similarity.png", result)]
    return [str(values), *plots]


def _table_lines(result: ListeningTestResult) -> list[str]:
    rows = result.overview.rows
    table = markdown_table(list(rows[0]), [[_in_markdown(cell) for cell in row.values()] for row in rows])
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    return [*table, "", f"{when}, {result.source}: `{options.command_line(sys.argv)}`."]


def _in_markdown(cell: str) -> str:
    """Return a cell with a missed target in bold, as on the page of benchmarks."""
    from tritone_training.listening_test.result import MISSED

    return f"**{cell.removesuffix(MISSED).strip()}: missed**" if cell.endswith(MISSED) else cell
