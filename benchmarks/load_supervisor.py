"""Measure the supervisor of `tritone serve` on a machine whose CPUs are busy with other processes.

    python -m benchmarks.load_supervisor [--repository DIR] [--processes 20] [--minutes 10] [--load-first] [--json]

Serves a repository, starts processes that only compute, and watches for the given time. Every second one model gets a
small request. At half of the time one Python stub is killed, which is a real fault and must be repaired. Exit status 1
if the supervisor restarted the server, repaired anything else, or did not repair that. Loopback only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.arguments import amount, count
from tritone.endpoints import make_endpoint
from tritone_serving import CanaryError
from tritone_serving.calls import Calls
from tritone_serving.canary import run_canary
from tritone_serving.repository import filled_models
from tritone_serving.supervision.processes import stubs_of

REPAIR_WORDS: Final = ("reloading it", "loading it anew")  # the second: wording of earlier versions
RESTART_WORDS: Final = "restarting the server"
ANSWER_TIMEOUT_S: Final = 60.0
REPAIRED_TIMEOUT_S: Final = 180.0


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--processes", type=count, default=20, help="processes that only compute (20)")
    parser.add_argument("--minutes", type=amount, default=10.0)
    parser.add_argument("--load-first", action="store_true", help="start the processes before the server")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not (arguments.repository.is_dir() and filled_models(arguments.repository)):
        parser.error(
            f"{arguments.repository}: expected a version of a model, got none; run `tritone export` or `make demo`"
        )
    result = measure(
        arguments.repository,
        n_processes=arguments.processes,
        seconds=60 * arguments.minutes,
        load_first=arguments.load_first,
    )
    sys.stdout.write(json.dumps(result) + "\n" if arguments.json else table(result))
    sys.exit(0 if result["passed"] else 1)


def measure(repository: Path, *, n_processes: int, seconds: float, load_first: bool) -> dict[str, Any]:
    """Serve under CPU load and return the results.

    Raises:
        RuntimeError: the server does not start.
    """
    burners = [multiprocessing.Process(target=_compute, daemon=True) for _ in range(n_processes)]
    if load_first:
        _start(burners)
        time.sleep(15)  # until the kernel's averages have settled
    command = [sys.executable, "-m", "tritone_cli", "serve", "--repository", str(repository), "--json"]
    ports = [part for name in ("http", "grpc", "metrics") for part in (f"--{name}-port", "0")]
    begun_s = time.monotonic()
    serving = subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines: list[tuple[float, str]] = []
    threading.Thread(target=_collect, args=(serving, lines), daemon=True).start()
    try:
        line = serving.stdout.readline() if serving.stdout else ""
        if not line:
            raise RuntimeError(f"`tritone serve` ended with {serving.wait()}: {[text for _, text in lines[-5:]]}")
        started, ready_s = json.loads(line), time.monotonic() - begun_s
        if not load_first:
            _start(burners)
        result = _watch(serving, started, lines, seconds=seconds)
    finally:
        for burner in burners:
            if burner.is_alive():
                burner.kill()
        serving.send_signal(signal.SIGTERM)
        serving.wait(60)
    return {"processes": n_processes, "cores": os.cpu_count(), "ready_s": round(ready_s, 1), **result}


def table(result: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    rows = [
        ("processes that compute, on cores", f"{result['processes']}, {result['cores']}"),
        ("load average at the end", f"{result['load_average']:g}"),
        ("seconds to ready", f"{result['ready_s']:g}"),
        ("seconds watched", f"{result['seconds']:g}"),
        ("repairs of healthy models", str(len(result["repairs"]))),
        ("restarts of the server", str(len(result["restarts"]))),
        ("killed stub noticed, repaired after, s", f"{result['noticed_s']}, {result['repaired_s']}"),
        ("requests answered, failed", f"{result['answered']}, {result['failed']}"),
    ]
    lines = ["| what | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    lines += ["", *(f"- {line}" for line in result["lines"][:20])]
    return "\n".join(lines) + "\n"


def _watch(
    serving: subprocess.Popen[str], started: dict[str, Any], lines: list[tuple[float, str]], *, seconds: float
) -> dict[str, Any]:
    begun_s = time.monotonic()
    models = sorted(started["models"])
    counts = {"answered": 0, "failed": 0}
    failures: list[str] = []
    killed_s, killed_model = 0.0, ""
    with Calls(make_endpoint(started["grpc"])) as calls:
        configs: dict[str, Any] = {}
        while time.monotonic() - begun_s < seconds and serving.poll() is None:
            model = models[(counts["answered"] + counts["failed"]) % len(models)]
            try:
                configs.setdefault(model, calls.config(model, timeout_s=ANSWER_TIMEOUT_S))
                run_canary(calls, model, configs[model], timeout_s=ANSWER_TIMEOUT_S)
                counts["answered"] += 1
            except CanaryError as error:
                counts["failed"] += 1
                failures.append(str(error))
            if not killed_s and time.monotonic() - begun_s > seconds / 2:
                stub = min(stubs_of(started["pid"]), key=lambda each: each.model, default=None)
                if stub is not None:
                    killed_s, killed_model = time.monotonic(), stub.model
                    os.kill(stub.pid, signal.SIGKILL)
            time.sleep(1)
        load_average = os.getloadavg()[0]
        repaired_s = _repaired_s(lines, killed_model, killed_s)
        noticed_s = next(
            (
                round(at_s - killed_s, 1)
                for at_s, text in list(lines)
                if killed_s and at_s >= killed_s and text_names(text, killed_model)
            ),
            None,
        )
    texts = [(at_s, text) for at_s, text in lines]
    own = [text for at_s, text in texts if killed_s and at_s >= killed_s and text_names(text, killed_model)]
    repairs = [text for _, text in texts if any(word in text for word in REPAIR_WORDS) and text not in own]
    restarts = [text for _, text in texts if RESTART_WORDS in text]
    return {
        "seconds": round(time.monotonic() - begun_s, 1),
        "load_average": round(load_average, 1),
        **counts,
        "failures": failures[:10],
        "repairs": repairs,
        "restarts": restarts,
        "killed": killed_model,
        "noticed_s": noticed_s,
        "repaired_s": repaired_s,
        "lines": [text for _, text in texts],
        "passed": not repairs and not restarts and repaired_s is not None,
    }


def text_names(text: str, model: str) -> bool:
    """Return whether a line of the supervisor is about a model."""
    return f"{model}:" in text


def _repaired_s(lines: list[tuple[float, str]], model: str, killed_s: float) -> float | None:
    deadline_s = time.monotonic() + REPAIRED_TIMEOUT_S
    while killed_s and time.monotonic() < deadline_s:
        for at_s, text in list(lines):
            if at_s > killed_s and text_names(text, model) and " again after" in text:
                return round(at_s - killed_s, 1)
        time.sleep(0.5)
    return None


def _start(processes: list[multiprocessing.Process]) -> None:
    for process in processes:
        process.start()


def _compute() -> None:
    os.setsid()  # the scheduler may share CPUs by session, so that a single session would get only one share
    while True:
        pass


def _collect(serving: subprocess.Popen[str], lines: list[tuple[float, str]]) -> None:
    for line in serving.stderr or ():
        lines.append((time.monotonic(), line.rstrip()))


if __name__ == "__main__":
    main()
