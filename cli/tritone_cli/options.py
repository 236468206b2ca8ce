"""Options that several verbs share, and what stands behind them."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Kind = Annotated[str, typer.Argument(help="Model kind, for example genre_cnn.", show_default=False)]
Data = Annotated[
    Path | None,
    typer.Option(help="Manifest CSV, or a folder per label; default: the embedded catalogue.", show_default=False),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same run.")]
Preset = Annotated[str, typer.Option(help="Hyper-parameter preset: default, demo (minutes) or tiny (for tests).")]
Pretrained = Annotated[
    str | None, typer.Option(help="Backbone: musicnn or musicnn-mtt (weights come from PyPI).", show_default=False)
]
Devices = Annotated[int, typer.Option(min=1, help="How many GPUs to train on, if there are any.")]
MaxEpochs = Annotated[int | None, typer.Option(min=1, help="Upper bound on epochs.", show_default=False)]
Settings = Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE replaces a hyper-parameter; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else there.")]
Checkpoint = Annotated[Path, typer.Option(help="Checkpoint folder that `tritone train` wrote.", show_default=False)]
Report = Annotated[Path | None, typer.Option(help="Folder for plots and a table of predictions.", show_default=False)]


def parse_settings(settings: Sequence[str] | None) -> Mapping[str, Any]:
    """`["width=32"]` -> `{"width": 32}`.

    Raises:
        typer.BadParameter: not NAME=NUMBER.
    """
    parsed: dict[str, Any] = {}
    for setting in settings or ():
        name, separator, text = setting.partition("=")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = None
        if not separator or isinstance(value, bool) or not isinstance(value, int | float):
            raise typer.BadParameter(f"--set {setting!r}: expected NAME=NUMBER, for example --set width=32")
        parsed[name.strip()] = value
    return parsed


def command_line(argv: Sequence[str]) -> str:
    """The command as the user typed it, for the model card."""
    typed = shlex.join(["tritone", *argv[1:]])
    return typed.encode("utf-8", "backslashreplace").decode("utf-8")  # a path may hold bytes that are no text
