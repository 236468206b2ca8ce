"""Measure `tritone batch`: files per second against perf_analyzer, and what interactive callers notice.

    python -m benchmarks.batch_files [--repository DIR] [--files N] [--rounds N] [--json]

Two measurements on one server, in interleaved rounds:

1. Throughput: a batch job over recordings of one window each, and NVIDIA's perf_analyzer with the same windows at the
   concurrency that is best for the server. Both run as processes of their own on the server's machine, and the job
   reads, decodes and writes Parquet besides. Decoding alone is measured too.
2. Interactive latency: requests of one interactive caller arrive at random (Poisson), at a share of what the server
   carries, with and without a batch job. The latencies include the wait for a late caller's own previous request.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.arguments import amount, count
from tritone import MusicClient
from tritone.audio import iter_windows
from tritone.constants import GENRE_MODEL, SAMPLE_RATE_HZ, WINDOW_SAMPLES
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.perf_analyzer import Load, PerfAnalyzer, write_data

CONCURRENCIES = (1, 2, 4, 8)
N_WARM_UP = 20
N_LINKS = 30_000
WARM_UP_S = 6.0  # the job starts, and finds its pace
SHARE_OF_INTERACTIVE = 0.3


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--model", default=GENRE_MODEL)
    parser.add_argument("--files", type=count, default=2_000, help="recordings of a round")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--interactive-s", type=amount, default=20.0, help="seconds of interactive requests in a round")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    print(
        f"batch {result['batch_per_s']:.1f} files/s, perf_analyzer {result['perf_analyzer_per_s']:.1f} windows/s at "
        f"{result['concurrency']} at once: ratio {result['ratio']:.2f} (median of {arguments.rounds} rounds: "
        + ", ".join(f"{ratio:.2f}" for ratio in result["ratios"])
        + ")"
    )
    print(f"reading and decoding a file: {result['decode_ms']:.2f} ms of one core")
    print(
        f"interactive requests, {result['interactive_per_s']:.1f}/s: p50 {result['alone']['p50_ms']:.1f} ms and p99 "
        f"{result['alone']['p99_ms']:.1f} ms alone; p50 {result['during']['p50_ms']:.1f} ms and p99 "
        f"{result['during']['p99_ms']:.1f} ms during a batch job of {result['during_files_per_s']:.1f} files/s: "
        f"p99 ratio {result['p99_ratio']:.2f}"
    )


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure throughput and interactive latency in interleaved rounds."""
    options = ServerOptions(
        repository=arguments.repository, models=(arguments.model,), http_port=0, grpc_port=0, metrics_port=0
    )
    with tempfile.TemporaryDirectory() as temporary, TritonServer.start(options) as server:
        folder = Path(temporary)
        recordings = write_recordings(folder / "recordings", arguments.files)
        tool = PerfAnalyzer.find(folder)
        data = folder / "windows.json"
        windows = [next(iter_windows(path)).samples for path in recordings[:32]]
        write_data(data, [{"audio": window} for window in windows])

        def perf_analyzer(concurrency: int) -> float:
            load = Load(concurrency=concurrency)
            return tool.measure(
                arguments.model, server.grpc_url, protocol="grpc", data=data, load=load, window_s=4.0, stability=0.3
            ).per_s

        def batch(round_number: int) -> float:
            command = batch_command(
                server.grpc_url, folder / "recordings", folder / f"out{round_number}", arguments.model
            )
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rate: float = json.loads(done.stdout)["files_per_s"]
            return rate

        with MusicClient(server.grpc_url) as music:
            for path in recordings[:N_WARM_UP]:
                music.classify(path, model=arguments.model)
        rates = {concurrency: perf_analyzer(concurrency) for concurrency in CONCURRENCIES}
        best = max(rates, key=rates.__getitem__)
        rounds = []
        for number in range(arguments.rounds):
            jobs = [lambda number=number: batch(number), lambda: perf_analyzer(best)]
            order = (0, 1) if number % 2 == 0 else (1, 0)
            values = {which: jobs[which]() for which in order}
            rounds.append((values[0], values[1]))
        ratios = [ours / theirs for ours, theirs in rounds]
        began_s = time.process_time()
        for path in recordings[:200]:
            list(iter_windows(path))
        decode_s = (time.process_time() - began_s) / len(recordings[:200])
        per_s = SHARE_OF_INTERACTIVE * statistics.median(theirs for _, theirs in rounds)
        alone: list[float] = []
        during: list[float] = []
        batch_rates = []
        for number in range(arguments.rounds):
            alone += interactive(server.grpc_url, arguments, per_s, windows, number)
            latencies, rate = interactive_during_batch(
                server.grpc_url, arguments, per_s, windows, folder=folder, number=number
            )
            during += latencies
            batch_rates.append(rate)
    figures = {"alone": percentiles(alone), "during": percentiles(during)}
    return {
        "batch_per_s": statistics.median(ours for ours, _ in rounds),
        "perf_analyzer_per_s": statistics.median(theirs for _, theirs in rounds),
        "concurrency": best,
        "by_concurrency": rates,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "decode_ms": 1e3 * decode_s,
        "interactive_per_s": per_s,
        **figures,
        "during_files_per_s": statistics.median(batch_rates),
        "p99_ratio": figures["during"]["p99_ms"] / figures["alone"]["p99_ms"],
    }


