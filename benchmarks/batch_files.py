"""Measure `tritone batch`: throughput against perf_analyzer, CPU time, and what interactive callers notice.

    python -m benchmarks.batch_files [--repository DIR] [--files N] [--rounds N] [--json] [--out docs/benchmarks]

1. Throughput, in interleaved rounds: batch jobs over recordings of 3, 20 and 60 s, and NVIDIA's perf_analyzer, which
   sends the windows of the same recordings, decoded, at the batch size and concurrency that are best for the server.
   The job reads, decodes and writes Parquet besides. There are two setups. `shared`: server and client share all cores.
   `apart`: all threads of the server run on one core, and the client (job or perf_analyzer) on another one, as where a
   job runs on another machine.
2. CPU time of the server (with its stubs) and of the client for 1,000 recordings. The time that a job of one recording
   takes, which is mostly that of its start, is subtracted.
3. Interactive latency: requests of one interactive caller arrive at random (Poisson), at a share of what the server
   carries, with and without a batch job. The latencies include the wait for a late caller's own previous request.
   Server and clients share the cores. `--interactive-s 0` leaves this out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile

from benchmarks.arguments import amount, count
from tritone import MusicClient
from tritone.audio import iter_windows
from tritone.constants import GENRE_MODEL, SAMPLE_RATE_HZ
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.perf_analyzer import Load, PerfAnalyzer, write_data
from tritone_serving.supervision.processes import family

SETUPS = ("shared", "apart")
DURATIONS_S = (3.0, 20.0, 60.0)
BATCHES = (1, 8)
CONCURRENCIES = (1, 2, 4, 8)
N_PERF_WINDOWS = 32
N_WARM_UP = 20
N_LINKS = 60_000
WARM_UP_S = 6.0  # the job starts, and finds its pace
SHARE_OF_INTERACTIVE = 0.3
FILE_NAME = "batch-files.json"


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--model", default=GENRE_MODEL)
    parser.add_argument("--operation", choices=("classify", "embed"), default="classify")
    parser.add_argument("--setups", nargs="+", choices=SETUPS, default=SETUPS)
    parser.add_argument("--files", type=count, default=5_000, help="recordings of 3 s in a round; fewer longer ones")
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--interactive-s", type=float, default=20.0, help="seconds of interactive requests in a round")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help=f"also write {FILE_NAME} into this folder")
    arguments = parser.parse_args()
    if arguments.interactive_s:
        amount(str(arguments.interactive_s))
    result = measure(arguments)
    if arguments.out is not None:
        (arguments.out / FILE_NAME).write_text(json.dumps(result, indent=1) + "\n")
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        print_table(result)


def print_table(result: dict[str, Any]) -> None:
    """Print the result in words."""
    for name, setup in result["setups"].items():
        perf = setup["perf_analyzer"]
        print(
            f"{name}: perf_analyzer {perf['windows_per_s']:.1f} windows/s, {perf['batch']} in a request, "
            f"{perf['concurrency']} requests at once"
        )
        for each in setup["recordings"]:
            spent = each["cpu_s_per_1000_files"]
            print(
                f"{each['duration_s']:g} s: {each['files_per_s']:.1f} files/s, {each['windows_per_s']:.1f} windows/s, "
                f"ratio {each['ratio']:.2f} ({', '.join(f'{ratio:.2f}' for ratio in each['ratios'])}); CPU seconds per "
                f"1,000 files: server {spent['server']:.2f}, client {spent['client']:.2f}"
            )
    if "interactive" in result:
        found = result["interactive"]
        print(
            f"interactive requests, {found['per_s']:.1f}/s: p50 {found['alone']['p50_ms']:.1f} ms and p99 "
            f"{found['alone']['p99_ms']:.1f} ms alone; p50 {found['during']['p50_ms']:.1f} ms and p99 "
            f"{found['during']['p99_ms']:.1f} ms during a batch job of {found['during_files_per_s']:.1f} files/s: "
            f"p99 ratio {found['p99_ratio']:.2f}"
        )


@dataclass(frozen=True)
class Bench:
    """A running server, and what the measurements send to it.

    Attributes:
        recordings: folder of the recordings of each length, by their length in seconds.
        windows: some windows, (66150,) each.
        data: file with the same windows for perf_analyzer.
    """

    arguments: argparse.Namespace
    server: TritonServer
    tool: PerfAnalyzer
    folder: Path
    recordings: dict[float, Path]
    windows: Sequence[Any]
    data: Path

    def perf_analyzer(self, load: Load, window_s: float = 3.0) -> float:
        """Return the windows per second that the server processes."""
        return self.tool.measure(
            self.arguments.model,
            self.server.grpc_url,
            protocol="grpc",
            data=self.data,
            load=load,
            window_s=window_s,
            stability=0.3,
        ).per_s

    def best_load(self) -> Load:
        """Return the batch size and concurrency with the highest throughput."""
        loads = [Load(concurrency=n, batch=batch) for batch in BATCHES for n in CONCURRENCIES]
        rates = [self.perf_analyzer(load, window_s=1.0) for load in loads]
        return loads[rates.index(max(rates))]

    def job(self, source: Path) -> tuple[float, float, float]:
        """Run a batch job, and return its files per second, and the CPU seconds of the server and of the job."""
        out = Path(tempfile.mkdtemp(dir=self.folder))
        server_s, client_s = tree_cpu_s(self.server.pid), children_cpu_s()
        done = subprocess.run(self.command(source, out), check=True, capture_output=True, text=True)
        rate: float = json.loads(done.stdout)["files_per_s"]
        return rate, tree_cpu_s(self.server.pid) - server_s, children_cpu_s() - client_s

    def command(self, source: Path, out: Path) -> list[str]:
        """Return the command line of a batch job."""
        command = [sys.executable, "-m", "tritone_cli", "batch", self.arguments.operation, str(source)]
        command += ["--server", self.server.grpc_url, "--out", f"{out}/part-%05d.parquet"]
        return [*command, "--model", self.arguments.model, "--json"]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure throughput in each setup, then interactive latency."""
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "operation": arguments.operation,
        "setups": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recordings = {}
        for duration_s in DURATIONS_S:
            n_files = max(1, round(arguments.files / n_windows(duration_s)))
            recordings[duration_s] = write_recordings(folder / f"{duration_s:g}s", n_files, duration_s)
        for setup in arguments.setups:
            with started(arguments, folder, recordings) as bench, pinned(bench.server.pid, apart=setup == "apart"):
                result["setups"][setup] = throughput(bench)
        if arguments.interactive_s:
            per_s = next(iter(result["setups"].values()))["perf_analyzer"]["windows_per_s"] * SHARE_OF_INTERACTIVE
            with started(arguments, folder, recordings) as bench:
                result["interactive"] = interactive_latency(bench, per_s)
    # For readers that need one setup: that of a job on another machine, if it was measured.
    result["recordings"] = result["setups"][arguments.setups[-1]]["recordings"]
    return result


