"""A `tritone serve` process, optionally with its own shared memory and clock."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tritone.endpoints import make_endpoint
from tritone_serving import CanaryError
from tritone_serving.admin import AdminApi
from tritone_serving.calls import Calls
from tritone_serving.canary import probe
from tritone_serving.supervision.processes import family

SHM_MB = 96
STOP_S = 4.0
# The replica gets a mount namespace with its own /dev/shm, like a container.
IN_OWN_SHM = ("unshare", "--mount", "--propagation", "private", "sh", "-c",
              f'mount -t tmpfs -o size={SHM_MB}m tmpfs /dev/shm && exec "$@"', "sh")  # fmt: skip


class Replica:
    """A server with its watchdog.

    Attributes:
        log_lines: lines of the command's stderr, with their times on the monotonic clock.
        clock: file with the offset of the server's clock, such as `+3600`, read by libfaketime. None: the real clock.
    """

    def __init__(
        self, repository: Path, folder: Path, *, host: str, ports: tuple[int, int, int],
        own_shm: bool = False, own_clock: bool = False, log_folder: Path | None = None,
    ) -> None:  # fmt: skip
        folder.mkdir()
        self.host, self.ports, self.repository = host, ports, repository
        self.log = (log_folder or folder) / "server.log"
        self.clock = folder / "clock" if own_clock else None
        self.log_lines: list[tuple[float, str]] = []
        self._state = folder / "state"
        self._wrapper = IN_OWN_SHM if own_shm else ()
        self.start()

    @property
    def grpc_url(self) -> str:
        return f"{self.host}:{self.ports[1]}"

    @property
    def http_url(self) -> str:
        return f"http://{self.host}:{self.ports[0]}"

    @property
    def server_pid(self) -> int:
        """Process id of the current Triton server, which the watchdog may have restarted.

        Raises:
            ProcessLookupError: no server runs.
        """
        for pid in family(self.process.pid):
            with contextlib.suppress(OSError):
                if (Path(f"/proc/{pid}/exe")).resolve().name == "tritonserver":
                    return pid
        raise ProcessLookupError(f"{self.grpc_url}: no tritonserver runs")

    @property
    def shared_memory(self) -> Path:
        """The replica's own /dev/shm, as other processes can reach it."""
        return Path(f"/proc/{self.process.pid}/root/dev/shm")

    @property
    def token_path(self) -> Path:
        """The file with the admin token."""
        return Path(self._started["token"])

    def admin(self) -> AdminApi:
        """Return a client of the admin API with the server's token."""
        return AdminApi(self.host, self.ports[0], token=self.token_path.read_text().strip())

    def start(self) -> None:
        """Start or restart the replica and wait until it is ready.

        Raises:
            RuntimeError: it does not start.
        """
        names = zip(("http", "grpc", "metrics"), self.ports, strict=True)
        ports = [f"--{name}-port={port}" for name, port in names]
        command = [
            *self._wrapper, sys.executable, "-m", "tritone_cli", "serve", "--repository", str(self.repository),
            "--json", "--host", self.host, "--log-file", str(self.log), *ports,
        ]  # fmt: skip
        environment = {**os.environ, "XDG_STATE_HOME": str(self._state)}
        if self.clock is not None:
            self.clock.write_text("+0")
            environment |= {
                "LD_PRELOAD": str(libfaketime()), "FAKETIME_TIMESTAMP_FILE": str(self.clock), "FAKETIME_NO_CACHE": "1",
                # Only the wall clock jumps; the monotonic clock and file times do not.
                "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
            }  # fmt: skip
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._reader = threading.Thread(target=self._listen, args=(self.process,), daemon=True)
        self._reader.start()
        line = self.process.stdout.readline() if self.process.stdout else b""
        if not line:
            self._reader.join(5)
            raise RuntimeError(f"{self.grpc_url} does not start: {[text for _, text in self.log_lines[-3:]]}")
        self._started = json.loads(line)

    def kill(self) -> None:
        """Kill all processes, the watchdog first."""
        pids = family(self.process.pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._close_pipes()

    def stop(self) -> None:
        """Terminate the replica; kill it if it does not end in time."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._close_pipes()

    def _close_pipes(self) -> None:
        self._reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None and not self._reader.is_alive():
                pipe.close()

    def answers(self, timeout_s: float = 1.0) -> bool:
        """Return whether every model answers a canary."""
        try:
            with Calls(make_endpoint(self.grpc_url)) as calls:
                return all(each.ok for each in probe(calls, timeout_s=timeout_s))
        except CanaryError:
            return False

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        for line in process.stderr or ():
            self.log_lines.append((time.monotonic(), line.decode("utf-8", "replace").strip()))


@functools.cache
def libfaketime() -> Path | None:
    """Return the shared library of PyPI's `libfaketime`, which changes a program's clock; None if it is not installed.

    With Debian 12's package, 0.9.10, Python's `time.sleep` fails or never ends after a jump of the wall clock.
    """
    spec = importlib.util.find_spec("libfaketime")
    found = list(Path(spec.origin).parent.rglob("libfaketime.so.1")) if spec is not None and spec.origin else []
    return found[0] if found else None


@functools.cache
def may_mount() -> bool:
    """Return whether this process may mount a file system in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*IN_OWN_SHM, "true"], capture_output=True, check=False).returncode == 0
