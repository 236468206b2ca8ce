"""A `tritone gateway` process on a free port of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GatewayProcess:
    """A gateway that answers requests.

    Attributes:
        pid: of the command; workers are its children.
    """

    url: str
    pid: int


@contextmanager
def running_gateway(server: str, *options: str, keys_file: Path | None = None) -> Iterator[GatewayProcess]:
    """Run a gateway for the models of a server until the block ends.

    Args:
        server: address of the models.
        options: further options of the command.
        keys_file: None for a gateway without keys.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "tritone_cli", "gateway", "--server", server, "--port", "0", "--json"),
            *("--keys-file", str(keys_file or Path(folder) / "keys.json"), "--drain", "0", *options),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            try:
                assert process.stdout is not None
                yield GatewayProcess(json.loads(process.stdout.readline())["url"], process.pid)
            finally:
                process.terminate()