@contextmanager
def started(arguments: argparse.Namespace, folder: Path, recordings: dict[float, Path]) -> Iterator[Bench]:
    """Start a server, and send it some requests."""
    options = ServerOptions(
        repository=arguments.repository, models=(arguments.model,), http_port=0, grpc_port=0, metrics_port=0
    )
    with TritonServer.start(options) as server:
        paths = sorted(recordings[DURATIONS_S[0]].iterdir())
        windows = [next(iter_windows(path)).samples for path in paths[:N_PERF_WINDOWS]]
        data = folder / "windows.json"
        write_data(data, [{"audio": window} for window in windows])
        with MusicClient(server.grpc_url) as music:
            for path in paths[:N_WARM_UP]:
                music.classify(path, model=arguments.model)
        yield Bench(arguments, server, PerfAnalyzer.find(folder), folder, recordings, windows, data)


@contextmanager
def pinned(pid: int, *, apart: bool) -> Iterator[None]:
    """Run a server on one core and this process, with those it starts, on another one; nothing if not `apart`."""
    if not apart:
        yield
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("the setup `apart` needs two cores; leave it out with --setups shared")
    for each in family(pid):
        for thread in psutil.Process(each).threads():  # those of onnxruntime choose their cores themselves
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, cores[:1])
    os.sched_setaffinity(0, cores[1:2])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def throughput(bench: Bench) -> dict[str, Any]:
    """Measure batch jobs and perf_analyzer in interleaved rounds."""
    load = bench.best_load()
    single = write_recordings(Path(tempfile.mkdtemp(dir=bench.folder)) / "single", 1, DURATIONS_S[0])
    _, _, start_s = bench.job(single)
    rounds: list[dict[float, tuple[float, float, float]]] = []
    rates = []
    for number in range(bench.arguments.rounds):
        durations = DURATIONS_S if number % 2 == 0 else DURATIONS_S[::-1]
        rounds.append({duration_s: bench.job(bench.recordings[duration_s]) for duration_s in durations})
        rates.append(bench.perf_analyzer(load))
    recordings = []
    for duration_s in DURATIONS_S:
        n_files = len(list(bench.recordings[duration_s].iterdir()))
        ratios = [one[duration_s][0] * n_windows(duration_s) / rate for one, rate in zip(rounds, rates, strict=True)]
        files_per_s, server_s, client_s = (
            statistics.median(one[duration_s][index] for one in rounds) for index in range(3)
        )
        recordings.append(
            {
                "duration_s": duration_s,
                "n_windows": n_windows(duration_s),
                "files_per_s": files_per_s,
                "windows_per_s": files_per_s * n_windows(duration_s),
                "ratio": statistics.median(ratios),
                "ratios": ratios,
                "cpu_s_per_1000_files": {
                    "server": 1_000 * server_s / n_files,
                    "client": 1_000 * (client_s - start_s) / n_files,
                },
            }
        )
    perf = {"windows_per_s": statistics.median(rates), "batch": load.batch, "concurrency": load.concurrency}
    return {"perf_analyzer": perf, "start_cpu_s": start_s, "recordings": recordings}


