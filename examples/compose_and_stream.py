"""Compose a piece, continue it bar by bar while it is generated, and save both.

python examples/compose_and_stream.py --server localhost:8001 --bars 8 --seed 7
"""

from __future__ import annotations

import argparse
import time

from tritone import MusicClient


def main() -> None:
    """Compose with one request, then stream over gRPC."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="localhost:8001", help="gRPC address: streams need gRPC")
    parser.add_argument("--bars", type=int, default=8)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()

    with MusicClient(arguments.server) as music:
        opening = music.compose(bars=arguments.bars, seed=arguments.seed)
        opening.save("opening.mid")
        print(f"opening.mid: {len(opening.to_dict()['notes'])} notes, seed {opening.seed}")

        started = time.perf_counter()
        with music.stream_compose(prompt=opening, bars=arguments.bars, seed=arguments.seed) as stream:
            for chunk in stream:
                elapsed_ms = 1000 * (time.perf_counter() - started)
                print(f"after {elapsed_ms:.0f} ms: {len(chunk.to_dict()['notes'])} notes")
        stream.result().save("continued.mid")
        print("continued.mid")


if __name__ == "__main__":
    main()
