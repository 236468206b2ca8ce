"""Soak test of the gateway: Poisson arrivals on all routes for ten minutes.

    python -m benchmarks.soak_gateway [--repository DIR] [--minutes N] [--rate N] [--workers N] [--json]

Serves the repository, or small stand-in models, behind a gateway, and sends requests in an open loop: JSON, forms and
recordings, all response formats, event streams that are read to the end and ones that the caller abandons, and invalid
requests. Every request is first sent three times as warm-up. The memory (proportional set size), open files and threads
of the gateway's processes are compared between two periods, as medians: the second minute and the last one (of loads
under four minutes, the second and last quarter). The exit status is 1 if a bound is missed: no unexpected response,
memory growth under 2 %, no growth of open files or threads, and no request in flight after the end. Loopback only; load
generator, gateway and server share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import soak_gateway_mix as mixing
from benchmarks.arguments import amount, count
from benchmarks.gateway_process import GatewayProcess, running_gateway
from benchmarks.soak_mix import SentRequest, open_loop
from benchmarks.soak_report import TooShortError
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.repository import filled_models
from tritone_serving.supervision.processes import family, memory_mb

RATE_PER_S = 10.0
SAMPLE_S = 2.0
PROGRESS_S = 30.0
SETTLE_S = 10.0  # time for abandoned streams to end
MOST_GROWTH = 0.02  # of the gateway; the server itself has a bound of its own
MAX_MORE_FILES = 10  # for connections that are open at that moment
MAX_MORE_THREADS = 4
MAX_ERRORS = 10


@dataclass(frozen=True)
class Sample:
    """Resources of the gateway's processes at one time."""

    at_s: float
    memory_mb: float
    n_files: int
    n_threads: int


def main() -> None:
    """Run the soak test and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repository", type=Path, help="model repository with models for all routes; default: small stand-in models"
    )
    parser.add_argument("--minutes", type=amount, default=10.0)
    parser.add_argument("--rate", type=amount, default=RATE_PER_S, help="requests per second (10)")
    parser.add_argument("--workers", type=count, default=1, help="worker processes of the gateway (1)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    given = arguments.repository
    if given is not None and not (given.is_dir() and filled_models(given)):
        parser.error(f"{given}: expected a version of a model, got none; run `tritone export` or `make demo`")
    with tempfile.TemporaryDirectory(prefix="tritone-soak-") as folder:
        if given is None:
            os.environ["XDG_STATE_HOME"] = f"{folder}/state"
        try:
            result = soak(given or stand_ins(Path(folder)), Path(folder), arguments)
        except TooShortError as error:
            sys.exit(f"not evaluated: {error}")
    sys.stdout.write(json.dumps(result) + "\n" if arguments.json else table(result))
    sys.exit(0 if result["passed"] else 1)


def stand_ins(folder: Path) -> Path:
    """Write a repository of small models for all routes."""
    from tests.integration import conftest, gateway

    return gateway.music_repository(conftest.make_repository(folder / "repository"), events=True)


def soak(repository: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Start a server and a gateway, apply the load and evaluate it."""
    seconds = 60 * arguments.minutes
    recordings = folder / "recordings"
    recordings.mkdir()
    keys = mixing.make_keys(folder / "keys.json")
    options = (
        *("--workers", str(arguments.workers), "--recordings", str(recordings)),
        *("--max-body-mb", str(mixing.MAX_BODY_MB)),
    )
    served = ServerOptions(
        repository=repository,
        events=f"sqlite://{folder / 'events.db'}",
        http_port=0,
        grpc_port=0,
        metrics_port=0,
    )
    with (
        TritonServer.start(served) as server,
        running_gateway(server.grpc_url, *options, keys_file=folder / "keys.json") as gateway,
    ):
        sent, samples, n_left = asyncio.run(_load(gateway, keys, recordings, rate=arguments.rate, seconds=seconds))
    facts = {"minutes": arguments.minutes, "rate_per_s": arguments.rate, "workers": arguments.workers}
    return {**facts, **evaluate(sent, samples, seconds=seconds, n_left=n_left)}


async def _load(
    gateway: GatewayProcess, keys: dict[str, str], recordings: Path, *, rate: float, seconds: float
) -> tuple[list[SentRequest], list[Sample], int]:
    samples: list[Sample] = []
    async with mixing.GatewayClient(gateway.url, keys) as client:
        material = await mixing.find_material(client)
        path = recordings / f"{material.track_ids[0]}.ogg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(material.ogg[0])
        mix = mixing.requests_of_all_routes(material)
        _say(f"{len(mix)} kinds of requests; sending each three times before the load")
        await mixing.warm_up(client, mix)
        _say(f"{rate:g} requests per second for {seconds / 60:g} minutes")
        client.n_sent = 0
        watching = asyncio.create_task(_watch(gateway.pid, client, samples, seconds))
        sent = await open_loop(client, mix, {each.model: each.weight for each in mix}, per_s=rate, seconds=seconds)
        watching.cancel()
        n_left = await _requests_left(client)
    return sent, samples, n_left


async def _watch(pid: int, client: mixing.GatewayClient, samples: list[Sample], seconds: float) -> None:
    begun_s = time.perf_counter()
    every_s = min(SAMPLE_S, seconds / 20)
    next_progress_s = 0.0
    while True:
        at_s = time.perf_counter() - begun_s
        sample = await asyncio.to_thread(_sample, pid, at_s)
        samples.append(sample)
        if at_s >= next_progress_s:
            next_progress_s += PROGRESS_S
            _say(
                f"after {at_s:4.0f} s: {client.n_sent} requests, {client.n_failed} failed; {sample.memory_mb:.1f} MB, "
                f"{sample.n_files} open files, {sample.n_threads} threads"
            )
        await asyncio.sleep(max(0.0, len(samples) * every_s - (time.perf_counter() - begun_s)))


