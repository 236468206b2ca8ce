"""`tritone bench`: throughput and latency of models, measured with NVIDIA's perf_analyzer."""

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
from tritone_cli.connections import both_addresses, require_grpc

if TYPE_CHECKING:
    from tritone_cli.bench.measurement import BenchResult, BenchTarget
    from tritone_serving.perf_analyzer import Protocol


def bench(
    *,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Names of models. Default: all that have a version."),
    ] = None,
    concurrency: Annotated[
        str,
        typer.Option(
            help="Closed loop: numbers of concurrent requests, such as 8, 1,4,16, 1:32 (doubling) or 1:32:4 (steps of "
            "4)."
        ),
    ] = "1:32",
    request_rate: Annotated[
        str,
        typer.Option(
            help="Open loop with Poisson arrivals: requests per second (50,100), shares of the throughput of the "
            "closed loop (50%,80%), or none."
        ),
    ] = "70%",
    batch: Annotated[str, typer.Option(help="Numbers of inferences per request, such as 1 or 1,8.")] = "1",
    grpc: Annotated[
        bool, typer.Option("--grpc", help="Measure over gRPC (the default); with --http, over both protocols.")
    ] = False,
    http: Annotated[bool, typer.Option("--http", help="Measure over HTTP.")] = False,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.2, max=3600, help="Length of a measurement window in seconds; three successive windows must agree."
        ),
    ] = 5.0,
    stability: Annotated[
        float, typer.Option(min=1, max=100, help="Maximum difference between successive windows in percent.")
    ] = 10.0,
    repository: Annotated[
        Path, typer.Option(help="Model repository to serve and measure, unless --server is given.")
    ] = Path("model_repository"),
    server: options.OptionalServer = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="Serve with Triton's response cache, for models that enable it.")
    ] = False,
    ceiling: Annotated[
        bool, typer.Option(help="Also measure ONNX Runtime without a server, before and after the model.")
    ] = True,
    input_data: Annotated[
        Path | None,
        typer.Option(
            help="File with requests in perf_analyzer's JSON format. Default: drawn from the model's declaration.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder to write a Markdown report, CSV and plots to.", show_default=False)
    ] = None,
    overwrite: options.Overwrite = False,
    table: Annotated[
        Path | None,
        typer.Option(
            help="Markdown file to update: the lines between `<!-- bench: begin -->` and `<!-- bench: end -->`.",
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure throughput, latency, and the time in queue and computation; unstable results are left out."""
    options.require_unused(report, overwrite=overwrite, option="--report")
    from tritone_cli.bench import measurement
    from tritone_cli.bench import report as reporting
    from tritone_cli.bench.measurement import BenchPlan, measure_model
    from tritone_serving.perf_analyzer import PerfAnalyzer, check_data

    protocols: list[Protocol] = ["grpc", "http"] if grpc and http else ["http" if http else "grpc"]
    try:
        plan = BenchPlan(
            protocols=protocols,
            concurrencies=measurement.concurrencies(concurrency),
            rates=measurement.rates(request_rate),
            batches=measurement.batches(batch),
            window_s=seconds,
            stability=stability / 100,
            data=input_data,
            with_ceiling=ceiling,
        )
    except measurement.LoadOptionError as error:
        raise typer.BadParameter(str(error)) from error
    if input_data is not None:
        check_data(input_data)
    if table is not None:
        reporting.check_table_file(table)
    if report is not None:
        import matplotlib  # noqa: F401  - a missing extra is reported before the measurement, not after it
    with tempfile.TemporaryDirectory(prefix="tritone-bench-") as temporary:
        folder = Path(temporary)
        tool = PerfAnalyzer.find(folder)
        results = []
        with _running(models, repository, server, cache, over_grpc="grpc" in protocols) as (where, names):
            for name in names:
                with console.people.status(name) as status:
                    results.append(measure_model(tool, where, name, plan, folder=folder, on_step=status.update))
                if not as_json:
                    _print_result(results[-1])
    facts = {
        "Command": f"`tritone {shlex.join(sys.argv[1:])}`",
        "Generator": f"perf_analyzer {tool.version}, on the same machine",
        "Windows": f"three of {seconds:g} s that agree within {stability:g} %",
    }
    written = reporting.write(results, report, facts=facts) if report is not None else []
    unstable = [result.model for result in results if not any(row.reading for row in result.rows)]
    if table is not None and len(unstable) == len(results):
        console.say(f"{table} was not changed, since no result is stable")
    elif table is not None:
        reporting.replace_table(table, results, command=facts["Command"])
        written.append(table)
    for path in written:
        console.say(f"written: {path}")
    if as_json:
        console.print_json({**reporting.as_json(results), "written": [str(path) for path in written]})
    if unstable:
        console.fail(
            f"no stable result for {', '.join(unstable)}; use a quieter machine, or raise --seconds or --stability"
        )
        raise typer.Exit(1)


def _print_result(result: BenchResult) -> None:
    from tritone_cli.bench import report

    for title, rows in report.tables(result).items():
        console.print_rows(title, rows, n_keys=2)
    for remark in report.remarks(result):
        console.say(f"  {remark}")


@contextlib.contextmanager
def _running(
    models: list[str] | None, repository: Path, server: str | None, cache: bool, *, over_grpc: bool
) -> Iterator[tuple[BenchTarget, tuple[str, ...]]]:
    """Yield the server to measure and the names of its models."""
    from tritone.arguments import check_model_name
    from tritone.endpoints import make_endpoint
    from tritone_cli.bench.measurement import BenchTarget
    from tritone_cli.bench.server_statistics import statistics
    from tritone_serving import AdminApiError, ServerOptions, TritonServer
    from tritone_serving.calls import Calls
    from tritone_serving.repository import servable_models
    from tritone_serving.server.options import RESPONSE_CACHE_BYTES

    for name in models or ():
        check_model_name(name)
    if server:
        addresses = both_addresses(server)
        if addresses.grpc.startswith("grpcs://"):
            raise typer.BadParameter(f"{server!r}: expected a gRPC port without TLS, got one with TLS")
        here = repository if repository.is_dir() and addresses.is_loopback else None
        if not models and here is None:
            raise typer.BadParameter("expected MODEL names, since the repository of --server is not on this machine")
        names = tuple(models) if models else servable_models(repository)
        try:
            if over_grpc and names:
                # Called first, because its errors distinguish a wrong port from a wrong name.
                statistics(addresses.http, names[0])
                with Calls(make_endpoint(addresses.grpc)) as calls:
                    require_grpc(server, calls)
            yield BenchTarget(grpc_url=addresses.grpc, http_url=addresses.http, repository=here), names
        except AdminApiError as error:
            raise AdminApiError(f"{error}; --server is {server}", status=error.status) from error
        return
    # All models are served, since ensembles and the recommender call others.
    server_options = ServerOptions(
        repository=repository,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        response_cache_bytes=RESPONSE_CACHE_BYTES if cache else 0,
    )
    names = servable_models(repository, models or None)
    with TritonServer.start(server_options) as running:
        yield (
            BenchTarget(grpc_url=running.grpc_url, http_url=running.http_url, repository=repository, pid=running.pid),
            names,
        )
