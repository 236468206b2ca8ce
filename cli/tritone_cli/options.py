"""Options that several verbs share, and what stands behind them."""

from __future__ import annotations

import ast
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tritone_training.kind import ListeningFiles

# --- training -----------------------------------------------------------------------------------

Kind = Annotated[str, typer.Argument(help="Model kind, for example genre_cnn.", show_default=False)]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Recordings: manifest CSV, or a folder per label. Scores: a folder of MIDI files, .mat or .json. "
        "Default: the embedded catalogue.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same run.")]
Preset = Annotated[str, typer.Option(help="Hyper-parameter preset: default, demo (minutes) or tiny (for tests).")]
Pretrained = Annotated[
    str | None, typer.Option(help="Backbone: musicnn or musicnn-mtt (weights come from PyPI).", show_default=False)
]
Devices = Annotated[int, typer.Option(min=1, help="How many GPUs to train on, if there are any.")]
MaxEpochs = Annotated[int | None, typer.Option(min=1, help="Upper bound on epochs.", show_default=False)]
Settings = Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE replaces a hyper-parameter; repeatable.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output of an earlier run in --out or --report.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the interrupted training in --out; give the same options as before.")
]
WarmStart = Annotated[
    Path | None,
    typer.Option(help="Checkpoint of the same kind that provides the initial weights.", show_default=False),
]
Mlflow = Annotated[
    str | None,
    typer.Option(
        help="URI of an MLflow tracking server or store to log to; default: MLFLOW_TRACKING_URI.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else there.")]
Checkpoint = Annotated[Path, typer.Option(help="Checkpoint folder that `tritone train` wrote.", show_default=False)]
Report = Annotated[Path | None, typer.Option(help="Folder for plots and a table of predictions.", show_default=False)]
TrainReport = Annotated[
    Path | None,
    typer.Option("--report", help="Folder for plots of how it does on validation data.", show_default=False),
]

# --- listening logs ------------------------------------------------------------------------------
Interactions = Annotated[
    Path | None,
    typer.Option(
        help="Listening log: CSV, Parquet, JSON, Excel or a folder of parts; default: simulated listening.",
        show_default=False,
    ),
]
Valid = Annotated[
    Path | None,
    typer.Option(help="Held-out listens to choose by; default: split off the log.", show_default=False),
]
Test = Annotated[Path | None, typer.Option(help="Held-out listens to judge by.", show_default=False)]
Friends = Annotated[Path | None, typer.Option(help="Table of pairs of users.", show_default=False)]
ItemTags = Annotated[
    Path | None, typer.Option(help="Table of tags of items, with who gave them if known.", show_default=False)
]
TagNames = Annotated[Path | None, typer.Option(help="Table from tags' ids to their names.", show_default=False)]
Metadata = Annotated[
    Path | None, typer.Option(help="Table with a row an item: title, artist, any words.", show_default=False)
]
Recordings = Annotated[
    Path | None, typer.Option(help="Folder with a recording of each item, named by its id.", show_default=False)
]
GenreCheckpoint = Annotated[
    Path | None, typer.Option(help="Checkpoint of genre_cnn that hears the recordings.", show_default=False)
]
Key = Annotated[
    Path | None,
    typer.Option(help="File with the key for users' pseudonyms; default: made beside the checkpoint."),
]
UserColumn = Annotated[str | None, typer.Option(help="The log's column of users.", show_default=False)]
ItemColumn = Annotated[str | None, typer.Option(help="... of items.", show_default=False)]
PlaysColumn = Annotated[str | None, typer.Option(help="... of play counts; optional.", show_default=False)]
RatingColumn = Annotated[str | None, typer.Option(help="... of ratings, instead of plays.", show_default=False)]
TimeColumn = Annotated[str | None, typer.Option(help="... of times; optional.", show_default=False)]
FriendColumn = Annotated[str | None, typer.Option(help="The friends' table's second column.", show_default=False)]
TagColumn = Annotated[str | None, typer.Option(help="The tags' table's column of tags.", show_default=False)]

# --- asking a server ----------------------------------------------------------------------------
Server = Annotated[
    str,
    typer.Option(
        envvar="TRITONE_SERVER", help="host:port (gRPC), or grpc(s):// or http(s)://host:port; several with commas."
    ),
]
LiveServer = Annotated[
    str,
    typer.Option(
        envvar="TRITONE_SERVER",
        help="Server address: host:port (gRPC) or http://host:port. If the ports are not adjacent (8000, 8001), give "
        "both addresses, separated by a comma.",
    ),
]
OptionalServer = Annotated[
    str | None,
    typer.Option(
        envvar="TRITONE_SERVER",
        help="Address of a running server: host:port (gRPC) or http://host:port. If the ports are not adjacent (8000, "
        "8001), give both addresses, separated by a comma.",
        show_default=False,
    ),
]
ApiKeyFile = Annotated[
    Path | None, typer.Option(help="File that holds the server's key; else TRITONE_API_KEY is used, if set.")
]
ServiceKeyFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the service key, which gives access to stored users. Default: TRITONE_SERVICE_KEY_FILE, or "
        "your own key if you run the server on this machine.",
        show_default=False,
    ),
]
UserTokenFile = Annotated[
    Path | None,
    typer.Option(
        help="File with a user token, which gives access to one stored user. Default: TRITONE_USER_TOKEN.",
        show_default=False,
    ),
]
CaFile = Annotated[Path | None, typer.Option(help="PEM with the authorities to trust, for TLS.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds for the whole call, retries included.")]
Model = Annotated[str, typer.Option(help="Which model to ask.")]

