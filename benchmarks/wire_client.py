"""Client process of `benchmarks.wire`: sends recordings in each format over each protocol and prints times as JSON."""

from __future__ import annotations

import argparse
import functools
import io
import json
import sys
from collections.abc import Sequence
from typing import get_args

import numpy as np
import soundfile

from benchmarks.closed_loop import closed_loop
from tritone import MusicClient, TritoneError
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
            found.append({**about, "load": "clip", **load(music, clips, 1, arguments.seconds)})
            for n_clients in arguments.clients:
                row = load(music, windows, n_clients, arguments.seconds)
                found.append({**about, "load": f"window x {n_clients}", **row})
    sys.stdout.write(json.dumps(found) + "\n")


class Caller:
    """A client of a closed loop that classifies recordings in turn."""

    def __init__(self, music: MusicClient, recordings: Sequence[bytes]) -> None:
        self._music, self._recordings = music, recordings

    def call(self, index: int) -> bool:
        """Classify a recording and return whether that succeeded."""
        try:
            self._music.classify(self._recordings[index % len(self._recordings)])
        except TritoneError:
            return False
        return True

    def close(self) -> None:
        """Leave the connections open, which all clients share."""


def load(music: MusicClient, recordings: Sequence[bytes], n_clients: int, seconds: float) -> dict[str, float | int]:
    """Run clients that make their next call when the previous one has returned."""
    found = closed_loop(functools.partial(Caller, music, recordings), n_clients=n_clients, seconds=seconds)
    return {"per_s": found.per_s, "p50_ms": found.p50_ms, "p99_ms": found.p99_ms, "n_failed": found.n_failed}


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
