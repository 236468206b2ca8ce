"""`tritone optimize`: search for the best serving settings of a model on this machine."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritone_cli import console, options

if TYPE_CHECKING:
    from tritone_cli.optimize.search import SearchResult


def optimize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.", show_default=False)],
    *,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Number of concurrent clients.")] = 8,
    latency_ms: Annotated[
        float | None,
        typer.Option(min=0.001, help="Maximum p99 latency in milliseconds under that load.", show_default=False),
    ] = None,
    grpc: Annotated[bool, typer.Option("--grpc/--http", help="Protocol of the clients.")] = True,
    rounds: Annotated[
        int, typer.Option(min=2, help="Number of measurements of each setting, interleaved with the other settings.")
    ] = 3,
    seconds: Annotated[float, typer.Option(min=0.2, max=3600, help="Length of each measurement in seconds.")] = 2.0,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Time limit in minutes; a round that has started is completed.")
    ] = 10.0,
    instances: Annotated[
        str | None,
        typer.Option(
            help="Numbers of instances to try, such as 2,3. Default: chosen by the number of cores.", show_default=False
        ),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            help="Numbers of threads per instance to try; 0 shares all cores. Default: 0,1.", show_default=False
        ),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(
            help="Sets of preferred batch sizes to try, separated by semicolons. Default: none;4,8;8,16,32.",
            show_default=False,
        ),
    ] = None,
    delays: Annotated[
        str | None, typer.Option(help="Queue delays in microseconds to try. Default: 0,500,2000.", show_default=False)
    ] = None,
    repository: options.Repository = Path("model_repository"),
    input_data: Annotated[
        Path | None,
        typer.Option(
            help="File with requests in perf_analyzer's JSON format. Default: drawn from the model's declaration.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and print, but change nothing.")] = False,
    reset: Annotated[
        bool, typer.Option("--reset", help="Return to the declared settings, without a measurement.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Folder to write a Markdown report and a plot to.", show_default=False)
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Search for the instances, threads, batch sizes and queue delay with the highest throughput on this CPU.

    A clear winner is written to MODEL's serving.json, which later exports and publications use, and to its
    config.pbtxt; a running server uses it when it loads the model again. Otherwise nothing changes. The exit status is
    1 if no setting has a p99 latency within --latency-ms.
    """
    from tritone.arguments import check_model_name

    check_model_name(model)
    folder = repository / model
    if reset:
        _reset(folder, as_json)
        return
    options.require_unused(report, overwrite=overwrite, option="--report")
    if report is not None:
        import matplotlib  # noqa: F401  - a missing extra is reported before the measurement, not after it
    from tritone_cli.optimize import report as reporting
    from tritone_export.tuned import tune

    given = {"instances": instances, "threads": threads, "batches": batches, "delays": delays}
    facts = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "tritone": importlib.metadata.version("tritone"),
        "cores": len(os.sched_getaffinity(0)),
        "load": f"{concurrency} concurrent requests over {'gRPC' if grpc else 'HTTP'}, perf_analyzer on the same cores",
        "latency_ms_bound": latency_ms,
        "rounds": rounds,
        "seconds": seconds,
    }
    found = _search(
        folder,
        given,
        concurrency=concurrency,
        latency_ms=latency_ms,
        grpc=grpc,
        rounds=rounds,
        seconds=seconds,
        minutes=minutes,
        data=input_data,
    )
    written: list[Path] = []
    if found.changes and not dry_run:
        written += tune(folder, found.best, measured=reporting.measured(found, facts))
    if report is not None:
        written += reporting.write(found, model, report, facts=facts)
    _print_result(found, folder, written, facts, dry_run=dry_run, as_json=as_json)
    if not found.is_within:
        raise typer.Exit(1)


def _search(
    folder: Path,
    given: dict[str, str | None],
    *,
    concurrency: int,
    latency_ms: float | None,
    grpc: bool,
    rounds: int,
    seconds: float,
    minutes: float,
    data: Path | None,
) -> SearchResult:
    from tritone_cli.optimize.search import SearchLimits, search
    from tritone_cli.optimize.space import search_space
    from tritone_cli.optimize.trials import setting_measurer
    from tritone_export import RepositoryError
    from tritone_export.config import parse_config
    from tritone_export.tuned import read_tuned, setting_of
    from tritone_serving.perf_analyzer import Load, PerfAnalyzer, check_data
    from tritone_serving.repository import servable_models

    servable_models(folder.parent, (folder.name,))
    try:
        config = parse_config((folder / "config.pbtxt").read_bytes(), folder / "config.pbtxt")
    except FileNotFoundError as error:
        raise RepositoryError(f"{folder}: expected config.pbtxt, got none; export the model again") from error
    config.name = folder.name
    in_force = setting_of(config)
    declared = (read_tuned(folder) or {}).get("declared")
    space = search_space(config, in_force, given)
    if data is not None:
        check_data(data)
    with tempfile.TemporaryDirectory(prefix="tritone-optimize-") as temporary:
        working = Path(temporary)
        tool = PerfAnalyzer.find(working)
        measure = setting_measurer(
            tool,
            folder.parent,
            config,
            folder=working,
            load=Load(concurrency=concurrency),
            protocol="grpc" if grpc else "http",
            seconds=seconds,
            data=data,
        )
        with console.people.status(folder.name) as status:
            return search(
                space,
                in_force,
                measure,
                declared=declared,
                bound_ms=latency_ms,
                effort=SearchLimits(rounds=rounds, limit_s=60 * minutes),
                on_step=status.update,
            )


def _print_result(
    found: SearchResult, folder: Path, written: list[Path], facts: dict[str, Any], *, dry_run: bool, as_json: bool
) -> None:
    from tritone_cli.optimize import report as reporting

    if as_json:
        console.print_json(
            {
                "model": folder.name,
                "changed": found.changes and not dry_run,
                "in_force": found.in_force.as_json(),
                "best": found.best.as_json(),
                "within_bound": found.is_within,
                **reporting.measured(found, facts),
                "written": [str(path) for path in written],
            }
        )
        return
    for stage, rows in reporting.tables(found).items():
        console.print_rows(f"{folder.name}: {stage}", rows, n_keys=4)
    for problem in dict.fromkeys(f"{trial.setting}: {trial.problem}" for trial in found.trials if trial.problem):
        console.say(f"  not measured: {problem}")
    console.say(found.why)
    for path in written:
        console.say(f"written: {path}")
    if not found.changes:
        console.say(f"{folder.name} is unchanged: {found.in_force}")
    elif dry_run:
        console.say("nothing was changed (--dry-run)")
    else:
        console.say(
            f"a running server uses this setting when it loads {folder.name} again; undo with: "
            f"tritone optimize {folder.name} --repository {folder.parent} --reset"
        )


def _reset(folder: Path, as_json: bool) -> None:
    from tritone_export.tuned import TUNED_FILENAME, reset

    exists = (folder / TUNED_FILENAME).exists()
    written = reset(folder) if exists else []
    if as_json:
        console.print_json({"model": folder.name, "reset": exists, "written": [str(path) for path in written]})
        return
    if not exists:
        console.say(f"{folder.name} has no {TUNED_FILENAME}: it already has the declared settings")
        return
    console.say(f"{folder.name}: removed {TUNED_FILENAME}")
    for path in written:
        console.say(f"wrote {path}")
    if not written:
        console.say("the configurations are unchanged; `tritone export KIND --configs-only` writes the declared ones")
