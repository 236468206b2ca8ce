"""The faults: how each is injected, and undone if the service does not recover from it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.balancing import Balancer, haproxy_path, start_haproxy
from tests.integration.conftest import MODEL

from benchmarks.fault_clients import shortened
from benchmarks.replica import Replica, libfaketime, may_mount
from tritone_serving import AdminApiError
from tritone_serving.supervision.processes import family, stubs_of

HOLD_S = 5.0  # duration of a stop or a full disk
HOUR_S = 3600


@dataclass
class FaultSetup:
    """The service into which a fault is injected.

    Attributes:
        replicas: they serve the same repository; the first is the one with the fault.
        disk: a small disk with the repository and the log of the first replica; None unless the fault needs it.
        balance: starts or restarts the balancer.
    """

    folder: Path
    repository: Path
    replicas: list[Replica]
    disk: Path | None = None
    balancer: Balancer | None = None
    balance: Callable[[], Balancer] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def broken(self) -> Replica:
        return self.replicas[0]


@dataclass(frozen=True)
class Fault:
    """A fault and the setup that it needs.

    Attributes:
        act: injects the fault and returns when it has ended; it does not wait for the recovery.
        own_shm, own_clock, small_disk, balanced: required parts of the setup.
        long_clips: clients also send large requests.
    """

    name: str
    act: Callable[[FaultSetup], None]
    own_shm: bool = False
    own_clock: bool = False
    small_disk: bool = False
    balanced: bool = False
    long_clips: bool = False

    def missing(self) -> str:
        """Return what this machine lacks for the fault; empty if nothing."""
        if (self.own_shm or self.small_disk) and not may_mount():
            return "this user may not mount a file system (root may)"
        if self.own_clock and libfaketime() is None:
            return "libfaketime is not installed (pip install libfaketime)"
        if self.balanced and haproxy_path() is None:
            return "HAProxy is not installed (Debian: apt install haproxy)"
        return ""


def _kill_stubs(n: int) -> Callable[[FaultSetup], None]:
    def act(setup: FaultSetup) -> None:
        for stub in stubs_of(setup.broken.server_pid)[:n]:
            os.kill(stub.pid, signal.SIGKILL)

    return act


def _stop_stub(setup: FaultSetup) -> None:
    _stopped(stubs_of(setup.broken.server_pid)[0].pid)


def _stop_server(setup: FaultSetup) -> None:
    _stopped(setup.broken.server_pid)


def _stopped(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(HOLD_S)
    with contextlib.suppress(ProcessLookupError):  # the watchdog may have killed it
        os.kill(pid, signal.SIGCONT)


def _kill_server(setup: FaultSetup) -> None:
    os.kill(setup.broken.server_pid, signal.SIGKILL)


def _kill_replica(setup: FaultSetup) -> None:
    setup.broken.kill()
    time.sleep(HOLD_S)
    setup.broken.start()


def _fill_shm(setup: FaultSetup) -> None:
    _filled(setup.broken.shared_memory)


def _fill_disk(setup: FaultSetup) -> None:
    """Fill the disk of the log and the repository, and try to publish a version meanwhile."""
    if setup.disk is None:
        raise RuntimeError("the setup has no small disk")

    def publish() -> None:
        setup.notes.append(f"publish: {_publish(setup, _exported(setup, spoilt=False))}")

    _filled(setup.disk, publish)


def _filled(disk: Path, meanwhile: Callable[[], None] = lambda: None) -> None:
    path = disk / "filling"
    begun_s = time.monotonic()
    try:
        with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        meanwhile()
        time.sleep(max(0.0, HOLD_S - (time.monotonic() - begun_s)))
    finally:
        path.unlink(missing_ok=True)


def _jump_clock(setup: FaultSetup) -> None:
    clock = setup.broken.clock
    if clock is None:
        raise RuntimeError("the server has no clock of its own")
    for seconds in (HOUR_S, -HOUR_S, 0):
        _set_clock(clock, seconds)
        time.sleep(HOLD_S / 2)


def _set_clock(clock: Path, seconds: int) -> None:
    new = clock.with_suffix(".new")
    new.write_text(f"{seconds:+d}")
    new.replace(clock)


def _load_damaged(setup: FaultSetup) -> None:
    """Copy a damaged version into the repository and load it on every replica."""
    version = setup.repository / MODEL / "2"
    version.mkdir()
    whole = (setup.repository / MODEL / "1" / "model.onnx").read_bytes()
    (version / "model.onnx").write_bytes(whole[: len(whole) // 2])
    for replica in setup.replicas:
        try:
            replica.admin().load(MODEL)
            setup.notes.append("loaded")
        except AdminApiError as error:
            setup.notes.append(f"load: {shortened(str(error))}")
    time.sleep(HOLD_S / 2)
    shutil.rmtree(version)


def _publish_damaged(setup: FaultSetup) -> None:
    setup.notes.append(f"publish: {_publish(setup, _exported(setup, spoilt=True))}")


def _exported(setup: FaultSetup, *, spoilt: bool) -> Path:
    """Return a repository with a new version, as exported on another machine."""
    folder = setup.folder / f"exported{len(setup.notes)}"
    shutil.copytree(setup.folder / "original", folder)
    if spoilt:
        path = folder / MODEL / "1" / "model.onnx"
        path.write_bytes(path.read_bytes()[:1000])
    return folder


def _publish(setup: FaultSetup, exported: Path) -> str:
    replica = setup.broken
    done = subprocess.run(
        [
            sys.executable, "-m", "tritone_cli", "publish", MODEL, "--from", str(exported), "--max-slowdown", "20",
            "--repository", str(setup.repository), "--server", f"{replica.http_url},{replica.grpc_url}",
            "--admin-token-file", str(replica.token_path),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"exit {done.returncode}, {shortened(done.stderr or done.stdout)}"


def _roll_out(setup: FaultSetup) -> None:
    shutil.copytree(setup.repository / MODEL / "1", setup.repository / MODEL / "2")
    for replica in setup.replicas:
        replica.admin().load(MODEL)
        time.sleep(HOLD_S)


def _reload_balancer(setup: FaultSetup) -> None:
    if setup.balancer is not None:
        setup.balancer.process.send_signal(signal.SIGUSR2)


def _restart_balancer(setup: FaultSetup) -> None:
    if setup.balancer is None or setup.balance is None:
        raise RuntimeError("the setup has no balancer")
    for pid in family(setup.balancer.process.pid):
        os.kill(pid, signal.SIGKILL)
    setup.balancer.process.wait()
    setup.balancer = setup.balance()


def starter(names: str, ports: tuple[int, int], log: Path, listen: dict[str, int] | None) -> Balancer:
    """Start a balancer without a rate limit per client."""
    return start_haproxy(names, ports, log, ports=listen, TRITONE_MAX_REQUESTS_10S="1000000")


FAULTS = {
    "stub": Fault("kill -9 of one of two stubs", _kill_stubs(1)),
    "stubs": Fault("kill -9 of both stubs", _kill_stubs(2)),
    "stub-stop": Fault("SIGSTOP of one of two stubs for 5 s", _stop_stub),
    "server": Fault("kill -9 of the server", _kill_server),
    "server-stop": Fault("SIGSTOP of the server for 5 s", _stop_server),
    "replica": Fault("kill -9 of server and watchdog, back after 5 s", _kill_replica),
    "shm-full": Fault("/dev/shm full for 5 s", _fill_shm, own_shm=True, long_clips=True),
    "disk-full": Fault("disk of repository and log full for 5 s", _fill_disk, small_disk=True),
    "clock": Fault("clock jumps: an hour on, two back, one on", _jump_clock, own_clock=True),
    "bad-load": Fault("damaged new version, loaded by hand", _load_damaged),
    "bad-publish": Fault("damaged new version, published", _publish_damaged),
    "rollout": Fault("new version, loaded by one replica after another, 5 s apart", _roll_out),
    "balancer-rollout": Fault("new version behind the load balancer, 5 s apart", _roll_out, balanced=True),
    "balancer-reload": Fault("load balancer reloaded", _reload_balancer, balanced=True),
    "balancer-kill": Fault("kill -9 of the load balancer, started again at once", _restart_balancer, balanced=True),
}
