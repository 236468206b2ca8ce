"""`tritone batch`: run a model on every file of a folder, manifest or bucket."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_type_hints

import typer

from tritone_cli import connections, console, options

if TYPE_CHECKING:
    from tritone.batch import BatchProgress, BatchSummary

_LINE_INTERVAL_S: Final = 10.0
_NICENESS: Final = 10
# Parameters of mallopt(3), and their values: larger buffers, and more freed memory of a thread, are unmapped at once.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_REUSED_BYTES: Final = 1 << 25
_KEPT_BYTES: Final = 1 << 26
ALL_FAILED: Final = 3  # exit status of a job in which every file has an error
Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder, glob, file or manifest (.txt with a path per line, .csv with a column `path`); local, s3:// or gs://.",
        show_default=False,
    ),
]
Servers = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        envvar="TRITONE_SERVER",
        show_envvar=False,
        help="Server address, as for the other commands; repeat the option for several servers of the same models. "
        "Default: localhost:8001. Environment variable: TRITONE_SERVER.",
        show_default=False,
    ),
]
Out = Annotated[
    str,
    typer.Option(
        help="Path pattern of the Parquet files, with one number, such as 'DIR/part-%05d.parquet'; local, s3:// or gs://.",
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue an earlier job with the same `--out`; start a new one if there is none."),
]
Shard = Annotated[str, typer.Option(metavar="K/N", help="Process shard K of N (1 <= K <= N).")]
RowsPerPart = Annotated[int, typer.Option(min=1, help="Maximum number of rows in a part.")]
PartSeconds = Annotated[
    float,
    typer.Option(
        min=0.1,
        help="Longest time between two parts in seconds. A killed job loses at most the work since the last part.",
    ),
]
Concurrency = Annotated[
    int,
    typer.Option(
        min=1,
        max=256,
        help="Maximum number of concurrent requests; the job uses fewer if more would not be faster.",
    ),
]
Priority = Annotated[
    Literal["batch", "interactive"],
    typer.Option(
        help="Request priority in the server's queue. Requests of priority `batch` run after all waiting `interactive` "
        "ones."
    ),
]
YieldToOthers = Annotated[
    bool,
    typer.Option(
        "--yield/--no-yield",
        help="Send one request at a time while other clients use the model. `--no-yield` for several jobs on one "
        "server, which would yield to each other, and for a load balancer. Jobs with shards or several servers never "
        "yield.",
    ),
]
Model = Annotated[
    str | None, typer.Option(help="Name of the model. Default: that of the operation.", show_default=False)
]
Timeout = Annotated[
    float,
    typer.Option(min=0.001, help="Time limit of one call in seconds. A file is called up to three times."),
]
OutageTimeout = Annotated[
    float,
    typer.Option(min=0.1, help="Stop the job after this many seconds without a successful call or read."),
]
MaxDuration = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="Maximum length of a recording in seconds; 0 for no limit. Longer ones get an error row (`too_long`).",
    ),
]
Bars = Annotated[int, typer.Option(min=1, max=256, help="Number of new bars.")]


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options of all commands, in the order of the help; `bars` and `max_duration` are those of some commands only."""

    source: Source
    out: Out
    bars: Bars = 8
    server: Servers = None
    resume: Resume = False
    shard: Shard = "1/1"
    rows_per_part: RowsPerPart = 10_000
    part_seconds: PartSeconds = 60.0
    concurrency: Concurrency = 8
    priority: Priority = "batch"
    yield_to_others: YieldToOthers = True
    model: Model = None
    max_duration: MaxDuration = 14_400.0
    timeout: Timeout = 600.0
    outage_timeout: OutageTimeout = 600.0
    api_key_file: options.ApiKeyFile = None
    ca_file: options.CaFile = None
    as_json: options.Json = False


@dataclass(frozen=True)
class JobCommand:
    """A command of `tritone batch`: its name, its help, and the options that not all commands have."""

    operation: str
    help: str
    own_options: tuple[str, ...] = ()


COMMANDS: Final = (
    JobCommand(
        "classify",
        """Classify recordings: genre, emotions and tags of each, as a row of a Parquet part.

        A file that cannot be used gets a row with an error. The exit status is 0 if at least one file succeeded, 3 if
        all files have errors, and 1 if the job stopped before its end, for example because no server could be reached;
        `--resume` continues it.
        """,
        own_options=("max_duration",),
    ),
    JobCommand(
        "embed",
        "Embed recordings: the embedding of each, as a row of a Parquet part; errors as for `batch classify`.",
        own_options=("max_duration",),
    ),
    JobCommand(
        "predict",
        "Compute the mean negative log-likelihood per time step of each score; errors as for `batch classify`.",
    ),
    JobCommand(
        "compose",
        """Continue scores: new bars after each, as MIDI in a row of a Parquet part; errors as for `batch classify`.

        The seed of each piece depends on the path, so a repeated job composes the same pieces.
        """,
        own_options=("bars",),
    ),
    JobCommand(
        "reconstruct",
        "Encode scores and decode them again, as MIDI in a row of a Parquet part; errors as for `batch classify`.",
    ),
)
_SHARED_OPTIONS: Final = {each.name for each in fields(JobOptions)} - {
    name for command in COMMANDS for name in command.own_options
}


def build_batch_app(new_app: Any) -> typer.Typer:
    """Return the app of `tritone batch`."""
    app: typer.Typer = new_app(help_text="Run a model on every file of a folder, manifest or bucket.")
    for command in COMMANDS:
        app.command(command.operation, help=command.help)(function_of(command))
    return app


