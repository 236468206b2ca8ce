"""Send many requests at once from one asynchronous program.

python examples/async_client.py song.wav --server localhost:8001 --n 20
"""

from __future__ import annotations

import argparse
import asyncio
import time

from tritone import AsyncMusicClient, ServerBusyError


async def run(server: str, song: str, n: int) -> None:
    """Classify a recording and compose at the same time; leave out what a busy server refuses."""
    async with AsyncMusicClient(server, timeout_s=60) as music:
        started = time.perf_counter()
        calls = [music.classify(song) for _ in range(n)] + [music.compose(bars=1, seed=seed) for seed in range(n)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        elapsed_s = time.perf_counter() - started
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, ServerBusyError):
            raise result
    done = [result for result in results if not isinstance(result, BaseException)]
    print(f"{len(done)} of {len(results)} answered in {elapsed_s:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("song")
    parser.add_argument("--server", default="localhost:8001")
    parser.add_argument("--n", type=int, default=20)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.server, arguments.song, arguments.n))
