"""`tritone bench`: what serving each model costs, measured with NVIDIA's perf_analyzer."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritone_cli import console, options
from tritone_cli.addresses import both_addresses, require_grpc

if TYPE_CHECKING:
    from tritone_cli.benching.measuring import ModelResult, Where
    from tritone_serving.perf_analyzer import Protocol


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(bench)


def bench(
    *,
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Default: all that have a version.")
    ] = None,
    concurrency: Annotated[str, typer.Option(help="Closed loop: 8, 1,4,16, 1:32 (doubling) or 1:32:4.")] = "1:32",
    request_rate: Annotated[
        str, typer.Option(help="Open loop, Poisson: requests a second, or shares of capacity (50%,80%), or none.")
    ] = "70%",
    batch: Annotated[str, typer.Option(help="Inferences in each request, as a recording's windows: 1 or 1,8.")] = "1",
    grpc: Annotated[bool, typer.Option("--grpc", help="Over gRPC; the default. With --http: both.")] = False,
    http: Annotated[bool, typer.Option("--http", help="Over HTTP.")] = False,
    seconds: Annotated[
        float, typer.Option(min=0.2, max=3600, help="Of each measuring window; three in a row must agree.")
    ] = 5.0,
    stability: Annotated[float, typer.Option(min=1, max=100, help="Per cent by which they may differ.")] = 10.0,
    repository: Annotated[Path, typer.Option(help="Folder of models; served for the bench.")] = Path(
        "model_repository"
    ),
    server: options.OptionalServer = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="With the response cache, which answers for the model when asked again.")
    ] = False,
    ceiling: Annotated[bool, typer.Option(help="Measure ONNX Runtime in process, before and after.")] = True,
    input_data: Annotated[
        Path | None, typer.Option(help="Questions as perf_analyzer's JSON; default: drawn from the declaration.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for Markdown, CSV and pictures.")] = None,
    overwrite: options.Overwrite = False,
    table: Annotated[
        Path | None, typer.Option(help="Markdown file whose table between the bench's marks is replaced.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure throughput, latency and where the time goes. What cannot be measured stably has no figure."""
    options.require_unused(report, overwrite=overwrite, option="--report")
    from tritone_cli.benching import levels, summary
    from tritone_cli.benching import report as reporting
    from tritone_cli.benching.measuring import Plan, measure_model
    from tritone_serving.perf_analyzer import PerfAnalyzer, check_data

    protocols: list[Protocol] = ["grpc", "http"] if grpc and http else ["http" if http else "grpc"]
    try:
        plan = Plan(
            protocols=protocols,
            concurrencies=levels.concurrencies(concurrency),
            rates=levels.rates(request_rate),
            batches=levels.batches(batch),
            window_s=seconds,
            stability=stability / 100,
            data=input_data,
            with_ceiling=ceiling,
        )
    except levels.LevelError as error:
        raise typer.BadParameter(str(error)) from error
    if input_data is not None:
        check_data(input_data)
    if table is not None:
        summary.check(table)
    if report is not None:
        import matplotlib  # noqa: F401  - before the minutes of measuring, not after
    with tempfile.TemporaryDirectory(prefix="tritone-bench-") as temporary:
        folder = Path(temporary)
        tool = PerfAnalyzer.find(folder)
        results = []
        with _running(models, repository, server, cache, over_grpc="grpc" in protocols) as (where, names):
            for name in names:
                with console.people.status(name) as status:
                    results.append(measure_model(tool, where, name, plan, folder=folder, on_step=status.update))
                if not as_json:
                    _show(results[-1])
    facts = {
        "Command": f"`tritone {shlex.join(sys.argv[1:])}`",
        "Generator": f"perf_analyzer {tool.version}, on the same machine",
        "Windows": f"three of {seconds:g} s that agree within {stability:g} %",
    }
    written = reporting.write(results, report, facts=facts) if report is not None else []
    silent = [result.model for result in results if not any(row.reading for row in result.rows)]
    if table is not None and silent:
        console.say(f"{table} keeps its table, since {', '.join(silent)} would have no figure in it")
    elif table is not None:
        summary.replace(table, results, command=facts["Command"])
        written.append(table)
    for path in written:
        console.say(f"written: {path}")
    if as_json:
        console.print_json({**reporting.as_json(results), "written": [str(path) for path in written]})
    if silent:
        console.fail(
            f"no stable figure for {', '.join(silent)}; quieten the machine, or raise --seconds or --stability"
        )
        raise typer.Exit(1)


def _show(result: ModelResult) -> None:
    from tritone_cli.benching import report

    for title, rows in report.tables(result).items():
        console.print_rows(title, rows, n_keys=2)
    for remark in report.remarks(result):
        console.say(f"  {remark}")


@contextlib.contextmanager
def _running(
    models: list[str] | None, repository: Path, server: str | None, cache: bool, *, over_grpc: bool
) -> Iterator[tuple[Where, tuple[str, ...]]]:
    """The server to measure, and which of its models."""
    from tritone.endpoints import make_endpoint
    from tritone_cli.benching.counts import StatisticsError, statistics
    from tritone_cli.benching.measuring import Where
    from tritone_export.repository import check_model_name
    from tritone_serving import ServerOptions, TritonServer
    from tritone_serving.calls import Calls
    from tritone_serving.repository.folders import servable_models
    from tritone_serving.server.options import RESPONSE_CACHE_BYTES

    for name in models or ():
        check_model_name(name)
    if server:
        addresses = both_addresses(server)
        if addresses.grpc.startswith("grpcs://"):
            raise typer.BadParameter(
                f"{server!r} uses TLS, which bench does not support; expected a gRPC port without TLS"
            )
        here = repository if repository.is_dir() and addresses.is_loopback else None
        if not models and here is None:
            raise typer.BadParameter("--server with a repository that is not here needs the names of MODELs")
        names = tuple(models) if models else servable_models(repository)
        try:
            if over_grpc and names:
                statistics(addresses.http, names[0])  # first: its errors tell a wrong port from a wrong name
                with Calls(make_endpoint(addresses.grpc)) as calls:
                    require_grpc(server, calls)
            yield Where(grpc_url=addresses.grpc, http_url=addresses.http, repository=here), names
        except StatisticsError as error:
            raise StatisticsError(f"{error}; --server is {server}") from error
        return
    # All models that there are: an ensemble, or the recommender, asks others.
    options = ServerOptions(
        repository=repository,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        response_cache_bytes=RESPONSE_CACHE_BYTES if cache else 0,
    )
    names = servable_models(repository, models or None)
    with TritonServer.start(options) as running:
        yield (
            Where(grpc_url=running.grpc_url, http_url=running.http_url, repository=repository, pid=running.pid),
            names,
        )