def function_of(command: JobCommand) -> Callable[..., None]:
    """Return the function of a command, with the signature that Typer needs."""
    hints = get_type_hints(JobOptions, include_extras=True)
    given = [each for each in fields(JobOptions) if each.name in _SHARED_OPTIONS or each.name in command.own_options]

    def run(**arguments: Any) -> None:
        _run(command, JobOptions(**arguments))

    run.__annotations__ = {each.name: hints[each.name] for each in given}
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if each.default is MISSING else each.default,
                annotation=hints[each.name],
            )
            for each in given
        ]
    )
    return run


def _run(command: JobCommand, given: JobOptions) -> None:
    from tritone.batch import BatchOptions, run_batch

    chosen = BatchOptions(
        source=given.source,
        out=given.out,
        operation=command.operation,
        model=given.model,
        arguments={"bars": given.bars} if "bars" in command.own_options else {},
        shard=options.parse_pair(given.shard, "/", "--shard", "2/8"),
        resume=given.resume,
        rows_per_part=given.rows_per_part,
        part_s=given.part_seconds,
        concurrency=given.concurrency,
        priority=given.priority,
        yield_to_others=given.yield_to_others,
        timeout_s=given.timeout,
        outage_timeout_s=given.outage_timeout,
        max_duration_s=given.max_duration or None,
    )
    server = ",".join(given.server or ("localhost:8001",))
    if chosen.priority == "batch":
        _lower_cpu_priority()
    _keep_freed_memory()
    with (
        _without_audio_warnings(),
        connections.connect(server, given.timeout, given.api_key_file, given.ca_file) as music,
        _stop_on_signals() as signals,
        _progress(f"batch {command.operation}", as_json=given.as_json) as on_progress,
    ):
        summary = run_batch(music, chosen, stop=signals.stop, on_progress=on_progress)
    if given.as_json:
        console.print_json(summary.to_dict())
    else:
        _print_summary(summary)
    if not summary.complete:
        if not given.as_json:
            console.say("interrupted: run the same command with --resume to continue")
        raise typer.Exit(128 + (signals.number or signal.SIGTERM))
    if summary.all_failed:
        if not given.as_json:
            console.say("every file has an error: check the model and the options (column `error` of the parts)")
        raise typer.Exit(ALL_FAILED)


@contextlib.contextmanager
def _without_audio_warnings() -> Iterator[None]:
    """Log no warnings about recordings, which are in the column `notes`."""
    logger = logging.getLogger("tritone.audio")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _keep_freed_memory() -> None:
    """Let the C library reuse freed memory instead of returning it to the kernel, up to a limit.

    A job allocates and frees buffers of the size of its requests all the time. By default, glibc unmaps most of them,
    and the page faults of the next ones take a third of the job's CPU time.
    """
    if platform.libc_ver()[0] == "glibc":
        c_library = ctypes.CDLL(None)
        c_library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_REUSED_BYTES)
        c_library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _lower_cpu_priority() -> None:
    """Set the niceness of this process to 10, so that a server on this machine gets the CPU first."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


def _print_summary(summary: BatchSummary) -> None:
    n_errors = sum(summary.errors.values())
    parts = f"{summary.n_parts:,} {'part' if summary.n_parts == 1 else 'parts'}"
    console.say(
        f"{summary.n_done:,} of {summary.n_files:,} files done, {n_errors:,} with errors; this run: {summary.n_new:,} "
        f"files in {summary.elapsed_s:.1f} s, {summary.files_per_s:.1f} files/s, {parts}"
        + (f", {summary.hours_done:.2f} h of audio" if summary.hours_done else "")
    )
    for kind, n in summary.errors.items():
        console.say(f"  {n:,} {kind.replace('_', ' ')}")


class _Signals:
    """The signal that stopped the process, if one did."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.number: int | None = None


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[_Signals]:
    """Yield an event that SIGINT and SIGTERM set; a second signal ends the process at once."""
    signals = _Signals()

    def handle(number: int, _frame: Any) -> None:
        if signals.number is not None:
            raise KeyboardInterrupt
        signals.number = number
        signals.stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _progress(what: str, *, as_json: bool) -> Iterator[Callable[[BatchProgress], None] | None]:
    """Yield a function that shows the progress on stderr: a bar on a terminal, a line every ten seconds in logs."""
    if not console.shows_progress(as_json=as_json):
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    if not console.people.is_terminal:
        shown_s = 0.0

        def show_line(progress: BatchProgress) -> None:
            nonlocal shown_s
            if time.monotonic() - shown_s >= _LINE_INTERVAL_S:
                shown_s = time.monotonic()
                console.say(f"{what}: {progress.n_done:,} of {progress.n_files:,} files, {_describe(progress)}")

        yield show_line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"))
    with Progress(*columns, console=console.people, transient=True) as bar:
        task = bar.add_task(what, total=None, detail="")
        yield lambda progress: bar.update(
            task, completed=progress.n_done, total=progress.n_files, detail=_describe(progress)
        )


def _describe(progress: BatchProgress) -> str:
    parts = [f"{progress.files_per_s:.1f} files/s"]
    if progress.hours_done:
        parts.append(f"{progress.hours_done:.2f} h of audio")
    if progress.n_errors:
        parts.append(f"{progress.n_errors:,} errors")
    if progress.left_s is not None:
        parts.append(f"{_duration(progress.left_s)} left")
    if progress.waiting_for is not None:
        parts.append(f"waiting: {progress.waiting_for}")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
