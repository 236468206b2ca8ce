"""`tritone listen-test`: measure how musical the pieces of a model are, beside real pieces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritone_cli import connections, console, options

if TYPE_CHECKING:
    from tritone import Piece
    from tritone_training.listening_test import ListeningTestResult


def listen_test(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model that writes: music_transformer, composer, polyphony_rnn, music_vae or music_gan.",
            show_default=False,
        ),
    ] = None,
    *,
    files: Annotated[
        Path | None,
        typer.Option(
            help="Folder of MIDI files to measure instead of a model; a subfolder is a style.", show_default=False
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
    seed: Annotated[int, typer.Option(min=0, help="First random seed; the others follow it.")] = 0,
    style: options.Style = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature. Default: that of the client.", show_default=False)
    ] = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    ask_keys: Annotated[
        bool, typer.Option("--ask-keys", help="Ask for the 24 keys in turn, and measure whether they are kept.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Real scores to compare with: a folder of MIDI files, .mat or .json. Default: held-out pieces of the "
            "embedded corpus.",
            show_default=False,
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Folder to write the model's pieces to, as MIDI files.", show_default=False),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of an earlier run in --save.")
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Number of requests at once.")] = 4,
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 300.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Measure how musical the pieces of a model (or of a folder) are, beside real pieces of the same length."""
    if (model is None) == (files is None):
        raise typer.BadParameter("give a model or --files, and not both")
    lengths = None if bars is None else _lengths(bars)
    progress = console.shows_progress(as_json=as_json)
    given = {"style": style, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    arguments: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    from tritone_training.listening_test import listening_test_of_files, listening_test_of_model

    if files is not None:
        foreign = [f"--{name.replace('_', '-')}" for name in arguments if name != "style"]
        foreign += ["--ask-keys"] * ask_keys + ["--save"] * (save is not None)
        if foreign:
            raise typer.BadParameter(f"{' and '.join(foreign)}: expected a model, got --files; remove the option")
        _print(listening_test_of_files(files, bars=lengths, style=style, data=data, progress=progress), as_json=as_json)
        return
    options.require_unused(save, overwrite=overwrite, option="--save")
    with connections.connect(server, timeout, api_key_file, ca_file) as music:
        result = listening_test_of_model(
            music,
            str(model),
            bars=lengths,
            n_seeds=seeds,
            seed=seed,
            arguments=arguments,
            ask_keys=ask_keys,
            data=data,
            concurrency=concurrency,
            progress=progress,
            on_piece=None if save is None else lambda n_bars, piece: _save(save, n_bars, piece),
        )
    _print(result, as_json=as_json)


def _lengths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"expected numbers of bars such as 8,16, got {text!r}", param_hint="--bars") from error


def _save(folder: Path, n_bars: int, piece: Piece) -> None:
    into = folder / f"{n_bars:03d}-bars"
    into.mkdir(parents=True, exist_ok=True)
    piece.save(into / f"{piece.seed:05d}.mid")


def _print(result: ListeningTestResult, *, as_json: bool) -> None:
    if as_json:
        console.print_json(result.to_dict())
        return
    console.print_summary(result.summary)