def n_windows(duration_s: float) -> int:
    """Return the number of windows of a recording."""
    silence = np.full(round(duration_s * SAMPLE_RATE_HZ), 0.1, np.float32)
    return len(list(iter_windows((silence, SAMPLE_RATE_HZ))))


def write_recordings(folder: Path, n_files: int, duration_s: float) -> Path:
    """Write recordings of noise in the format of the model: 16-bit WAV, mono at 22,050 Hz."""
    folder.mkdir()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, round(duration_s * SAMPLE_RATE_HZ)).astype(np.float32)
    for number in range(n_files):
        soundfile.write(folder / f"{number:06d}.wav", np.roll(noise, 97 * number), SAMPLE_RATE_HZ, subtype="PCM_16")
    return folder


def tree_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and its descendants."""
    times = [psutil.Process(each).cpu_times() for each in family(pid)]
    return sum(each.user + each.system for each in times)


def children_cpu_s() -> float:
    """Return the CPU seconds of the processes that this one has started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def interactive_latency(bench: Bench, per_s: float) -> dict[str, Any]:
    """Measure interactive requests without and with a batch job, in interleaved rounds."""
    many = bench.folder / "many"  # more files than a job finishes meanwhile
    many.mkdir()
    paths = sorted(bench.recordings[DURATIONS_S[0]].iterdir())
    for link in range(N_LINKS):
        (many / f"{link:06d}.wav").symlink_to(paths[link % len(paths)])
    alone: list[float] = []
    during: list[float] = []
    rates = []
    for number in range(bench.arguments.rounds):
        alone += interactive(bench, per_s, number)
        latencies, rate = interactive_during_batch(bench, per_s, many, number)
        during += latencies
        rates.append(rate)
    figures = {"alone": percentiles(alone), "during": percentiles(during)}
    return {
        "per_s": per_s,
        **figures,
        "during_files_per_s": statistics.median(rates),
        "p99_ratio": figures["during"]["p99_ms"] / figures["alone"]["p99_ms"],
    }


def interactive(bench: Bench, per_s: float, seed: int) -> list[float]:
    """Send interactive requests that arrive at random, and return their latencies in seconds from their arrival."""
    chance = random.Random(seed)  # noqa: S311 - arrivals
    latencies: list[float] = []
    with MusicClient(bench.server.grpc_url) as music, ThreadPoolExecutor(32) as pool:

        def call(arrived_s: float, window: Any) -> None:
            music.classify((window, SAMPLE_RATE_HZ), model=bench.arguments.model)
            latencies.append(time.monotonic() - arrived_s)

        arrives_s = time.monotonic()
        end_s = arrives_s + bench.arguments.interactive_s
        while arrives_s < end_s:
            arrives_s += chance.expovariate(per_s)
            time.sleep(max(0.0, arrives_s - time.monotonic()))
            pool.submit(call, arrives_s, chance.choice(bench.windows))
    return latencies


def interactive_during_batch(bench: Bench, per_s: float, many: Path, number: int) -> tuple[list[float], float]:
    """Measure as `interactive` while a batch job runs in a process of its own; also return the files per second."""
    job = subprocess.Popen(bench.command(many, bench.folder / f"during{number}"), stdout=subprocess.PIPE, text=True)
    time.sleep(WARM_UP_S)
    latencies = interactive(bench, per_s, number)
    job.terminate()
    said, _ = job.communicate()
    summary = json.loads(said)
    if summary["complete"]:
        sys.exit(f"the batch job ended before the measurement, after {N_LINKS} files; lower --interactive-s")
    return latencies, float(summary["files_per_s"])


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """Return the median and the 99th percentile in milliseconds."""
    p50, p99 = np.percentile(np.array(latencies) * 1e3, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "n": len(latencies)}


if __name__ == "__main__":
    main()
