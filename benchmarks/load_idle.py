"""Measure the cost of an idle `tritone serve`: CPU time of all its processes, and its health checks.

    python -m benchmarks.load_idle [--repository DIR] [--seconds 60] [--settle 15] [--json] [-- SERVE OPTIONS]

Starts `tritone serve` on free ports, waits until it has settled, and adds up the CPU time of all processes over a
period without traffic: the launcher (with the health checks), the process supervisor, the server, and the Python stubs
of the models. The requests are what Triton counts in `nv_inference_count` over the same period. The exit status is 1 if
the total is above 2 % of a core.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.arguments import amount
from benchmarks.cpu_times import cpu_seconds
from tritone_serving.repository import filled_models
from tritone_serving.supervision.processes import family, stubs_of

BOUND_PERCENT = 2.0


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--seconds", type=amount, default=60.0, help="length of the measured period (60)")
    parser.add_argument("--settle", type=amount, default=15.0, help="seconds to wait before it (15)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("serve_options", nargs="*", help="passed on to `tritone serve`")
    arguments = parser.parse_args()
    if not (arguments.repository.is_dir() and filled_models(arguments.repository)):
        parser.error(f"{arguments.repository} holds no version of a model; `tritone export` or `make demo` make some")
    result = measure(
        arguments.repository,
        seconds=arguments.seconds,
        settle_s=arguments.settle,
        serve_options=arguments.serve_options,
    )
    sys.stdout.write(json.dumps(result) + "\n" if arguments.json else table(result))
    sys.exit(0 if result["percent"]["all"] <= BOUND_PERCENT else 1)


def measure(repository: Path, *, seconds: float, settle_s: float, serve_options: list[str]) -> dict[str, Any]:
    """Serve a repository without traffic.

    Returns:
        `percent`: per cent of one core by kind of process; `models`: their number; `requests_per_s`: by model.

    Raises:
        RuntimeError: the server does not start.
    """
    command = [sys.executable, "-m", "tritone_cli", "serve", "--repository", str(repository), "--json", *serve_options]
    ports = [part for name in ("http", "grpc", "metrics") for part in (f"--{name}-port", "0")]
    serving = subprocess.Popen([*command, *ports], stdout=subprocess.PIPE)
    try:
        line = serving.stdout.readline() if serving.stdout else b""
        if not line:
            raise RuntimeError(f"`tritone serve` ended with {serving.wait()}, see its messages above")
        started = json.loads(line)
        time.sleep(settle_s)
        begun_s, before = time.monotonic(), _cpu_seconds(serving.pid, started["pid"])
        counts_before = _request_counts(started["metrics"])
        time.sleep(seconds)
        passed_s, after = time.monotonic() - begun_s, _cpu_seconds(serving.pid, started["pid"])
        counts_after = _request_counts(started["metrics"])
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.wait(60)
    percent = {kind: round(100 * (after[kind] - before[kind]) / passed_s, 2) for kind in after}
    return {
        "models": len(started["models"]),
        "seconds": round(passed_s, 1),
        "percent": {**percent, "all": round(sum(percent.values()), 2)},
        "requests_per_s": {
            model: round((n - counts_before.get(model, 0)) / passed_s, 3) for model, n in sorted(counts_after.items())
        },
        "load_average": round(os.getloadavg()[0], 2),
        "bound_percent": BOUND_PERCENT,
    }


def table(result: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    rates = result["requests_per_s"]
    lines = [
        f"{result['models']} models, {result['seconds']:g} s without traffic, load average {result['load_average']:g}",
        "",
        "| processes | % of one core |",
        "|---|---|",
        *(f"| {kind} | {percent:.2f} |" for kind, percent in result["percent"].items()),
        "",
        f"health checks: {sum(rates.values()):.2f}/s over all models, "
        f"at most {max(rates.values(), default=0):.2f}/s to one",
    ]
    return "\n".join(lines) + "\n"


def _cpu_seconds(launcher: int, server: int) -> dict[str, float]:
    stubs = {stub.pid for stub in stubs_of(server)}
    seconds = {"launcher": 0.0, "supervisor": 0.0, "server": 0.0, "stubs": 0.0}
    for pid in family(launcher):
        kind = "launcher" if pid == launcher else "server" if pid == server else "stubs"
        if kind == "stubs" and pid not in stubs:
            kind = "supervisor"
        seconds[kind] += cpu_seconds([pid])
    return seconds


def _request_counts(metrics_url: str) -> dict[str, float]:
    with urllib.request.urlopen(metrics_url, timeout=10) as response:  # noqa: S310  - an http:// address of our own
        text = response.read().decode()
    counts: dict[str, float] = {}
    for model, value in re.findall(r'^nv_inference_count\{model="([^"]+)".*?\} (\S+)$', text, re.M):
        counts[model] = counts.get(model, 0.0) + float(value)
    return counts


if __name__ == "__main__":
    main()
