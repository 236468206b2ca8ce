"""A fake server for batch jobs, files for it, and what a job wrote."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tritone import MusicClient
from tritone.atomic import replacing
from tritone.batch import BatchOptions, run_batch
from tritone.exceptions import RequestTimeoutError
from tritone.messages import InferRequest, Request
from tritone.remote_files import STAGED_SUFFIX
from tritone.testing import FakeGenreModel, FakeServer, MockTransport

SHARES = {"jazz": 0.25, "rock": 0.75}
Fail = Callable[[Request], None]


class Server:
    """A fake server whose inferences can fail.

    Attributes:
        fail: called with each inference; raises the error to answer with.
        hangs: no request gets a response.
        row_s: seconds for each window of an inference. With 0.02 or more, a request has one window.
        n_rows: windows of each inference.
    """

    def __init__(self) -> None:
        self.fail: Fail = lambda request: None
        self.hangs = False
        self.row_s = 0.0
        self.n_rows: list[int] = []
        fake = FakeServer(FakeGenreModel(SHARES))

        def handle(request: Request) -> Any:
            if self.hangs:
                raise RequestTimeoutError("no response", timeout_s=1.0)
            if isinstance(request, InferRequest):
                self.n_rows.append(len(request.inputs["audio"]))
                time.sleep(self.row_s * self.n_rows[-1])
                self.fail(request)
            return fake(request)

        self.transport = MockTransport(handle)

    def run(self, source: object, out: object, **options: Any) -> Any:
        given = {"concurrency": 2, "outage_timeout_s": 0.3, **options}
        with MusicClient(transport=self.transport, retries=0) as music:
            stop, on_progress = given.pop("stop", None), given.pop("on_progress", None)
            job = BatchOptions(source=str(source), out=f"{out}/part-%05d.parquet", **given)
            return run_batch(music, job, stop=stop, on_progress=on_progress)


def write_tone(path: Path, duration_s: float = 1.0, *, gain: float = 0.3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    times_s = np.arange(round(8_000 * duration_s)) / 8_000
    soundfile.write(path, gain * np.sin(2 * np.pi * 440 * times_s), 8_000, format="WAV")
    return path


def leave_staged(path: Path) -> None:
    """Leave a temporary file, as a process that is killed while it writes `path`."""
    with replacing(path, staged_suffix=STAGED_SUFFIX, if_exists="keep") as staged:
        os.link(staged, path.with_name("kept"))
    path.with_name("kept").rename(staged)
    path.unlink()


def running_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("tritone-batch-")]


def paths_in(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.is_file())