def _sample(pid: int, at_s: float) -> Sample:
    pids = family(pid)
    n_files = n_threads = 0
    for each in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(each)
            n_files += process.num_fds()
            n_threads += process.num_threads()
    return Sample(at_s, memory_mb(pids), n_files, n_threads)


async def _requests_left(client: mixing.GatewayClient) -> int:
    """Return the number of requests in flight at the gateway, except the one that reads this metric."""
    name = "tritone_gateway_requests_in_flight "
    deadline_s = time.perf_counter() + SETTLE_S
    while True:
        text = (await client.fetch("/metrics")).decode()
        (value,) = [line.removeprefix(name) for line in text.splitlines() if line.startswith(name)]
        n_left = int(float(value)) - 1
        if n_left == 0 or time.perf_counter() > deadline_s:
            return n_left
        await asyncio.sleep(0.2)


def evaluate(sent: Sequence[SentRequest], samples: Sequence[Sample], *, seconds: float, n_left: int) -> dict[str, Any]:
    """Return the results, with a verdict for each bound.

    Args:
        sent: the requests of the load.
        samples: resources of the gateway's processes.
        seconds: length of the load.
        n_left: number of requests in flight after the end.

    Raises:
        TooShortError: there are no samples after the warm-up, or at the end.
    """
    period_s = min(60.0, seconds / 4)
    ends = (_between(samples, period_s, 2 * period_s), _between(samples, seconds - period_s, np.inf))

    def medians(name: str) -> tuple[float, float]:
        first, last = (float(np.median([getattr(each, name) for each in end])) for end in ends)
        return first, last

    memory, files, threads = (medians(name) for name in ("memory_mb", "n_files", "n_threads"))
    failed = [each for each in sent if each.error]
    growth = memory[1] / memory[0] - 1
    verdicts = {
        "no unexpected response": bool(sent) and not failed,
        f"memory growth under {MOST_GROWTH:.0%}": growth < MOST_GROWTH,
        f"at most {MAX_MORE_FILES} more open files": files[1] - files[0] <= MAX_MORE_FILES,
        f"at most {MAX_MORE_THREADS} more threads": threads[1] - threads[0] <= MAX_MORE_THREADS,
        "no request left at the end": n_left == 0,
    }
    names = sorted({each.model for each in sent})
    return {
        "n": len(sent),
        "n_failed": len(failed),
        "errors": sorted({f"{each.model}: {each.error[:300]}" for each in failed})[:MAX_ERRORS],
        "requests": {name: _latencies([each for each in sent if each.model == name]) for name in names},
        "period_s": period_s,
        "memory_mb": {"after_warm_up": memory[0], "end": memory[1], "growth": growth},
        "open_files": {"after_warm_up": files[0], "end": files[1]},
        "threads": {"after_warm_up": threads[0], "end": threads[1]},
        "n_left": n_left,
        "late": sum(each.late_s > 0.01 for each in sent) / max(len(sent), 1),
        "verdicts": verdicts,
        "passed": all(verdicts.values()),
    }


def _between(samples: Sequence[Sample], begin_s: float, end_s: float) -> list[Sample]:
    found = [each for each in samples if begin_s <= each.at_s <= end_s]
    if not found:
        raise TooShortError(
            f"no sample between {begin_s:.0f} and {end_s:.0f} s: expected one at least; load for longer"
        )
    return found


def _latencies(sent: Sequence[SentRequest]) -> dict[str, Any]:
    times_ms = [1e3 * each.latency_s for each in sent if not each.error]
    p50, p99 = np.quantile(times_ms, (0.5, 0.99)).tolist() if times_ms else (None, None)
    return {"n": len(sent), "n_failed": len(sent) - len(times_ms), "p50_ms": p50, "p99_ms": p99}


def table(result: dict[str, Any]) -> str:
    """Return the results as text."""
    memory = result["memory_mb"]
    period = f"({result['period_s']:.0f} s each)"
    lines = [
        f"{result['n']} requests in {result['minutes']:g} minutes, Poisson arrivals at {result['rate_per_s']:g}/s, "
        f"{result['workers']} workers; {result['n_failed']} failed",
        f"{'request':48}{'n':>7}{'failed':>8}{'p50 ms':>9}{'p99 ms':>9}",
    ]
    for name, found in result["requests"].items():
        times = "".join(
            f"{'-' if value is None else f'{value:.1f}':>9}" for value in (found["p50_ms"], found["p99_ms"])
        )
        lines.append(f"{name:48}{found['n']:7}{found['n_failed']:8}{times}")
    lines += [
        f"memory of the gateway: {memory['after_warm_up']:.1f} MB after warm-up, {memory['end']:.1f} MB at the end "
        f"{period}: {memory['growth']:+.2%}",
        *(
            f"{name}: {result[key]['after_warm_up']:.0f} after warm-up, {result[key]['end']:.0f} at the end"
            for name, key in (("open files", "open_files"), ("threads", "threads"))
        ),
        f"requests in flight after the end: {result['n_left']}",
        f"the generator sent {result['late']:.1%} of the requests more than 10 ms late",
        *result["errors"],
        *(f"{'pass' if kept else 'FAIL'}  {bound}" for bound, kept in result["verdicts"].items()),
    ]
    return "\n".join(lines) + "\n"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
