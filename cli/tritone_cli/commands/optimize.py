"""`tritone optimize`: how to serve a model on this machine, found by trying."""

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
    from tritone_cli.optimizing.search import Found


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(optimize)


def optimize(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_default=False)],
    *,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="The load: so many clients that wait.")] = 8,
    latency_ms: Annotated[
        float | None, typer.Option(min=0.001, help="p99 that the best has to keep under that load.", show_default=False)
    ] = None,
    grpc: Annotated[bool, typer.Option("--grpc/--http", help="What the clients speak.")] = True,
    rounds: Annotated[int, typer.Option(min=2, help="How often each setting is measured, in turns.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.2, max=3600, help="Of each measurement.")] = 2.0,
    minutes: Annotated[float, typer.Option(min=0.1, help="After these, no stage begins another round.")] = 10.0,
    instances: Annotated[str | None, typer.Option(help="To try: 2,3. Default: by the cores.")] = None,
    threads: Annotated[
        str | None, typer.Option(help="To try, of each instance; 0 shares all cores.  [default: 0,1]")
    ] = None,
    batches: Annotated[
        str | None, typer.Option(help="Preferred batch sizes to try.  [default: none;4,8;8,16,32]")
    ] = None,
    delays: Annotated[
        str | None, typer.Option(help="Microseconds to wait for them, to try.  [default: 0,500,2000]")
    ] = None,
    repository: Annotated[Path, typer.Option(help="Folder of models.")] = Path("model_repository"),
    input_data: Annotated[
        Path | None, typer.Option(help="Questions as perf_analyzer's JSON; default: drawn from the declaration.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and show, but write nothing.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Serve as declared again, and measure nothing.")] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for Markdown and a picture.")] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Find how many instances and threads, which batches and delay carry most on this CPU within a latency bound.

    What wins clearly is written into MODEL's serving.json, which exports and publications go by from then on, and into
    its config.pbtxt; a running server takes it up when it loads the model again. Else all stays as it is. The exit
    status is 1 if nothing keeps the bound.
    """
    from tritone_export.repository import check_model_name

    check_model_name(model)
    folder = repository / model
    if reset:
        _reset(folder, as_json)
        return
    options.require_unused(report, overwrite=overwrite, option="--report")
    if report is not None:
        import matplotlib  # noqa: F401  - before the minutes of measuring, not after
    from tritone_cli.optimizing import report as reporting
    from tritone_export.tuned import tune

    spoken = {"instances": instances, "threads": threads, "batches": batches, "delays": delays}
    facts = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "tritone": importlib.metadata.version("tritone"),
        "cores": len(os.sched_getaffinity(0)),
        "load": f"{concurrency} at once over {'gRPC' if grpc else 'HTTP'}, perf_analyzer on the same cores",
        "latency_ms_bound": latency_ms,
        "rounds": rounds,
        "seconds": seconds,
    }
    found = _search(
        folder,
        spoken,
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
    _tell(found, folder, written, facts, dry_run=dry_run, as_json=as_json)
    if not found.is_within:
        raise typer.Exit(1)


def _search(
    folder: Path,
    spoken: dict[str, str | None],
    *,
    concurrency: int,
    latency_ms: float | None,
    grpc: bool,
    rounds: int,
    seconds: float,
    minutes: float,
    data: Path | None,
) -> Found:
    from tritone_cli.optimizing.search import Effort, search
    from tritone_cli.optimizing.space import space_for
    from tritone_cli.optimizing.turns import taking_turns
    from tritone_export import RepositoryError
    from tritone_export.config import parse_config
    from tritone_export.tuned import read_tuned, setting_of
    from tritone_serving.perf_analyzer import Load, PerfAnalyzer, check_data
    from tritone_serving.repository.folders import servable_models

    servable_models(folder.parent, (folder.name,))
    try:
        config = parse_config((folder / "config.pbtxt").read_bytes(), folder / "config.pbtxt")
    except FileNotFoundError as error:
        raise RepositoryError(f"{folder} holds no config.pbtxt; write it, or export again") from error
    config.name = folder.name
    in_force = setting_of(config)
    declared = (read_tuned(folder) or {}).get("declared")
    space = space_for(config, in_force, spoken)
    if data is not None:
        check_data(data)
    with tempfile.TemporaryDirectory(prefix="tritone-optimize-") as temporary:
        place = Path(temporary)
        tool = PerfAnalyzer.find(place)
        turn = taking_turns(
            tool,
            folder.parent,
            config,
            folder=place,
            load=Load(concurrency=concurrency),
            protocol="grpc" if grpc else "http",
            seconds=seconds,
            data=data,
        )
        with console.people.status(folder.name) as status:
            return search(
                space,
                in_force,
                turn,
                declared=declared,
                bound_ms=latency_ms,
                effort=Effort(rounds=rounds, limit_s=60 * minutes),
                on_step=status.update,
            )


def _tell(
    found: Found, folder: Path, written: list[Path], facts: dict[str, Any], *, dry_run: bool, as_json: bool
) -> None:
    from tritone_cli.optimizing import report as reporting

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
        console.say(f"  no figure: {problem}")
    console.say(found.why)
    for path in written:
        console.say(f"written: {path}")
    if not found.changes:
        console.say(f"{folder.name} stays as it is: {found.in_force}")
    elif dry_run:
        console.say("nothing was changed (--dry-run)")
    else:
        console.say(
            f"a running server takes it up when it loads {folder.name} again; back: tritone optimize {folder.name} "
            f"--repository {folder.parent} --reset"
        )


def _reset(folder: Path, as_json: bool) -> None:
    from tritone_export.tuned import TUNED_FILENAME, reset

    there = (folder / TUNED_FILENAME).exists()
    written = reset(folder) if there else []
    if as_json:
        console.print_json({"model": folder.name, "reset": there, "written": [str(path) for path in written]})
        return
    if not there:
        console.say(f"{folder.name} has no {TUNED_FILENAME}: it is served as it is declared")
        return
    console.say(f"{folder.name}: removed {TUNED_FILENAME}")
    for path in written:
        console.say(f"wrote {path}")
    if not written:
        console.say("the configs are left as they are; `tritone export KIND --configs-only` writes what is declared")
