"""Compare Triton with a hand-written FastAPI service of the same `genre_cnn`, with one load generator.

    make peer   or   python -m benchmarks.load_peer [--repository DIR] [--clients 1 8 32] [--rounds N] [--json]

The service runs twice: with ONNX Runtime's default number of threads, and tuned, with a worker per core and one thread
each. All get the same windows as raw bytes over HTTP, in interleaved trials of a few seconds, so that drift of the
machine affects all alike; the others are idle meanwhile. First all must return the same outputs for the same inputs. A
ratio is reported only if the rounds agree. The generator shares the cores with the servers. Needs
`pip install 'tritone[bench]'`.
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

from benchmarks.arguments import amount, count
from benchmarks.http_clients import HttpLoad, ask, closed_loop, connect, request_bytes
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.repository import newest_version
from tritone_serving.server.command import claim_ports
from tritone_training.registry import get_kind

MODEL = "genre_cnn"
OUTPUTS = ("probabilities", "emotions", "embedding")
N_WINDOWS = 32
PEERS = {"plain": 0, "tuned": 1}  # threads of each worker; 0: ONNX Runtime's default
AGREE = 0.15  # maximum interquartile range of the rounds, as a share of the median


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--clients", type=count, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--seconds", type=amount, default=4.0, help="length of each trial in seconds (4)")
    parser.add_argument("--workers", type=count, default=2, help="number of workers of the peer (2)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    print(f"{MODEL}, raw windows over HTTP, {arguments.rounds} rounds of {arguments.seconds:g} s each; medians")
    print(f"{'clients':>8}{'':10}{'per second':>10}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}")
    for n_clients, row in result["clients"].items():
        for name, side in row["sides"].items():
            print(f"{n_clients:>8}{name:>10}", end="")
            print(f"{side['per_s']:>10.1f}{side['p50_ms']:>9.1f}{side['p99_ms']:>9.1f}{side['n_failed']:>8}")
        for name, found in row["beside"].items():
            if found["ratio"] is None:
                print(f"{'':8}compared with the {name} peer: no ratio, the rounds differ by {found['spread']:.0%}")
            else:
                print(f"{'':8}compared with the {name} peer: {found['ratio']:.2f} times its throughput; ", end="")
                print(f"{found['p99_ratio']:.2f} times its p99")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start all servers and load them in interleaved trials."""
    version = newest_version(arguments.repository / MODEL)
    if version is None:
        sys.exit(f"{arguments.repository / MODEL}: expected a version, got none; run `tritone export {MODEL}`")
    windows = get_kind(MODEL).example_inputs(N_WINDOWS, 0)["audio"].astype(np.float32)
    options = ServerOptions(
        repository=arguments.repository,
        models=(MODEL,),
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        response_cache_bytes=0,  # since it would answer in place of the model
    )
    model = version / "model.onnx"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(TritonServer.start(options))
        ports = {"triton": int(server.http_url.rpartition(":")[2])}
        asked = {"triton": [triton_request(window) for window in windows]}
        for name, n_threads in PEERS.items():
            ports[name] = stack.enter_context(peer(model, arguments.workers, n_threads))
            asked[name] = [request_bytes("/infer", window.tobytes()) for window in windows]
            check_same(ports, asked, name)
        clients: dict[str, Any] = {}
        for n_clients in arguments.clients:
            rounds: dict[str, list[HttpLoad]] = {name: [] for name in ports}
            for index in range(arguments.rounds + 1):
                for name in ports if index % 2 else reversed(ports):
                    found = closed_loop(ports[name], asked[name], n_clients=n_clients, seconds=arguments.seconds)
                    if index:  # the first warms up
                        rounds[name].append(found)
            clients[str(n_clients)] = compared(rounds)
    return {"model": MODEL, "rounds": arguments.rounds, "seconds": arguments.seconds, "clients": clients}


def compared(rounds: dict[str, list[HttpLoad]]) -> dict[str, Any]:
    """Return the medians, and the ratios of the rounds; None if the rounds do not agree."""
    sides = {
        name: {key: statistics.median(asdict(load)[key] for load in loads) for key in ("per_s", "p50_ms", "p99_ms")}
        | {"n_failed": sum(load.n_failed for load in loads)}
        for name, loads in rounds.items()
    }
    beside = {}
    for name in PEERS:
        pairs = list(zip(rounds["triton"], rounds[name], strict=True))
        ratios = [a.per_s / b.per_s for a, b in pairs if b.per_s]
        middle = statistics.median(ratios) if ratios else 0.0
        # The interquartile range, so that a single disturbed round does not matter.
        spread = (
            (statistics.quantiles(ratios, n=4)[2] - statistics.quantiles(ratios, n=4)[0]) / middle if middle else 1.0
        )
        agree = spread <= AGREE and not sides["triton"]["n_failed"] and not sides[name]["n_failed"]
        p99 = statistics.median(a.p99_ms / b.p99_ms for a, b in pairs)
        beside[name] = {"spread": spread, "ratio": middle if agree else None, "p99_ratio": p99 if agree else None}
    return {"sides": sides, "beside": beside}


def triton_request(window: np.ndarray[Any, Any]) -> bytes:
    """Return a request with the window in Triton's binary format."""
    tensor = triton.InferInput("audio", [1, window.size], "FP32")
    tensor.set_data_from_numpy(window[None], binary_data=True)
    outputs = [triton.InferRequestedOutput(name, binary_data=True) for name in OUTPUTS]
    body, n_json = triton.InferenceServerClient.generate_request_body([tensor], outputs=outputs)
    return request_bytes(f"/v2/models/{MODEL}/infer", body, {"Inference-Header-Content-Length": str(n_json)})


def check_same(ports: dict[str, int], asked: dict[str, list[bytes]], peer: str) -> None:
    """Exit unless Triton and a peer return the same outputs, since only then can they be compared."""
    tails = {}
    for name in ("triton", peer):
        connection = connect(ports[name])
        status, body = ask(connection, asked[name][0])
        connection.close()
        if status != 200:
            sys.exit(f"{name} answers {status}: {body[:300]!r}")
        tails[name] = body
    n_bytes = len(tails[peer])  # Triton's JSON comes before the same outputs in the same order
    left, right = (np.frombuffer(tails[name][-n_bytes:], np.float32) for name in ("triton", peer))
    if not np.allclose(left, right, atol=1e-4):
        sys.exit(
            f"Triton and its peer return different outputs: the largest difference is {np.abs(left - right).max():g}"
        )


@contextlib.contextmanager
def peer(model: Path, n_workers: int, n_threads: int) -> Iterator[int]:
    """Start the peer and yield its port when all its workers are ready."""
    port = claim_ports("127.0.0.1", {"port": 0})["port"]
    command = [sys.executable, "-m", "benchmarks.peer_fastapi", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--workers", str(n_workers)],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "PEER_MODEL": str(model.resolve()), "PEER_THREADS": str(n_threads)},
    )
    try:
        deadline_s = time.monotonic() + 60
        ready: set[bytes] = set()
        while len(ready) < n_workers:
            if process.poll() is not None or time.monotonic() > deadline_s:
                sys.exit("the peer does not start: see its messages above; it needs pip install 'tritone[bench]'")
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
