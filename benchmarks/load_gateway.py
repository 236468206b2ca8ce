"""Compare the gateway with the SDK on the same calls: one client, then many.

    python -m benchmarks.load_gateway --repository DIR [--clients 32] [--workers 1] [--rounds 5] [--json]

Two calls are measured: `recommend` without a user, and `classify` of a 20 s clip in Ogg Vorbis. Interleaved trials of a
few seconds, each in a separate process, run closed loops with the asynchronous SDK over gRPC and with prepared
HTTP/1.1 requests. The SDK decodes the clip and sends PCM; the gateway receives the Ogg file and decodes it. Load
generators and servers share the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.arguments import amount, count
from benchmarks.closed_loop import closed_loop
from benchmarks.gateway_process import running_gateway
from benchmarks.http_clients import HttpClient, request_bytes
from tritone import AsyncMusicClient
from tritone.audio import iter_windows
from tritone_serving import ServerOptions, TritonServer

CLIP_S = 20.0
RATE_HZ = 44_100
CALLS = ("recommend", "classify")
MODELS = ("genre_cnn", "recommender", "taste_vae")


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--clients", type=count, default=32)
    parser.add_argument("--workers", type=count, default=1, help="worker processes of the gateway (1)")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--seconds", type=amount, default=4.0, help="length of each trial in seconds (4)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trial", nargs=4, metavar=("SIDE", "CALL", "ADDRESS", "CLIENTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trial:
        print(json.dumps(trial(*arguments.trial, seconds=arguments.seconds)))
        return
    result = measure(arguments)
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{arguments.rounds} rounds of {arguments.seconds:g} s each, {arguments.workers} workers; medians")
    print(f"{'':12}{'clients':>8}{'SDK/s':>9}{'p50 ms':>9}{'gateway/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>8}")
    for row in result["rows"]:
        print(
            f"{row['call']:12}{row['clients']:8}{row['sdk']['per_s']:9.0f}{row['sdk']['p50_ms']:9.2f}"
            f"{row['gateway']['per_s']:11.0f}{row['gateway']['p50_ms']:9.2f}{row['gateway']['p99_ms']:9.2f}"
            f"{row['ratio']:8.2f}"
        )
    print(f"a {CLIP_S:g} s clip: {result['ogg_bytes']:,} bytes as Ogg, {result['pcm_bytes']:,} bytes as PCM windows")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start a server and a gateway, and measure the SDK and the gateway in interleaved trials."""
    served = tuple(name for name in MODELS if list((arguments.repository / name).glob("[0-9]*")))
    options = ServerOptions(repository=arguments.repository, models=served, http_port=0, grpc_port=0, metrics_port=0)
    rows = []
    workers = ("--workers", str(arguments.workers))
    with TritonServer.start(options) as server, running_gateway(server.grpc_url, *workers) as gateway:
        for call in CALLS:
            for n_clients in (1, arguments.clients):
                rounds: dict[str, list[dict[str, float]]] = {"sdk": [], "gateway": []}
                for _ in range(arguments.rounds):
                    for side, address in (("sdk", server.grpc_url), ("gateway", gateway.url)):
                        rounds[side].append(in_process(side, call, address, n_clients, arguments.seconds))
                rows.append(row(call, n_clients, rounds))
    windows = sum(each.samples.nbytes for each in iter_windows(io.BytesIO(clip())))
    return {"rows": rows, "ogg_bytes": len(clip()), "pcm_bytes": windows, "workers": arguments.workers}


def row(call: str, n_clients: int, rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the medians over the rounds; the ratio of throughputs is the median of the ratios of each round."""

    def median(side: str, name: str) -> float:
        return statistics.median(each[name] for each in rounds[side])

    sides = {side: {name: median(side, name) for name in rounds[side][0]} for side in rounds}
    pairs = zip(rounds["gateway"], rounds["sdk"], strict=True)
    ratios = [gateway["per_s"] / sdk["per_s"] for gateway, sdk in pairs]
    return {"call": call, "clients": n_clients, **sides, "ratio": statistics.median(ratios), "ratios": ratios}


def in_process(side: str, call: str, address: str, n_clients: int, seconds: float) -> dict[str, float]:
    """Run one trial in a separate process."""
    command = [
        *(sys.executable, "-m", "benchmarks.load_gateway", "--seconds", str(seconds)),
        *("--trial", side, call, address, str(n_clients)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def trial(side: str, call: str, address: str, clients: str, *, seconds: float) -> dict[str, float]:
    """Run one trial."""
    if side == "sdk":
        return asyncio.run(sdk_loop(call, address, int(clients), seconds))
    body = json.dumps({"n": 10}).encode() if call == "recommend" else clip()
    media_type = "application/json" if call == "recommend" else "audio/ogg"
    request = request_bytes(f"/v1/{call}", body, {"Content-Type": media_type})
    port = int(address.rpartition(":")[2])

    def connect() -> HttpClient:
        return HttpClient(port, [request])

    closed_loop(connect, n_clients=int(clients), seconds=0.5)
    load = closed_loop(connect, n_clients=int(clients), seconds=seconds)
    return {"per_s": load.per_s, "p50_ms": load.p50_ms, "p99_ms": load.p99_ms, "failed": load.n_failed}


async def sdk_loop(call: str, address: str, n_clients: int, seconds: float) -> dict[str, float]:
    """Call the SDK in a closed loop."""
    times: list[float] = []
    recording = clip()
    async with AsyncMusicClient(address) as music:

        async def one() -> None:
            if call == "recommend":
                await music.recommend(n=10)
            else:
                await music.classify(recording)

        async def client(end_s: float) -> None:
            while time.perf_counter() < end_s:
                began_s = time.perf_counter()
                await one()
                times.append(time.perf_counter() - began_s)

        async def run(length_s: float) -> float:
            began_s = time.perf_counter()
            await asyncio.gather(*(client(began_s + length_s) for _ in range(n_clients)))
            return time.perf_counter() - began_s

        await run(0.5)
        times.clear()
        took_s = await run(seconds)
    return {
        "per_s": len(times) / took_s,
        "p50_ms": 1e3 * float(np.quantile(times, 0.5)),
        "p99_ms": 1e3 * float(np.quantile(times, 0.99)),
        "failed": 0,
    }


def clip() -> bytes:
    """Return a clip of chords as Ogg Vorbis, stereo at 44.1 kHz."""
    time_s = np.arange(int(CLIP_S * RATE_HZ)) / RATE_HZ
    mono = sum(np.sin(2 * np.pi * 220 * 2 ** (step / 12) * time_s) for step in (0, 4, 7, 12)) / 8
    noise = np.random.default_rng(0).normal(0, 0.02, (time_s.size, 2))
    file = io.BytesIO()
    soundfile.write(file, (mono[:, None] + noise).astype(np.float32), RATE_HZ, format="OGG", subtype="VORBIS")
    return file.getvalue()


if __name__ == "__main__":
    main()