# --- written music ------------------------------------------------------------------------------
Out = Annotated[
    list[Path] | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="Write here, as the suffix says: .mid, .wav, .png, .svg or .pdf; repeatable. "
        "Default: VERB-SEED.mid here, nothing with --json.",
        show_default=False,
    ),
]
PieceSeed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        max=2**63 - 1,
        help="Same seed, same notes; drawn and told unless given.",
        show_default=False,
    ),
]
Temperature = Annotated[float, typer.Option(help="Below 1 the likely gets likelier, above 1 the unlikely.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Choose among so many of the likeliest notes.")]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", help="Choose among the likeliest notes that reach this probability.", show_default=False),
]
Style = Annotated[str | None, typer.Option(help="One of the styles that the model knows.", show_default=False)]
Tempo = Annotated[
    float | None, typer.Option("--tempo", help="Quarters a minute; else the score's, or 120.", show_default=False)
]


# --- recommending -------------------------------------------------------------------------------
TrackCount = Annotated[int, typer.Option("--n", "-n", help="How many tracks, 1 to 10000.")]


def parse_settings(settings: Sequence[str] | None) -> Mapping[str, Any]:
    """`["width=32", "class_weights=balanced"]` -> `{"width": 32, "class_weights": "balanced"}`.

    Values are numbers, `true`, `false`, words, or Python dicts such as `{'jazz': 2}`; each kind checks its own.

    Raises:
        typer.BadParameter: not NAME=VALUE.
    """
    parsed: dict[str, Any] = {}
    for setting in settings or ():
        name, separator, text = setting.partition("=")
        try:
            value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
        except (ValueError, SyntaxError):
            value = text if text.isidentifier() else None
        if not separator or not isinstance(value, bool | int | float | str | dict):
            raise typer.BadParameter(f"--set {setting!r}: expected NAME=VALUE, for example --set width=32")
        parsed[name.strip()] = value
    return parsed


def require_unused(folder: Path | None, *, overwrite: bool, option: str) -> None:
    """Refuse a folder for results that holds files, unless they may be replaced.

    Raises:
        typer.BadParameter: it is a file, or it is not empty and `overwrite` is not set.
    """
    if folder is None or not folder.exists():
        return
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder}: expected a folder, got a file", param_hint=option)
    if not overwrite and any(folder.iterdir()):
        raise typer.BadParameter(
            f"{folder}: expected a new or empty folder, got one with files; give another, or replace them with "
            f"--overwrite",
            param_hint=option,
        )


def command_line(argv: Sequence[str]) -> str:
    """The command as the user typed it, for the model card."""
    typed = shlex.join(["tritone", *argv[1:]])
    return typed.encode("utf-8", "backslashreplace").decode("utf-8")  # a path may hold bytes that are no text


def api_key(file: Path | None) -> str | None:
    """The server's key, from a file or from the environment.

    Raises:
        typer.BadParameter: the file cannot be read.
    """
    if file is None:
        return os.environ.get("TRITONE_API_KEY") or None
    return _secret_in(file, "--api-key-file")


def credentials(service_key_file: Path | None, user_token_file: Path | None) -> dict[str, str]:
    """Return the credentials for stored users as keyword arguments of `MusicClient`.

    Options come before environment variables, and a token before the service key.

    Raises:
        typer.BadParameter: a file cannot be read, or both are given.
    """
    if service_key_file is not None and user_token_file is not None:
        raise typer.BadParameter("give one of --service-key-file and --user-token-file")
    if user_token_file is not None:
        return {"user_token": _secret_in(user_token_file, "--user-token-file")}
    if service_key_file is not None:
        return {"service_key": _secret_in(service_key_file, "--service-key-file")}
    if token := os.environ.get("TRITONE_USER_TOKEN"):
        return {"user_token": token}
    if path := os.environ.get("TRITONE_SERVICE_KEY_FILE"):
        return {"service_key": _secret_in(Path(path), "TRITONE_SERVICE_KEY_FILE")}
    return {}


def _secret_in(file: Path, option: str) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"the key cannot be read ({error})", param_hint=option) from error


def client_file(server: str, variable: str) -> str | None:
    """A PEM file to show to servers that ask for a certificate (mutual TLS), from the environment."""
    return os.environ.get(variable) or None if server.startswith(("grpcs://", "https://")) else None


def listening_files(given: Mapping[str, Any]) -> ListeningFiles:
    """What a verb was told of a listening log: those of its parameters that are named as the fields are."""
    from tritone_training.api import ListeningFiles

    return ListeningFiles(**{each.name: given[each.name] for each in fields(ListeningFiles) if each.name in given})


def parse_pair(text: str, separator: str, option: str, example: str) -> tuple[int, int]:
    """`"3/4"` -> `(3, 4)`; the SDK says which pairs it can use.

    Raises:
        typer.BadParameter: not two whole numbers.
    """
    try:
        first, second = (int(part) for part in text.split(separator))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: expected for example {example}", param_hint=option) from error
    return first, second
