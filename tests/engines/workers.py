"""What the workers of the tests do on Ray, and how a test waits for them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import tritone.ray


class SlowClassify(tritone.ray.Classify):
    """Takes a while for a batch, and writes the id of its process into a folder."""

    def __init__(self, *, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self._mark = Path(folder) / str(os.getpid())

    def __call__(self, batch: Any) -> Any:
        self._mark.touch()
        time.sleep(0.3)
        return super().__call__(batch)


def wait_for_workers(folder: Path, n: int) -> list[int]:
    """Return the ids of the processes of the first n workers."""
    ends_s = time.monotonic() + 60
    while len(found := sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)) < n:
        assert time.monotonic() < ends_s, f"{len(found)} of {n} workers began"
        time.sleep(0.05)
    return [int(path.name) for path in found]
