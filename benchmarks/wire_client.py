"""Client process of `benchmarks.wire`: sends recordings in each format over each protocol and prints times as JSON."""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import soundfile

from tritone import MusicClient
from tritone.constants import SAMPLE_RATE_HZ, WINDOW_S, AudioFormat

CLIP_S = 20.0
N_RECORDINGS = 8


def main() -> None:
    """Measure one round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grpc", required=True, help="address of the server for gRPC")
    parser.add_argument("--http", required=True)
    parser.add_argument("--formats", nargs="+", default=list(get_args(AudioFormat)))
    parser.add_argument("--clients", type=int, nargs="+", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--reverse", action="store_true", help="the last way first")
    arguments = parser.parse_args()
    clips = [ogg(CLIP_S, seed) for seed in range(N_RECORDINGS)]
    windows = [ogg(WINDOW_S, seed) for seed in range(N_RECORDINGS)]
    ways = [(protocol, each) for protocol in ("http", "grpc") for each in arguments.formats]
    found = []
    for protocol, audio_format in reversed(ways) if arguments.reverse else ways:
        with MusicClient(getattr(arguments, protocol), audio_format=audio_format) as music:
            music.classify(windows[0])
            about = {"protocol": protocol, "format": audio_format}
            found.append({**about, "load": "clip", **load(music.classify, clips, 1, arguments.seconds)})
            for n_clients in arguments.clients:
                row = load(music.classify, windows, n_clients, arguments.seconds)
                found.append({**about, "load": f"window x {n_clients}", **row})
    sys.stdout.write(json.dumps(found) + "\n")


def load(
    call: Callable[[Any], object], recordings: Sequence[Any], n_clients: int, seconds: float
) -> dict[str, float | int]:
    """Run clients that make their next call when the previous one has returned."""
    times: list[list[float]] = [[] for _ in range(n_clients)]
    failed = [0] * n_clients
    gate = threading.Barrier(n_clients + 1)
    deadline_s = float("inf")

    def client(place: int) -> None:
        gate.wait()
        index = place
        while time.perf_counter() < deadline_s:
            began_s = time.perf_counter()
            try:
                call(recordings[index % len(recordings)])
                times[place].append(time.perf_counter() - began_s)
            except Exception:
                failed[place] += 1
            index += 1

    threads = [threading.Thread(target=client, args=(place,)) for place in range(n_clients)]
    for thread in threads:
        thread.start()
    began_s = time.perf_counter()
    deadline_s = began_s + seconds
    gate.wait()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - began_s
    flat = [each for some in times for each in some] or [float("nan")]
    return {
        "per_s": sum(map(len, times)) / took_s,
        "p50_ms": 1e3 * statistics.median(flat),
        "p99_ms": 1e3 * float(np.quantile(flat, 0.99)),
        "n_failed": sum(failed),
    }


def ogg(duration_s: float, seed: int) -> bytes:
    """Return an Ogg Vorbis file of chords over noise, mono at 22,050 Hz, with peaks below full scale."""
    random = np.random.default_rng(seed)
    time_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    pitches_hz = 110 * 2 ** (random.integers(0, 36, 4) / 12)
    samples = 0.12 * np.sin(2 * np.pi * pitches_hz[:, None] * time_s).sum(0)
    file = io.BytesIO()
    noisy = samples + 0.02 * random.standard_normal(time_s.size)
    soundfile.write(file, noisy.astype(np.float32), SAMPLE_RATE_HZ, format="OGG")
    return file.getvalue()


if __name__ == "__main__":
    main()
