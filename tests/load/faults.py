"""Breaks a watched server under load in several ways and tells what its clients saw.

    python tests/load/faults.py

A small model with `genre_cnn`'s tensors, two instances, four clients without retries; loopback only, half a minute.
Noticed: until the watchdog says so. Again: until every instance answers. Failed: requests that got an error.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.server import conftest
from tests.server.python_models import Clients, Watched, watched

from tritone_serving.stubs import stubs_of

N_CLIENTS = 4
AFTER_S = 2.0


def main() -> None:
    """Print a Markdown table."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = f"{folder}/state"
        repository = conftest.make_repository(Path(folder) / "repository")
        config = repository / conftest.MODEL / "config.pbtxt"
        config.write_text(config.read_text().replace("count: 1", "count: 2"))
        print("| fault | noticed | again | requests answered | failed | what the failed were told |")
        print("|---|---|---|---|---|---|")
        for name, fault in FAULTS.items():
            with watched(repository) as dog:
                print(_row(name, fault, dog), flush=True)


def _row(name: str, fault: Callable[[Watched], None], dog: Watched) -> str:
    rng = np.random.default_rng()

    def inputs() -> dict[str, Any]:
        return {"audio": rng.random((1, conftest.WINDOW_SAMPLES), np.float32)}

    with Clients(dog.grpc_url, conftest.MODEL, inputs, n=N_CLIENTS) as clients:
        time.sleep(AFTER_S)
        begun_s = time.monotonic()
        fault(dog)
        noticed_s = dog.noticed("")
        dog.noticed("again after", timeout_s=20)
        again_s = time.monotonic() - begun_s
        time.sleep(AFTER_S)
    told = sorted({error.partition(": ")[2][:60] for error in clients.errors})
    return (
        f"| {name} | {noticed_s:.1f} s | {again_s:.1f} s | {sum(clients.got.values())} | {len(clients.errors)} | "
        f"{'; '.join(told) or '-'} |"
    )


def _stub(number: signal.Signals, n: int) -> Callable[[Watched], None]:
    def fault(dog: Watched) -> None:
        for stub in stubs_of(dog.server.pid)[:n]:
            os.kill(stub.pid, number)

    return fault


def _server(number: signal.Signals) -> Callable[[Watched], None]:
    return lambda dog: os.kill(dog.server.pid, number)


FAULTS = {
    "kill -9 of one of two stubs": _stub(signal.SIGKILL, 1),
    "SIGSTOP of one of two stubs": _stub(signal.SIGSTOP, 1),
    "kill -9 of both stubs": _stub(signal.SIGKILL, 2),
    "kill -9 of the server": _server(signal.SIGKILL),
    "SIGSTOP of the server": _server(signal.SIGSTOP),
}

if __name__ == "__main__":
    main()
