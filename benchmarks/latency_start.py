"""Measure how long `tritone serve` takes to start with a whole repository, and its memory.

    make bench    or   python -m benchmarks.latency_start [--repository DIR] [--rounds N] [--warm] [--json]

Each round starts the command in a process of its own and measures from before the start of that process:
  ready    all models are loaded and the command has reported it
  probed   each model has answered a canary (`tritone probe`)
Then it adds up the memory of all processes: the command with its supervisor, the server, and a process per model
instance; shared pages count once (PSS). Before each round the kernel's file cache is dropped if the user may do that
(root), so that packages and models come from the disk; the output says whether it was. The exit status is 1 if a bound
is missed: 5 s until probed, 2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.arguments import count
from tritone.endpoints import make_endpoint
from tritone_serving.calls import Calls
from tritone_serving.canary import probe
from tritone_serving.repository import filled_models
from tritone_serving.supervision.processes import family, memory_mb, stubs_of

BOUND_S = 5.0
BOUND_MB = 2048.0
TIMEOUT_S = 120.0
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--warm", action="store_true", help="do not drop the kernel's file cache")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not (arguments.repository.is_dir() and filled_models(arguments.repository)):
        parser.error(
            f"{arguments.repository}: expected a version of a model, got none; run `tritone export` or `make demo`"
        )
    rounds = [start_once(arguments.repository, drop=not arguments.warm) for _ in range(arguments.rounds)]
    result = summary(rounds)
    sys.stdout.write(json.dumps(result) + "\n" if arguments.json else table(result))
    sys.exit(0 if result["passed"] else 1)


def start_once(repository: Path, *, drop: bool) -> dict[str, Any]:
    """Serve a repository once, from start to stop.

    Raises:
        RuntimeError: the server does not start, or a model does not answer.
    """
    is_cold = drop and drop_caches()
    begun_s = time.monotonic()
    command = [sys.executable, "-m", "tritone_cli", "serve", "--repository", str(repository), "--json"]
    ports = [part for name in ("http", "grpc", "metrics") for part in (f"--{name}-port", "0")]
    serving = subprocess.Popen([*command, *ports], stdout=subprocess.PIPE)
    try:
        line = serving.stdout.readline() if serving.stdout else b""
        if not line:
            raise RuntimeError(f"`tritone serve` ended with {serving.wait()}, see its messages above")
        ready_s = time.monotonic() - begun_s
        started = json.loads(line)
        with Calls(make_endpoint(started["grpc"])) as calls:
            probed = probe(calls, timeout_s=TIMEOUT_S)
        probed_s = time.monotonic() - begun_s
        silent = [each.why for each in probed if not each.ok]
        if silent:
            raise RuntimeError("; ".join(silent))
        return {
            "cold": is_cold,
            "ready_s": ready_s,
            "probed_s": probed_s,
            "start_s": started["ready_s"],
            "n_models": len(started["models"]),
            "n_stubs": len(stubs_of(started["pid"])),
            "all_mb": memory_mb(family(serving.pid)),
            "server_mb": memory_mb([started["pid"]]),
            "stubs_mb": by_model(started["pid"]),
        }
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.wait(30)


def drop_caches() -> bool:
    """Drop the kernel's file cache; return False if this user may not."""
    os.sync()
    try:
        DROP_CACHES.write_text("1")
    except OSError:
        return False
    return True


def by_model(server_pid: int) -> dict[str, float]:
    """Return the memory of the processes of each model, in MB."""
    pids: dict[str, list[int]] = {}
    for stub in stubs_of(server_pid):
        pids.setdefault(stub.model, []).append(stub.pid)
    return {model: memory_mb(each) for model, each in sorted(pids.items())}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of the rounds, and whether the slowest and the largest are within the bounds."""
    slowest_s, largest_mb = max(each["probed_s"] for each in rounds), max(each["all_mb"] for each in rounds)
    names = ("ready_s", "probed_s", "start_s", "all_mb", "server_mb")
    return {
        "n_rounds": len(rounds),
        "cold": all(each["cold"] for each in rounds),
        "n_models": rounds[0]["n_models"],
        "n_stubs": rounds[0]["n_stubs"],
        **{name: statistics.median(each[name] for each in rounds) for name in names},
        "slowest_s": slowest_s,
        "largest_mb": largest_mb,
        "stubs_mb": rounds[-1]["stubs_mb"],
        "bounds": {"probed_s": BOUND_S, "all_mb": BOUND_MB},
        "passed": slowest_s <= BOUND_S and largest_mb <= BOUND_MB,
    }


def table(result: dict[str, Any]) -> str:
    """Return the results as text."""
    how = "with an empty file cache" if result["cold"] else "possibly with a filled file cache"
    ok_s = "within" if result["slowest_s"] <= BOUND_S else "MISSES"
    ok_mb = "within" if result["largest_mb"] <= BOUND_MB else "MISSES"
    return "\n".join(
        [
            f"{result['n_models']} models in {result['n_stubs']} processes, {how}; {result['n_rounds']} starts",
            f"`tritone serve` to ready: {result['ready_s']:.2f} s, the server's own part {result['start_s']:.2f} s",
            f"... and every model probed: median {result['probed_s']:.2f} s, slowest {result['slowest_s']:.2f} s: "
            f"{ok_s} {BOUND_S:.0f} s",
            f"memory of all processes: {result['all_mb']:.0f} MB, largest {result['largest_mb']:.0f} MB: "
            f"{ok_mb} {BOUND_MB:.0f} MB",
            f"  of the server {result['server_mb']:.0f} MB; of its models' processes, by model:",
            *(f"  {model:24} {mb:6.0f} MB" for model, mb in result["stubs_mb"].items()),
            "",
        ]
    )


if __name__ == "__main__":
    main()
