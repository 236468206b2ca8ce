"""The `tritone` command: one app, one module of `tritone_cli.commands` per verb.

A command module has `register(app)`; it imports what is heavy only when its verb runs, so that
`tritone classify` starts at once and works with nothing but the light client installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from typing import Annotated, Final

import typer

from tritone import TritoneError
from tritone_cli import console

COMMANDS: Final = (
    "catalogue",
    "train",
    "evaluate",
    "crossvalidate",
    "tune",
    "pretrained",
    "export",
    "lint",
    "serve",
    "probe",
    "publish",
    "rollback",
    "bench",
    "optimize",
    "classify",
    "compose",
    "harmonize",
    "infill",
    "predict",
    "reconstruct",
    "interpolate",
    "vary",
    "sample",
    "recommend",
    "similar",
    "tracks",
    "user-token",
    "forget",
)
# What the extras bring, by import name.
EXTRA_OF: Final = {
    **dict.fromkeys(("matplotlib", "pretty_midi", "symusic"), "scores"),
    **dict.fromkeys(
        (
            "duckdb",
            "lightning",
            "music21",
            "optuna",
            "pandas",
            "python_calamine",
            "scipy",
            "sklearn",
            "torch",
            "zstandard",
        ),
        "train",
    ),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export"),
}


def new_app(help_text: str | None = None) -> typer.Typer:
    """Return a Typer app without commands, with the project's settings."""
    return typer.Typer(
        name="tritone",
        help=help_text,
        no_args_is_help=help_text is not None,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def build_app() -> typer.Typer:
    """Assemble the app from the command modules."""
    app = new_app(help_text="Music intelligence as a service: train, export, serve and call music models.")
    app.callback()(_root)
    for name in COMMANDS:
        importlib.import_module(f"tritone_cli.commands.{name.replace('-', '_')}").register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"tritone {importlib.metadata.version('tritone')}\n")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the `tritone` command."""
    run(build_app())


def run(app: typer.Typer) -> None:
    """Run an app with this process's arguments; errors that users can act on become one message and exit status 1."""
    console.show_warnings_of("tritone.audio")
    try:
        app()
    except TritoneError as error:
        console.fail(str(error))
        sys.exit(1)
    except ModuleNotFoundError as error:  # a bare `pip install tritone` is the light client
        extra = EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        console.fail(f"this needs {error.name}: pip install 'tritone[{extra}]'")
        sys.exit(1)
    except OSError as error:  # no permission, a full disk, a file where a folder should be
        if error.strerror is None:
            raise
        console.fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        sys.exit(1)
