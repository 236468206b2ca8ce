"""The `tritone` command: the functions of `tritone_cli.commands`, in panels.

The command modules import heavy packages only when a command runs, so that `tritone classify` starts at once and needs
only the light client.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final

import typer

from tritone import TritoneError
from tritone_cli import console
from tritone_cli.commands import (
    analysis,
    batch,
    bench,
    check,
    compose,
    crossvalidate,
    evaluate,
    events,
    export,
    gateway,
    inspire,
    keys,
    latent,
    listen_test,
    optimize,
    playlist,
    publish,
    recommend,
    refit,
    resources,
    serve,
    studio,
    tracks,
    train,
    tune,
    users,
)

PANELS: Final[Mapping[str, Sequence[Callable[..., None]]]] = {
    "Use": (
        analysis.classify,
        recommend.recommend,
        recommend.similar,
        playlist.playlist,
        recommend.search,
        compose.compose,
        compose.harmonize,
        compose.infill,
        inspire.inspire,
        latent.sample,
        latent.reconstruct,
        latent.interpolate,
        latent.vary,
        analysis.predict,
    ),
    "Train": (
        train.train,
        evaluate.evaluate,
        crossvalidate.crossvalidate,
        tune.tune,
        resources.corpus,
        resources.pretrained,
    ),
    "Deploy": (
        export.export,
        serve.serve,
        gateway.gateway,
        studio.studio,
        publish.publish,
        publish.rollback,
        refit.refit,
        check.probe,
        check.lint,
        users.user_token,
        users.forget,
    ),
    "Measure": (listen_test.listen_test, bench.bench, optimize.optimize),
}
# Extra by import name of the packages that it installs.
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
    **dict.fromkeys(("fsspec", "gcsfs", "s3fs"), "batch"),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export"),
    **dict.fromkeys(("fastapi", "filelock", "limits", "pydantic", "uvicorn", "uvloop"), "gateway"),
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
    """Return the app with all commands."""
    app = new_app(help_text="Music intelligence as a service: train, export, serve and call music models.")
    app.callback()(_root)
    for panel, commands in PANELS.items():
        for command in commands:
            app.command(rich_help_panel=panel, epilog=_environment_variables(command))(command)
    app.add_typer(batch.build_batch_app(new_app), name="batch", rich_help_panel="Use")
    app.add_typer(events.build_events_app(new_app), name="events", rich_help_panel="Deploy")
    app.add_typer(tracks.build_tracks_app(new_app), name="tracks", rich_help_panel="Use", cls=tracks.SearchByDefault)
    app.add_typer(keys.build_keys_app(new_app), name="keys", rich_help_panel="Deploy")
    return app


def _environment_variables(command: Callable[..., None]) -> str | None:
    """Return a line with the environment variables in a command's help, whose names narrow terminals cut."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    helps = [option.help or "" for each in parameters for option in getattr(each.annotation, "__metadata__", ())]
    found = dict.fromkeys(name for text in helps for name in re.findall(r"[A-Z]+_[A-Z_]+", text))
    return f"Environment variables: {', '.join(found)}" if found else None


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
    # By default, OpenMP threads spin at barriers, which costs CPU time and stalls a training when another process
    # needs the core. This has to be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    run(build_app())


def run(app: typer.Typer) -> None:
    """Run an app with this process's arguments; errors that users can act on become one message and exit status 1."""
    console.show_warnings_of("tritone.audio")
    try:
        app()
    except TritoneError as error:
        console.fail(str(error))
        sys.exit(1)
    except ModuleNotFoundError as error:  # `pip install tritone` without extras installs the light client
        extra = EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        console.fail(f"this command needs {error.name}; install it with: pip install 'tritone[{extra}]'")
        sys.exit(1)
    except OSError as error:  # no permission, a full disk, a file where a folder should be
        if error.strerror is None:
            raise
        console.fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        sys.exit(1)
