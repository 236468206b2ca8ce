"""What a peer is to the comparison: a service that is prepared, started, called and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.http_clients import ask, connect
from benchmarks.peers.workloads import Array, Workload
from tritone_serving.server.command import claim_ports
from tritone_serving.supervision.processes import family

Transport = Literal["http", "grpc"]
SERVICES = Path(__file__).parent / "services"
START_S = 90.0
STOP_S = 15.0
N_WORKERS = 2


class PeerError(Exception):
    """Raised when a peer cannot be installed or started, or returns something else than the model's outputs."""


@dataclass(frozen=True)
class Request:
    """A request as a peer expects it.

    Attributes:
        target: path of the URL, or name of the gRPC method.
        body: body of the HTTP request, or serialised message.
        headers: headers of HTTP, or metadata of gRPC.
    """

    target: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Peer:
    """A service of the models, which can be started again; subclasses override what differs.

    The methods of this class are those of a service that takes raw bytes over HTTP.

    Attributes:
        name: name on the command line.
        title: name in the table.
        version_of: the distribution whose version the table states.
        requirements: file in `environments` with its packages; None for the environment of this project.
        protocols: what goes over the wire, by transport.
        settings: how it is tuned, in one line.
        n_threads: threads of each session; 0 is ONNX Runtime's default.
        only: the models that it is measured with; None for all.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version_of: ClassVar[str]
    requirements: ClassVar[str | None] = None
    protocols: ClassVar[Mapping[Transport, str]] = {"http": "raw values"}
    settings: ClassVar[str]
    n_threads: ClassVar[int] = 1
    only: ClassVar[frozenset[str] | None] = None

    def __init__(self, python: Path, models: Mapping[str, Path], folder: Path) -> None:
        """Claim the ports of a peer.

        Args:
            python: interpreter of its environment.
            models: ONNX files by model name.
            folder: folder for its files and its log, which must exist.
        """
        self.python, self.models, self.folder = python, models, folder
        self.ports = claim_ports("127.0.0.1", dict.fromkeys([*self.protocols, "other"], 0))
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def takes(cls, model: str) -> bool:
        """Return whether it is measured with a model."""
        return cls.only is None or model in cls.only

    def prepare(self) -> None:
        """Write the files that the service reads to the folder; called before each start."""

    def command(self) -> list[str]:
        """Return the command that starts the service."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return the environment variables of the service, besides those of this process."""
        return {}

    def is_ready(self) -> bool:
        """Return whether all its workers are ready.

        Raises:
            OSError: it does not listen yet.
        """
        raise NotImplementedError

    def encode(self, transport: Transport, workload: Workload, inputs: Mapping[str, Array]) -> Request:
        """Return a request with inputs of a workload."""
        body = b"".join(array.tobytes() for array in inputs.values())
        return Request(f"/infer/{workload.model}", body, {"Content-Type": "application/octet-stream"})

    def decode(self, transport: Transport, body: bytes, workload: Workload) -> npt.NDArray[np.float32]:
        """Return the outputs in a response one after another.

        Raises:
            PeerError: the response does not hold them.
        """
        return last_values(body, workload)

    def start(self) -> None:
        """Start the service and wait until it is ready.

        Raises:
            PeerError: it ends or is not ready in time.
        """
        self.prepare()
        paths = {name: str(path.resolve()) for name, path in self.models.items()}
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH" or self.requirements is None},
            "PEER_MODELS": json.dumps(paths),
            "PEER_THREADS": str(self.n_threads),
            **self.environment(),
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(), cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline_s = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError):
                if self.is_ready():
                    return
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                last = self.log.read_text(errors="replace").strip().splitlines()[-8:]
                self.stop()
                raise PeerError(f"{self.title} does not start; the end of its log:\n" + "\n".join(last))
            time.sleep(0.05)

    def stop(self) -> None:
        """End all its processes."""
        if self._process is None:
            return
        pids = self.pids()
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def pids(self) -> list[int]:
        """Return the ids of its processes."""
        return family(self._process.pid) if self._process is not None else []

    @property
    def log(self) -> Path:
        """File with what its processes print."""
        return self.folder / "log.txt"


def http_get(port: int, path: str) -> tuple[int, bytes]:
    """Return status and body of a GET request to this machine.

    Raises:
        OSError: nothing listens, or the connection was lost.
    """
    with connect(port) as connection:
        return ask(connection, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())


def last_values(body: bytes, workload: Workload) -> npt.NDArray[np.float32]:
    """Return the outputs at the end of a body.

    Raises:
        PeerError: the body is shorter than the outputs.
    """
    n_bytes = workload.expected.nbytes
    if len(body) < n_bytes:
        raise PeerError(f"expected {n_bytes} bytes of outputs of {workload.model}, got {body[:200]!r}")
    return np.frombuffer(body[-n_bytes:], np.float32)
