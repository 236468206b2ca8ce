"""Triton beside a hand-written FastAPI service of the same `genre_cnn`, in one run, by one load generator.

    .venv/bin/python tests/load/rival_load.py [--repository DIR] [--clients 1 8 32] [--rounds N] [--seconds S] [--json]

Both get the same windows as raw bytes over HTTP, in turns of a few seconds, so that the machine's drift falls on both;
the other one idles meanwhile. First both are asked the same, and must answer the same. A ratio is told only where the
rounds agree. The generator shares the cores with them. Needs `pip install 'tritone[bench]'`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton

sys.path.insert(0, str(Path(__file__).parent))

from http_load import Load, ask, closed_loop, connect, request_bytes

from tritone_serving import ServerOptions, TritonServer
from tritone_serving.ports import claim_ports
from tritone_serving.repository import newest_version
from tritone_training.registry import get_kind

MODEL = "genre_cnn"
OUTPUTS = ("probabilities", "emotions", "embedding")
N_WINDOWS = 32
AGREE = 0.15  # the middle round may differ from the best and the worst by this share


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--workers", type=int, default=2, help="of the rival")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    print(f"{MODEL}, raw windows over HTTP, {arguments.rounds} turns of {arguments.seconds:g} s each; medians")
    print(f"{'clients':>8}{'':10}{'a second':>10}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}")
    for n_clients, row in result["clients"].items():
        for name in ("triton", "rival"):
            side = row[name]
            print(f"{n_clients:>8}{name:>10}", end="")
            print(f"{side['per_s']:>10.1f}{side['p50_ms']:>9.1f}{side['p99_ms']:>9.1f}{side['n_failed']:>8}")
        ratio = row["ratio"]
        if ratio is None:
            print(f"{'':8}no ratio: the rounds differ by {row['spread']:.0%}; quieten the machine")
        else:
            print(f"{'':8}Triton carries {ratio:.2f} times as much; its p99 is {row['p99_ratio']:.2f} of the rival's")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start both and load them in turns."""
    version = newest_version(arguments.repository / MODEL)
    if version is None:
        sys.exit(f"{arguments.repository / MODEL} holds no version; `tritone export {MODEL}` makes one")
    windows = get_kind(MODEL).example_inputs(N_WINDOWS, 0)["audio"].astype(np.float32)
    options = ServerOptions(
        repository=arguments.repository,
        models=(MODEL,),
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        response_cache_bytes=0,  # or it would answer for the model
    )
    with rival(version / "model.onnx", arguments.workers) as rival_port, TritonServer.start(options) as server:
        ports = {"triton": int(server.http_url.rpartition(":")[2]), "rival": rival_port}
        asked = {
            "triton": [triton_request(window) for window in windows],
            "rival": [request_bytes("/infer", window.tobytes()) for window in windows],
        }
        check_same(ports, asked)
        clients: dict[str, Any] = {}
        for n_clients in arguments.clients:
            rounds: dict[str, list[Load]] = {"triton": [], "rival": []}
            for index in range(arguments.rounds + 1):
                for name in ("triton", "rival") if index % 2 else ("rival", "triton"):
                    found = closed_loop(ports[name], asked[name], n_clients=n_clients, seconds=arguments.seconds)
                    if index:  # the first warms up
                        rounds[name].append(found)
            clients[str(n_clients)] = compared(rounds)
    return {"model": MODEL, "rounds": arguments.rounds, "seconds": arguments.seconds, "clients": clients}


def compared(rounds: dict[str, list[Load]]) -> dict[str, Any]:
    """Medians of both; ratios of turns side by side, None where the rounds do not agree."""
    sides = {
        name: {key: statistics.median(asdict(load)[key] for load in loads) for key in ("per_s", "p50_ms", "p99_ms")}
        | {"n_failed": sum(load.n_failed for load in loads)}
        for name, loads in rounds.items()
    }
    ratios = [a.per_s / b.per_s for a, b in zip(rounds["triton"], rounds["rival"], strict=True) if b.per_s]
    middle = statistics.median(ratios) if ratios else 0.0
    spread = max((abs(each / middle - 1) for each in ratios), default=1.0) if middle else 1.0
    told = spread <= AGREE and not any(side["n_failed"] for side in sides.values())
    p99 = statistics.median(a.p99_ms / b.p99_ms for a, b in zip(rounds["triton"], rounds["rival"], strict=True))
    return {**sides, "spread": spread, "ratio": middle if told else None, "p99_ratio": p99 if told else None}


def triton_request(window: np.ndarray[Any, Any]) -> bytes:
    """The same window in Triton's binary form."""
    tensor = triton.InferInput("audio", [1, window.size], "FP32")
    tensor.set_data_from_numpy(window[None], binary_data=True)
    outputs = [triton.InferRequestedOutput(name, binary_data=True) for name in OUTPUTS]
    body, n_json = triton.InferenceServerClient.generate_request_body([tensor], outputs=outputs)
    return request_bytes(f"/v2/models/{MODEL}/infer", body, {"Inference-Header-Content-Length": str(n_json)})


def check_same(ports: dict[str, int], asked: dict[str, list[bytes]]) -> None:
    """Both must answer the same numbers, or their speeds are not to be compared."""
    tails = {}
    for name, port in ports.items():
        connection = connect(port)
        status, body = ask(connection, asked[name][0])
        connection.close()
        if status != 200:
            sys.exit(f"{name} answers {status}: {body[:300]!r}")
        tails[name] = body
    n_bytes = len(tails["rival"])  # Triton's JSON comes before the same outputs in the same order
    left, right = (np.frombuffer(tails[name][-n_bytes:], np.float32) for name in ("triton", "rival"))
    if not np.allclose(left, right, atol=1e-4):
        sys.exit(f"Triton and the rival do not answer the same: they differ by {np.abs(left - right).max():g}")


@contextlib.contextmanager
def rival(model: Path, n_workers: int) -> Iterator[int]:
    """The rival, ready in all its workers; answers its port."""
    port = claim_ports("127.0.0.1", {"port": 0})["port"]
    command = [sys.executable, str(Path(__file__).with_name("fastapi_rival.py")), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--workers", str(n_workers)], env={**os.environ, "RIVAL_MODEL": str(model.resolve())}
    )
    try:
        deadline_s = time.monotonic() + 60
        ready: set[bytes] = set()
        while len(ready) < n_workers:
            if process.poll() is not None or time.monotonic() > deadline_s:
                sys.exit("the rival does not start; see above, or pip install 'tritone[bench]'")
            with contextlib.suppress(OSError), connect(port) as connection:
                status, body = ask(connection, b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if status == 200:
                    ready.add(body)
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


if __name__ == "__main__":
    main()
