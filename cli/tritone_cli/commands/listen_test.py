"""`tritone listen-test`: compare the pieces or the harmonizations of a model with real pieces."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tritone.atomic import write_atomically
from tritone_cli import connections, console, options
from tritone_cli.marked_tables import check_marks, markdown_table, replace_marked

if TYPE_CHECKING:
    from tritone import Piece
    from tritone_training.evaluation import SummaryTable
    from tritone_training.listening_test import HarmonizationTestResult, ListeningTestResult


def listen_test(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Generative model: music_transformer, composer, polyphony_rnn, music_vae or music_gan.",
            show_default=False,
        ),
    ] = None,
    *,
    task: Annotated[
        Literal["compose", "harmonize"],
        typer.Option(help="compose: pieces from scratch; harmonize: voices for the melodies of held-out pieces."),
    ] = "compose",
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
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Number of pieces of each length. With --task harmonize: melodies of each style."),
    ] = 50,
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
    candidates: Annotated[
        str | None,
        typer.Option(
            help="Numbers of candidates to test with --task harmonize, such as 1,4,16. Default: the client's default.",
            show_default=False,
        ),
    ] = None,
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
            "`<!-- listen-test MODEL: end -->`. With --files, MODEL is the name of the folder; with --task harmonize, "
            "it is followed by the word harmonize.",
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
    """Compare pieces of a model or a folder with real ones: key, range, repetition, endings; or its harmonizations."""
    if (model is None) == (files is None):
        raise typer.BadParameter("expected either a model or --files")
    harmonizes = task == "harmonize"
    _refuse_options(
        "--task harmonize" if harmonizes else "--task compose",
        {"--files": files is not None, "--bars": bars is not None, "--all-keys": all_keys}
        if harmonizes
        else {"--candidates": candidates is not None},
    )
    lengths = _numbers(bars, "--bars")
    n_candidates = _numbers(candidates, "--candidates")
    progress = console.shows_progress(as_json=as_json)
    given = {"style": style, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    arguments: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for folder, option in ((save, "--save"), (report, "--report")):
        options.require_unused(folder, overwrite=overwrite, option=option)
    name = f"listen-test {model if files is None else files.resolve().name}{' harmonize' * harmonizes}"
    if table is not None:
        check_marks(table, name)
    if report is not None and not harmonizes:
        import matplotlib  # noqa: F401  - a missing extra is reported before the test, not after it
    from tritone_training.listening_test import harmonization_test, listening_test_of_files, listening_test_of_model

    result: ListeningTestResult | HarmonizationTestResult
    if files is not None:
        unsupported = {f"--{option.replace('_', '-')}": option != "style" for option in arguments}
        _refuse_options("--files", {**unsupported, "--all-keys": all_keys, "--save": save is not None})
        result = listening_test_of_files(files, bars=lengths, style=style, data=data, progress=progress)
    else:
        shared: dict[str, Any] = {
            "seed": seed, "arguments": arguments, "data": data, "concurrency": concurrency, "progress": progress
        }  # fmt: skip
        with connections.connect(server, timeout, api_key_file, ca_file) as music:
            if harmonizes:
                result = harmonization_test(
                    music,
                    str(model),
                    n_melodies=seeds,
                    n_candidates=n_candidates,
                    on_piece=None if save is None else lambda *about: _save_harmonization(save, *about),
                    **shared,
                )
            else:
                result = listening_test_of_model(
                    music,
                    str(model),
                    bars=lengths,
                    n_seeds=seeds,
                    all_keys=all_keys,
                    on_piece=None if save is None else lambda n_bars, piece: _save(save, n_bars, piece),
                    **shared,
                )
    written = [] if report is None else _write_report(report, result)
    if table is not None:
        replace_marked(table, name, _table_lines(result.source, result.overview))
        written.append(str(table))
    if as_json:
        console.print_json({**result.to_dict(), "written": written})
        return
    console.print_summary(result.summary)
    for path in written:
        console.say(f"written: {path}")


def _refuse_options(given: str, options_used: Mapping[str, bool]) -> None:
    unsupported = [option for option, is_used in options_used.items() if is_used]
    if unsupported:
        raise typer.BadParameter(f"{' and '.join(unsupported)}: not possible with {given}; remove the option")


def _numbers(text: str | None, option: str) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"expected numbers such as 4,16, got {text!r}", param_hint=option) from error


def _save(folder: Path, n_bars: int, piece: Piece) -> None:
    into = folder / f"{n_bars:03d}-bars"
    into.mkdir(parents=True, exist_ok=True)
    piece.save(into / f"{piece.seed:05d}.mid")


def _save_harmonization(folder: Path, style: str, number: int, n_candidates: int, piece: Piece) -> None:
    into = folder / (f"{style}-{n_candidates}-candidates" if n_candidates else style)
    into.mkdir(parents=True, exist_ok=True)
    piece.save(into / f"{number:03d}.mid")


def _write_report(folder: Path, result: ListeningTestResult | HarmonizationTestResult) -> list[str]:
    from tritone_training.listening_test import ListeningTestResult
    from tritone_training.listening_test.plot import draw_measures, draw_self_similarity

    folder.mkdir(parents=True, exist_ok=True)
    values = folder / "listening-test.json"
    write_atomically(values, json.dumps(console.plain(result.to_dict()), indent=1) + "\n")
    if not isinstance(result, ListeningTestResult):
        return [str(values)]
    plots = [draw_measures(folder / "measures.png", result), draw_self_similarity(folder / "similarity.png", result)]
    return [str(values), *plots]


def _table_lines(source: str, overview: SummaryTable) -> list[str]:
    rows = overview.rows
    table = markdown_table(list(rows[0]), [[_in_markdown(cell) for cell in row.values()] for row in rows])
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    return [*table, "", f"{when}, {source}: `{options.command_line(sys.argv)}`."]


def _in_markdown(cell: str) -> str:
    """Return a cell with a missed target in bold, as on the page of benchmarks."""
    from tritone_training.listening_test.result import MISSED

    return f"**{cell.removesuffix(MISSED).strip()}: missed**" if cell.endswith(MISSED) else cell
