"""Compare the latency of `compose(bars=8)` with that of an earlier export.

    python -m benchmarks.compare_compose --repository DIR --baseline DIR [--rounds 40] [--json]

Each repository has a version of `music_transformer`; an earlier revision exported the baseline. Export the same
checkpoint with both revisions to compare the code, or the checkpoints of both to compare what callers get: what a piece
costs depends on its notes. Each round requests one piece of the same seed from either, in turns: through SDK and Triton
at default settings, with one candidate, and from the graph alone, in process. Without bounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.latency_compose import MODEL, N_BARS, N_FRAMES, N_WARM_UP, inputs_of, newest, open_like_the_server
from tritone import MusicClient
from tritone_serving import ServerOptions, TritonServer

NEW, BASELINE = "new", "baseline"


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--baseline", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.repository, arguments.baseline, arguments.rounds)
    sys.stdout.write(json.dumps(result) + "\n" if arguments.json else table(result))


def measure(repository: Path, baseline: Path, n_rounds: int) -> dict[str, Any]:
    """Serve both repositories and measure all ways to compose."""
    folders = {NEW: repository, BASELINE: baseline}
    with contextlib.ExitStack() as stack:
        clients = {}
        for name, folder in folders.items():
            newest(folder, MODEL)
            options = ServerOptions(repository=folder, http_port=0, grpc_port=0, metrics_port=0)
            server = stack.enter_context(TritonServer.start(options))
            clients[name] = stack.enter_context(MusicClient(server.grpc_url))
        sessions = {name: open_like_the_server(newest(folder, MODEL)) for name, folder in folders.items()}
        ways: dict[str, Callable[[str, int], object]] = {
            "SDK compose over gRPC": lambda name, seed: clients[name].compose(bars=N_BARS, seed=seed, model=MODEL),
            "the same, n_candidates=1": lambda name, seed: clients[name].compose(
                bars=N_BARS, seed=seed, n_candidates=1, model=MODEL
            ),
            "in-process ONNX Runtime": lambda name, seed: in_process(sessions[name], seed),
        }
        return {
            "model": MODEL,
            "n_bars": N_BARS,
            "n_rounds": n_rounds,
            "ways": {way: compare(call, n_rounds) for way, call in ways.items()},
        }


def in_process(session: Any, seed: int) -> None:
    """Run a graph; those of earlier revisions have fewer inputs."""
    names = {node.name for node in session.get_inputs()}
    inputs = {name: array for name, array in inputs_of(N_FRAMES, seed, flat=True).items() if name in names}
    session.run(["frames", "nll"], inputs)


def compare(call: Callable[[str, int], object], n_rounds: int) -> dict[str, float]:
    """Return the medians of both in interleaved rounds, in milliseconds, and the median of the rounds' ratios."""
    times: dict[str, list[float]] = {NEW: [], BASELINE: []}
    for number in range(N_WARM_UP + n_rounds):
        for name in (NEW, BASELINE) if number % 2 else (BASELINE, NEW):
            began = time.perf_counter()
            call(name, number)
            if number >= N_WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - began))
    return {
        **{f"{name}_p50_ms": statistics.median(values) for name, values in times.items()},
        "ratio": statistics.median(new / old for new, old in zip(times[NEW], times[BASELINE], strict=True)),
        "p50_ratio": statistics.median(times[NEW]) / statistics.median(times[BASELINE]),
    }


def table(result: dict[str, Any]) -> str:
    """Return the results as text."""
    lines = [
        f"{result['model']}, {result['n_bars']} bars, {result['n_rounds']} interleaved rounds, p50 in ms",
        f"{'':28}{NEW:>10}{BASELINE:>10}{'ratio':>8}",
        *(
            f"{way:28}{row['new_p50_ms']:10.1f}{row['baseline_p50_ms']:10.1f}{row['ratio']:8.2f}"
            for way, row in result["ways"].items()
        ),
        "ratio: median of the rounds",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
