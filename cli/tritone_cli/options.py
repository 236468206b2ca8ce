"""Options that several commands share, and their parsers."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from tritone_training.data.interactions import ListeningFiles

# --- training -----------------------------------------------------------------------------------

Kind = Annotated[
    str,
    typer.Argument(
        help="Model kind: genre_cnn, polyphony_rnn, music_transformer, music_vae, music_gan, taste_vae, "
        "taste_sequence or recommender.",
        show_default=False,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Recordings: manifest CSV, or a folder per label. Scores: a folder of MIDI files, .mat or .json, or "
        "collections of the corpus: corpus:public-domain, or names such as corpus:bach,ryans. "
        "Default: the embedded corpus.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.")]
Preset = Annotated[str, typer.Option(help="Hyper-parameter preset: default, demo (minutes) or tiny (for tests).")]
Pretrained = Annotated[
    str | None,
    typer.Option(help="Pretrained backbone: musicnn or musicnn-mtt; weights come from PyPI.", show_default=False),
]
Devices = Annotated[int, typer.Option(min=1, help="Maximum number of GPUs to train on. Ignored without GPUs.")]
MaxEpochs = Annotated[int | None, typer.Option(min=1, help="Maximum number of epochs.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Replace a hyper-parameter; repeatable.", show_default=False),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Hyper-parameters in YAML or TOML; --set replaces them.", show_default=False
    ),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the hyper-parameters as YAML, and do not train.")
]
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
RefitOnAll = Annotated[
    bool | None,
    typer.Option(
        "--refit-on-all/--no-refit-on-all",
        help="After model selection on held-out listens, train the served model on all listens. Default: yes for "
        "taste_sequence and for logs with an order but no times, else no.",
        show_default=False,
    ),
]
Mlflow = Annotated[
    str | None,
    typer.Option(
        help="URI of an MLflow tracking server or store to log to. Default: MLFLOW_TRACKING_URI.", show_default=False
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(help="Execution engine of the fit: local, ray or spark. Default: local.", show_default=False),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of parallel workers of --engine. Default: 1 (local), or the CPUs that the cluster offers.",
        show_default=False,
    ),
]
EngineAddress = Annotated[
    str | None,
    typer.Option(
        help="Address of an existing cluster: auto, HOST:PORT or ray://HOST:PORT (ray); spark://HOST:PORT, yarn or "
        "k8s://https://HOST:PORT (spark). Default: start one on this computer.",
        show_default=False,
    ),
]
Read = Annotated[
    str | None,
    typer.Option(
        help="Where the listening log is read: driver (this process) or workers (of --engine). Default: workers of ray "
        "and spark, if the log has 5 million rows or more in Parquet files; else driver.",
        show_default=False,
    ),
]
TasteVae = Annotated[
    Path | None,
    typer.Option(
        help="Checkpoint of taste_vae, trained on the same log, for the recommender. Default: train one with it.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")]
Checkpoint = Annotated[Path, typer.Option(help="Checkpoint folder written by `tritone train`.", show_default=False)]
Report = Annotated[
    Path | None, typer.Option(help="Folder to write plots and a table of predictions to.", show_default=False)
]
TrainReport = Annotated[
    Path | None,
    typer.Option("--report", help="Folder to write plots of validation metrics to.", show_default=False),
]

# --- listening logs ------------------------------------------------------------------------------
Interactions = Annotated[
    Path | None,
    typer.Option(
        help="Listening log: CSV, Parquet, JSON or Excel file, folder of parts, quoted glob, s3:// or gs:// URL. "
        "Default: simulated listening.",
        show_default=False,
    ),
]
Valid = Annotated[
    Path | None,
    typer.Option(help="Listening log for validation. Default: a random part of the log.", show_default=False),
]
Baselines = Annotated[
    bool | None,
    typer.Option("--baselines", help="Evaluate baselines on the same data too.", show_default=False),
]
Test = Annotated[Path | None, typer.Option(help="Listening log for testing.", show_default=False)]
Friends = Annotated[Path | None, typer.Option(help="Table of pairs of users.", show_default=False)]
ItemTags = Annotated[
    Path | None,
    typer.Option(help="Table of items and tags, optionally with the users who gave them.", show_default=False),
]
TagNames = Annotated[Path | None, typer.Option(help="Table of tag ids and their names.", show_default=False)]
Metadata = Annotated[
    Path | None, typer.Option(help="Table with one row per item: title, artist and other text.", show_default=False)
]
Recordings = Annotated[
    Path | None, typer.Option(help="Folder with a recording of each item, named by the item's id.", show_default=False)
]
GenreCheckpoint = Annotated[
    Path | None, typer.Option(help="Checkpoint of genre_cnn that embeds the recordings.", show_default=False)
]
Key = Annotated[
    Path | None,
    typer.Option(
        help="File with the key for pseudonyms of users. Default: created in the checkpoint's folder.",
        show_default=False,
    ),
]
UserColumn = Annotated[str | None, typer.Option(help="Name of the log's column of user ids.", show_default=False)]
ItemColumn = Annotated[str | None, typer.Option(help="Name of the log's column of item ids.", show_default=False)]
PlaysColumn = Annotated[
    str | None, typer.Option(help="Name of the log's column of play counts; optional.", show_default=False)
]
RatingColumn = Annotated[
    str | None, typer.Option(help="Name of the log's column of ratings, instead of play counts.", show_default=False)
]
TimeColumn = Annotated[
    str | None, typer.Option(help="Name of the log's column of times; optional.", show_default=False)
]
SkippedColumn = Annotated[
    str | None,
    typer.Option(help="Name of the log's column of skips and dislikes (0 or 1); optional.", show_default=False),
]
FriendColumn = Annotated[str | None, typer.Option(help="Name of the second column of --friends.", show_default=False)]
TagColumn = Annotated[str | None, typer.Option(help="Name of the column of tags in --item-tags.", show_default=False)]

# --- calling a server ----------------------------------------------------------------------------
# Environment variables are part of the help texts: Typer's own column for them is cut in narrow terminals.
Server = Annotated[
    str,
    typer.Option(
        envvar="TRITONE_SERVER",
        show_envvar=False,
        help="Server address: host:port (gRPC), or grpc(s):// or http(s)://host:port. Separate several replicas by "
        "commas. Environment variable: TRITONE_SERVER.",
    ),
]
LiveServer = Annotated[
    str,
    typer.Option(
        envvar="TRITONE_SERVER",
        show_envvar=False,
        help="Server address: host:port (gRPC) or http://host:port. If the ports are not adjacent (8000, 8001), give "
        "both addresses, separated by a comma. Environment variable: TRITONE_SERVER.",
    ),
]
OptionalServer = Annotated[
    str | None,
    typer.Option(
        envvar="TRITONE_SERVER",
        show_envvar=False,
        help="Address of a running server: host:port (gRPC) or http://host:port. If the ports are not adjacent (8000, "
        "8001), give both addresses, separated by a comma. Environment variable: TRITONE_SERVER.",
        show_default=False,
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the server's API key. Default: the key in TRITONE_API_KEY, if set.", show_default=False
    ),
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
CaFile = Annotated[
    Path | None, typer.Option(help="PEM file with the certificate authorities to trust, for TLS.", show_default=False)
]
MaxSlowdown = Annotated[
    float,
    typer.Option(min=0.01, help="Maximum latency of a new version, as a multiple of the live one's (plus 5 ms)."),
]
Timeout = Annotated[float, typer.Option(min=0.001, help="Time limit of the whole call in seconds, retries included.")]
Model = Annotated[str, typer.Option(help="Name of the model.")]

# --- listening for callers ------------------------------------------------------------------------
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 accepts connections from other machines.")]
TlsKey = Annotated[
    Path | None, typer.Option(help="PEM file with the private key of the certificate.", show_default=False)
]
TlsClientCa = Annotated[
    Path | None,
    typer.Option(help="PEM file with the certificate authority of callers; enables mutual TLS.", show_default=False),
]
OtlpUrl = Annotated[
    str | None,
    typer.Option(
        help="OpenTelemetry collector for traces, such as http://localhost:4318/v1/traces.", show_default=False
    ),
]

# --- changing a server or its repository ----------------------------------------------------------
Servers = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        envvar="TRITONE_SERVER",
        show_envvar=False,
        help="Address of a running server to publish to: host:port (gRPC) or http://host:port; repeat the option "
        "for replicas that share the repository. Environment variable: TRITONE_SERVER.",
        show_default=False,
    ),
]
Repository = Annotated[Path, typer.Option(help="Folder of the model repository.")]
AdminTokenFile = Annotated[
    Path | None,
    typer.Option(help="File with the admin token. Default: where `tritone serve` stored it.", show_default=False),
]
Force = Annotated[
    bool, typer.Option("--force", help="Go live even if the recommender's items were embedded by another genre_cnn.")
]

# --- generated music ------------------------------------------------------------------------------
Out = Annotated[
    list[Path] | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="Output file; the suffix selects the format: .mid, .wav, .png, .svg or .pdf; repeatable. "
        "Default: COMMAND-SEED.mid in this folder; with --json, none.",
        show_default=False,
    ),
]
PieceSeed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        max=2**63 - 1,
        help="Random seed. If omitted, one is drawn and printed.",
        show_default=False,
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        help="Sampling temperature: below 1 is more conservative, above 1 more random. Default: that of the model.",
        show_default=False,
    ),
]
TopK = Annotated[int | None, typer.Option("--top-k", help="Sample from the K most likely notes only.", metavar="K")]
TopP = Annotated[
    float | None,
    typer.Option(
        "--top-p",
        help="Sample from the most likely notes whose probabilities add up to P.",
        metavar="P",
        show_default=False,
    ),
]
Style = Annotated[str | None, typer.Option(help="One of the model's styles, such as bach.", show_default=False)]
Tempo = Annotated[
    float | None,
    typer.Option(
        "--tempo", help="Tempo in quarters per minute. Default: that of the score, or 120.", show_default=False
    ),
]
Instruments = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="General MIDI instruments, or programs from 0 to 127, separated by commas: one, or up to four for the "
        "parts from the highest down, such as violin,cello. Default: those of the style, or piano.",
        show_default=False,
    ),
]


# --- gateway ---------------------------------------------------------------------------------------
TrackRecordings = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Folder with recordings or MIDI files of the tracks, named by track id, for playback in the studio.",
        show_default=False,
    ),
]
ExampleUsers = Annotated[
    list[str] | None,
    typer.Option(
        "--example-user",
        metavar="ID",
        help="Id of a stored user that is shown to callers as an example, for the studio; repeatable. Default: none.",
        show_default=False,
    ),
]

# --- recommendation -------------------------------------------------------------------------------
Mood = Annotated[
    str | None,
    typer.Option(
        help="Mood: one of the nine emotions, or several with strengths from 0 to 1, such as calmness=1,sadness=0.3.",
        show_default=False,
    ),
]
TrackCount = Annotated[int, typer.Option("--n", "-n", help="Number of tracks, 1 to 10000.")]


_EXPLICIT: Final = frozenset({"COMMANDLINE", "ENVIRONMENT"})  # sources of parameters that a user gave
_CONSTANTS: Final = {"true": "True", "false": "False", "null": "None"}


def parse_settings(settings: Sequence[str] | None, config: Path | None = None) -> Mapping[str, Any]:
    """Parse the values of `--set`, after those of `--config FILE`: `["width=32"]` -> `{"width": 32}`.

    Values are numbers, `true`, `false`, `null`, words, or Python lists and dicts such as `{'jazz': 2}`; each kind
    validates its own.

    Raises:
        typer.BadParameter: a value is not NAME=VALUE.
        TrainingError: the file cannot be read.
    """
    parsed: dict[str, Any] = {}
    if config is not None:
        from tritone_training.hyperparameters import read_config

        parsed |= read_config(config)
    for setting in settings or ():
        name, separator, text = setting.partition("=")
        try:
            value = ast.literal_eval(_CONSTANTS.get(text, text))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last ones for deep nesting
            value = text
            is_valid = text.replace("-", "_").isidentifier()
        else:
            is_valid = value is None or isinstance(value, bool | int | float | str | list | dict)
        if not name.strip() or not separator or not is_valid:
            raise typer.BadParameter(f"--set {setting!r}: expected NAME=VALUE, for example --set width=32")
        parsed[name.strip()] = value
    return parsed


def parse_mood(text: str | None) -> str | dict[str, float] | None:
    """Parse the value of `--mood`: `"calmness"`, or `"calmness=1,sadness=0.3"`; the client checks names and strengths.

    Raises:
        typer.BadParameter: a strength is not a number.
    """
    if text is None or "=" not in text:
        return text
    strengths = {}
    for part in text.split(","):
        name, _, strength = part.partition("=")
        try:
            strengths[name.strip()] = float(strength)
        except ValueError:
            raise typer.BadParameter(
                f"--mood {text!r}: expected an emotion, or EMOTION=STRENGTH separated by commas, such as "
                f"calmness=1,sadness=0.3"
            ) from None
    return strengths


def parse_instruments(names: str | None) -> list[str | int] | None:
    """Parse the value of `--instruments`: `"violin,32"` -> `["violin", "32"]`; the client checks the names."""
    return None if names is None else [name.strip() for name in names.split(",")]


def require_supported(context: typer.Context, kind_name: str) -> None:
    """Check that a kind supports all given options.

    Raises:
        UnknownKindError: there is no such kind.
        typer.BadParameter: the kind would ignore one of the options.
    """
    from tritone_training.registry import get_kind, kind_names

    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params if parameter.name}
    given = [each.name for each in context.command.params if each.name and _is_given(context, each.name, each.default)]
    kind = get_kind(kind_name)
    foreign = kind.options_not_taken(given)
    if not foreign:
        return
    supporting = [name for name in kind_names() if not get_kind(name).options_not_taken(foreign)]
    supported = ", ".join(flag for name, flag in flags.items() if name in kind.options)
    raise typer.BadParameter(
        f"{kind_name} does not support {' and '.join(flags[name] for name in foreign)}: expected, of the options that "
        f"depend on the kind, {supported or 'none'}; remove {'it' if len(foreign) == 1 else 'them'}"
        + (f" (supported by {' and '.join(supporting)})" if supporting else ""),
        param_hint=flags[foreign[0]],
    )


def _is_given(context: typer.Context, name: str, default: object) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name in _EXPLICIT and context.params.get(name) != default


def require_unused(folder: Path | None, *, overwrite: bool, option: str) -> None:
    """Check that a folder for results is new or empty, unless its files may be replaced.

    Raises:
        typer.BadParameter: the path is a file, or a folder that is not empty and may not be overwritten.
    """
    if folder is None or not folder.exists():
        return
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder}: expected a folder, got a file", param_hint=option)
    if not overwrite and any(folder.iterdir()):
        raise typer.BadParameter(
            f"{folder}: expected a new or empty folder, got one with files; give another folder, or replace the files "
            f"with --overwrite",
            param_hint=option,
        )


def command_line(argv: Sequence[str]) -> str:
    """Return the command as the user typed it, for the model card."""
    typed = shlex.join(["tritone", *argv[1:]])
    return typed.encode("utf-8", "backslashreplace").decode("utf-8")  # a path may contain bytes that are not UTF-8


def listening_files(given: Mapping[str, Any]) -> ListeningFiles:
    """Return a command's options about a listening log.

    Args:
        given: the command's parameters; those with the name of a field are used.
    """
    from tritone_training import ListeningFiles

    return ListeningFiles(**{each.name: given[each.name] for each in fields(ListeningFiles) if each.name in given})


def request_data(given: Mapping[str, Any]) -> Path | ListeningFiles | None:
    """Return the data of a request: --data, with the options about a listening log if there are any.

    Args:
        given: the command's parameters.

    Raises:
        DataError: both --data and --interactions are given.
    """
    from tritone_training.data.interactions import join_data

    return join_data(given["data"], listening_files(given))


def parse_pair(text: str, separator: str, option: str, example: str) -> tuple[int, int]:
    """Parse two integers: `"3/4"` -> `(3, 4)`.

    Raises:
        typer.BadParameter: the text is not two integers.
    """
    try:
        first, second = (int(part) for part in text.split(separator))
    except ValueError as error:
        raise typer.BadParameter(f"expected two integers such as {example}, got {text!r}", param_hint=option) from error
    return first, second