def write_recordings(folder: Path, n_files: int) -> list[Path]:
    """Write recordings of one window of noise each, in the format of the model: 16-bit WAV, mono at 22,050 Hz."""
    folder.mkdir()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, WINDOW_SAMPLES).astype(np.float32)
    paths = [folder / f"{number:06d}.wav" for number in range(n_files)]
    for number, path in enumerate(paths):
        soundfile.write(path, np.roll(noise, 97 * number), SAMPLE_RATE_HZ, subtype="PCM_16")
    return paths


def interactive(
    url: str, arguments: argparse.Namespace, per_s: float, windows: Sequence[Any], seed: int
) -> list[float]:
    """Send interactive requests that arrive at random, and return their latencies in seconds from their arrival."""
    chance = random.Random(seed)  # noqa: S311 - arrivals
    latencies: list[float] = []
    with MusicClient(url) as music, ThreadPoolExecutor(32) as pool:

        def call(arrived_s: float, window: Any) -> None:
            music.classify((window, SAMPLE_RATE_HZ), model=arguments.model)
            latencies.append(time.monotonic() - arrived_s)

        arrives_s = time.monotonic()
        end_s = arrives_s + arguments.interactive_s
        while arrives_s < end_s:
            arrives_s += chance.expovariate(per_s)
            time.sleep(max(0.0, arrives_s - time.monotonic()))
            pool.submit(call, arrives_s, chance.choice(windows))
    return latencies


def interactive_during_batch(
    url: str, arguments: argparse.Namespace, per_s: float, windows: Sequence[Any], *, folder: Path, number: int
) -> tuple[list[float], float]:
    """Measure as `interactive` while a batch job runs in a process of its own; also return the files per second."""
    out = folder / f"during{number}"
    many = folder / "many"
    if not many.exists():  # more files than a job finishes meanwhile
        many.mkdir()
        recordings = sorted((folder / "recordings").iterdir())
        for link in range(N_LINKS):
            (many / f"{link:06d}.wav").symlink_to(recordings[link % len(recordings)])
    job = subprocess.Popen(batch_command(url, many, out, arguments.model), stdout=subprocess.PIPE, text=True)
    time.sleep(WARM_UP_S)
    latencies = interactive(url, arguments, per_s, windows, number)
    job.terminate()
    said, _ = job.communicate()
    summary = json.loads(said)
    if summary["complete"]:
        sys.exit(f"the batch job ended before the measurement, after {N_LINKS} files; lower --interactive-s")
    return latencies, float(summary["files_per_s"])


def batch_command(url: str, source: Path, out: Path, model: str) -> list[str]:
    """Return the command line of a batch job."""
    command = [sys.executable, "-m", "tritone_cli", "batch", "classify", str(source), "--server", url]
    return [*command, "--out", f"{out}/part-%05d.parquet", "--model", model, "--json"]


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """Return the median and the 99th percentile in milliseconds."""
    p50, p99 = np.percentile(np.array(latencies) * 1e3, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "n": len(latencies)}


if __name__ == "__main__":
    main()
