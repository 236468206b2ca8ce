"""Soak test: Poisson arrivals on all models of a repository at 70 % of the server's throughput, for ten minutes.

    make soak     or   python -m benchmarks.soak [--repository DIR] [--minutes N] [--report DIR] [--json]

Serves the repository, or small stand-ins if none is given and `model_repository` holds no version. Measures the
throughput of the mix first (a closed loop of 16 clients for half a minute; each model gets an equal share of the
machine's time), then sends requests at 70 % of it without waiting for responses; latency counts from the time at which
a request was due. Inputs are drawn from each model's declaration and differ from each other. The exit status is 1 if a
bound is missed: no failed request, memory of server and stubs growing under 1 % after a minute of warm-up, p99 of the
last two minutes within 20 % of that of the first two. Loopback only; the generator shares the machine with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import soak_mix as mixing
from benchmarks import soak_report as report
from benchmarks.arguments import amount
from tritone_cli.bench.inputs import UnknownInputsError
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.repository import filled_models
from tritone_serving.supervision.processes import family, memory_mb

LOAD = 0.7
N_CLIENTS = 16
CAPACITY_S = 30.0
LOOK_S = 5.0
LATE_S = 0.01
N_LOOKS_SAID = 6
CACHE_MB = 4


def main() -> None:
    """Run the soak test and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, help="default: model_repository, else small stand-ins")
    parser.add_argument("--models", nargs="+", help="load only these models; default: all")
    parser.add_argument("--minutes", type=amount, default=10.0)
    parser.add_argument("--load", type=amount, default=LOAD, help="share of the capacity")
    parser.add_argument("--capacity-seconds", type=amount, default=CAPACITY_S)
    parser.add_argument(
        "--cache-mb",
        type=int,
        default=CACHE_MB,
        help="size of the response cache in MB, 0 for none; small, so that it is full before memory is compared (4)",
    )
    parser.add_argument("--report", type=Path, help="folder for soak.png, soak.txt and soak.json")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    given = arguments.repository
    if given is not None and not (given.is_dir() and filled_models(given)):
        parser.error(f"{given}: expected a version of a model, got none; run `tritone export` or `make demo`")
    with tempfile.TemporaryDirectory(prefix="tritone-soak-") as folder:
        repository = arguments.repository or Path("model_repository")
        if arguments.repository is None and not (repository.is_dir() and filled_models(repository)):
            from benchmarks.soak_mix import small_repository

            os.environ["XDG_STATE_HOME"] = f"{folder}/state"
            repository = small_repository(Path(folder))
        try:
            result, sent, memory = soak(repository, arguments)
        except UnknownInputsError as error:
            sys.exit(f"{error}; or choose other models with --models")
        except report.TooShortError as error:
            sys.exit(f"not evaluated: {error}")
    if arguments.report:
        arguments.report.mkdir(parents=True, exist_ok=True)
        report.draw(sent, memory, arguments.report / "soak.png")
        (arguments.report / "soak.txt").write_text(report.table(result), encoding="utf-8")
        (arguments.report / "soak.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result) + "\n" if arguments.json else report.table(result))
    sys.exit(0 if result["passed"] else 1)


def soak(
    repository: Path, arguments: argparse.Namespace
) -> tuple[dict[str, Any], list[mixing.SentRequest], list[report.Memory]]:
    """Serve, measure the capacity, apply the load and evaluate it."""
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    options = ServerOptions(repository=repository, response_cache_bytes=arguments.cache_mb << 20, **ports)
    with TritonServer.start(options) as server:
        asked = mixing.requests_of_all(server.http_url, repository, arguments.models or sorted(server.models))
        seconds = 60 * arguments.minutes
        capacity_per_s, sent, memory = asyncio.run(
            _load(server, asked, load=arguments.load, seconds=seconds, capacity_s=arguments.capacity_seconds)
        )
    span = report.spans(seconds)
    found = {
        "minutes": arguments.minutes,
        "load": arguments.load,
        "capacity_per_s": capacity_per_s,
        "per_s": arguments.load * capacity_per_s,
        "span_s": span.latency_s,
        "late": sum(each.late_s > LATE_S for each in sent) / max(len(sent), 1),
        **report.evaluate(sent, memory, span),
    }
    return found, sent, memory


async def _load(
    server: TritonServer, asked: Sequence[mixing.ModelRequests], *, load: float, seconds: float, capacity_s: float
) -> tuple[float, list[mixing.SentRequest], list[report.Memory]]:
    memory: list[report.Memory] = []
    async with mixing.Client(server.grpc_url) as client:
        share = mixing.shares(await mixing.costs_s(client, asked))
        _say(f"{len(asked)} models; measuring the capacity for {capacity_s:.0f} s")
        capacity_per_s = await mixing.closed_loop(client, asked, share, n_clients=N_CLIENTS, seconds=capacity_s)
        _say(f"{capacity_per_s:.1f} requests per second; now {load:.0%} of that for {seconds / 60:g} minutes")
        look_s = min(LOOK_S, report.spans(seconds).memory_s / 3)
        watching = asyncio.create_task(_watch(server.pid, memory, look_s))
        sent = await mixing.open_loop(client, asked, share, per_s=load * capacity_per_s, seconds=seconds)
        watching.cancel()
    return capacity_per_s, sent, memory


async def _watch(pid: int, memory: list[report.Memory], look_s: float) -> None:
    begun_s = time.perf_counter()
    while True:
        at_s = time.perf_counter() - begun_s
        memory.append(report.Memory(at_s, await asyncio.to_thread(lambda: memory_mb(family(pid)))))
        if len(memory) % N_LOOKS_SAID == 1:
            _say(f"after {at_s:4.0f} s: {memory[-1].mb:.1f} MB")
        await asyncio.sleep(max(0.0, len(memory) * look_s - (time.perf_counter() - begun_s)))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
