"""Serve a repository twice, classify without a pause, and kill one server: no call is lost.

python examples/deploy/two_replicas.py model_repository song.wav
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tritone import MusicClient
from tritone_serving import ServerOptions, TritonServer


def main() -> None:
    """Start both servers on free ports, and call them before and after one of them is killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("song", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    options = ServerOptions(repository=arguments.repository, http_port=0, grpc_port=0, metrics_port=0)

    with (
        TritonServer.start(options) as first,
        TritonServer.start(options) as second,
        MusicClient([first.grpc_url, second.grpc_url], retries=3) as music,
    ):
        print(f"two replicas: {count_calls(music, arguments.song, arguments.seconds)} calls, none lost")
        second.kill()
        print(f"one replica: {count_calls(music, arguments.song, arguments.seconds)} calls, none lost")


def count_calls(music: MusicClient, song: Path, seconds: float) -> int:
    """Classify without a pause and return how often; a lost call raises."""
    n_calls = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        music.classify(song)
        n_calls += 1
    return n_calls


if __name__ == "__main__":
    main()
