"""Latency of one process whose memory is limited by a cgroup, page cache included; see `memory_recommender`.

A module of its own, because the process should have no other memory than that of the recommender.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale_recommender import KEY
from tritone_serving.recommender import Recommender, RecommendRequest, RecommendResponse
from tritone_serving.recommender.memory import keep_freed_memory

K = 10
N_REQUESTS = 300
# Hierarchies of versions 2 and 1: their folder, the files of limit and peak, and that of swap with the value by which
# nothing is swapped; {limit} is the limit. The file is missing if the kernel does not count swap.
CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.peak", ("memory.swap.max", "0")),
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.max_usage_in_bytes",
        ("memory.memsw.limit_in_bytes", "{limit}"),
    ),
)


def limited(artifact: Path, limit_mb: int | None) -> dict[str, Any]:
    """Return the times and page faults of one process within a limit of memory, with an artifact that is not in memory.

    Raises:
        OSError: no cgroup can be made.
        RuntimeError: the process failed.
    """
    evict(artifact)
    command = [sys.executable, "-m", "benchmarks.limited_memory", str(artifact)]
    with _cgroup(limit_mb) as (enter, peak_mb):
        ended = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=enter)
        if ended.returncode:
            raise RuntimeError(f"within {limit_mb} MiB: ended with {ended.returncode}: {ended.stderr[-500:]}")
        return {"limit_mb": limit_mb, **json.loads(ended.stdout), "peak_mb": peak_mb()}


def evict(folder: Path) -> None:
    """Drop the files of a folder from the page cache, so that they are read from the disk again."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _cgroup(limit_mb: int | None) -> Iterator[Any]:
    """Make a cgroup with a limit; yield what a process calls to enter it, and what returns its peak memory."""
    if limit_mb is None:
        yield (lambda: None), (lambda: None)
        return
    for root, limit, peak, swap in CGROUPS:
        group = root / f"tritone-memory-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if not (group / limit).exists():  # version 2 without the memory controller, or another hierarchy
                continue
            set_limit(group, limit, swap, limit_mb)
            yield (
                (lambda group=group: (group / "cgroup.procs").write_text(str(os.getpid()))),
                (lambda group=group, peak=peak: round(int((group / peak).read_text()) / 2**20)),
            )
            return
        finally:
            group.rmdir()
    raise OSError("no cgroup can be made for a limit of memory: run as root with a writable /sys/fs/cgroup")


def set_limit(group: Path, limit: str, swap: tuple[str, str], limit_mb: int) -> None:
    """Limit the memory of a cgroup to so many MiB, of which nothing may be swapped out."""
    n_bytes = str(limit_mb << 20)
    (group / limit).write_text(n_bytes)  # first, since version 1 refuses a smaller sum of memory and swap
    name, value = swap
    if (group / name).exists():
        (group / name).write_text(value.format(limit=n_bytes))


def alone(artifact: Path) -> dict[str, Any]:
    """Open an artifact and make the same requests twice; return times and page faults."""
    keep_freed_memory()  # as the backend does
    began_s = time.perf_counter()
    recommender = Recommender.open(artifact, key=KEY)
    result: dict[str, Any] = {"open_s": round(time.perf_counter() - began_s, 3)}
    users = np.random.default_rng(0).permutation(recommender.artifact.n_users)[:N_REQUESTS].tolist()
    for name in ("first", "again"):
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        times = []
        for user in users:
            began_s = time.perf_counter()
            [found] = recommender.recommend([RecommendRequest(user=f"user-{user}", k=K)])
            times.append(time.perf_counter() - began_s)
            if not isinstance(found, RecommendResponse):
                raise found
        result[name] = {
            "p50_ms": round(1e3 * float(np.quantile(times, 0.5)), 2),
            "p99_ms": round(1e3 * float(np.quantile(times, 0.99)), 2),
            "major_faults": resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults,
        }
    return result


if __name__ == "__main__":
    print(json.dumps(alone(Path(sys.argv[1]))))
