"""Inject faults into a service under load and report what its clients observed.

    make chaos     or   python -m benchmarks.faults [FAULT ...] [--modes one two] [--report FILE] [--json]

A small model with `genre_cnn`'s tensors and two instances is served by `tritone serve` with its supervisor to four
clients that send requests without pause. Each fault is injected twice:
    one   one server, clients without retries: the effect of the fault itself
    two   two replicas, clients with the SDK's retries: no call may be lost, or the exit status is 1
(Faults of the balancer have two replicas behind it in both modes, and clients that know only its address.) Everything
is on loopback. A full disk is a mounted file system of a few MB that only the server sees; a jumping clock is
libfaketime's. A fault that this machine cannot inject is reported as such. Takes a few minutes.

Columns: requests; lost, those that ended in an error; the longest time in which no client got a response; noticed, the
time until the supervisor reported the fault; serving again, the time until the server answered all canaries again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.deploy.balancing import HOSTS, free_ports
from tests.deploy.name_server import NameServer
from tests.integration.conftest import MODEL, make_repository

from benchmarks.fault_clients import Clients, seen
from benchmarks.fault_injection import FAULTS, Fault, FaultSetup, starter
from benchmarks.fault_report import markdown, page
from benchmarks.replica import Replica
from tritone_serving.server import runtime_folder as runtime

MODES = {"one": "one server, no retries", "two": "two replicas, SDK's retries"}
# A balancer is one address: nobody else can be asked while it is away, so retries have to last longer than that.
BALANCED_RETRIES = 5
BALANCED = {"one": "two replicas behind it, no retries", "two": f"two replicas behind it, retries={BALANCED_RETRIES}"}
BEFORE_S = 1.5
AFTER_S = 2.0
HEALED_S = 30.0
PROBE_S = 0.1
DISK_MB = 4


def main() -> None:
    """Break all that is asked for; print a Markdown table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(FAULTS)}; default: all")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument(
        "--report", type=Path, help="file for the table with its legend, as docs/benchmarks/faults.md is"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.faults) - FAULTS.keys())
    if unknown:
        parser.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    rows = []
    for key in arguments.faults or FAULTS:
        for mode in arguments.modes:
            rows.append({"fault": key, "mode": mode, **row(FAULTS[key], mode)})
            sys.stderr.write(f"{markdown(rows[-1:], head=not rows[1:])}")
    runtime.remove_left_behind()  # of those that had to be killed
    passed = not any(each.get("lost") for each in rows if each["mode"] == "two")
    if arguments.report:
        arguments.report.write_text(page(rows, MODES), encoding="utf-8")
    sys.stdout.write(json.dumps({"rows": rows, "passed": passed}) + "\n" if arguments.json else markdown(rows))
    sys.exit(0 if passed else 1)


def row(fault: Fault, mode: str) -> dict[str, Any]:
    """Break one thing in one world."""
    clients_are = (BALANCED if fault.balanced else MODES)[mode]
    named = {"name": fault.name, "clients": clients_are, "missing": fault.missing()}
    if named["missing"]:
        return named
    with tempfile.TemporaryDirectory(prefix="tritone-chaos-") as folder, world_for(fault, mode, Path(folder)) as world:
        behind = world.balancer.grpc if world.balancer else None
        addresses = [behind] if behind else [replica.grpc_url for replica in world.replicas]
        retries = 0 if mode == "one" else BALANCED_RETRIES if fault.balanced else None
        with (
            Clients(addresses, retries=retries, long_clips=fault.long_clips) as clients,
            Watching(world.broken) as watching,
        ):
            time.sleep(BEFORE_S)
            fault_s = time.monotonic()
            fault.act(world)
            healed = watching.wait_healed(fault_s)
            time.sleep(AFTER_S)
        noticed = [at_s for at_s, _ in world.broken.said if at_s >= fault_s]
        return {
            **named,
            **seen(clients.calls, fault_s),
            "noticed_s": min(noticed) - fault_s if noticed else None,
            "again_s": watching.again_s(fault_s) if healed else None,
            "healed": healed,
            "said": [line for at_s, line in world.broken.said if at_s >= fault_s],
            "notes": world.notes,
        }


class Watching:
    """Asks a replica all the time whether it is well."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._looks: list[tuple[float, bool]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def wait_healed(self, fault_s: float) -> bool:
        """Whether it answers again, for good, and the watchdog that began to mend has said that it has."""
        since_s, end_s = time.monotonic(), time.monotonic() + HEALED_S
        while time.monotonic() < end_s:
            well = [is_well for at_s, is_well in self._looks if at_s > since_s][-5:]
            said = [line for at_s, line in list(self._replica.said) if at_s >= fault_s]
            mending = any("reloading it" in line or "restarting" in line for line in said[-1:])
            if len(well) == 5 and all(well) and not mending:
                return True
            time.sleep(PROBE_S)
        return False

    def again_s(self, fault_s: float) -> float:
        """Seconds until the last failed look, or the watchdog's last word that it serves again; 0 if neither came."""
        failed = [at_s for at_s, is_well in self._looks if at_s >= fault_s and not is_well]
        mended = [at_s for at_s, line in self._replica.said if at_s >= fault_s and " again after" in line]
        return max([fault_s, *failed, *mended]) - fault_s

    def _look(self) -> None:
        while not self._stop.wait(PROBE_S):
            is_well = self._replica.answers()
            self._looks.append((time.monotonic(), is_well))


@contextlib.contextmanager
def world_for(fault: Fault, mode: str, folder: Path) -> Iterator[FaultSetup]:
    """Replicas, and what else a fault needs."""
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder / "disk")) if fault.small_disk else None
        make_repository(folder / "original")
        config = folder / "original" / MODEL / "config.pbtxt"
        config.write_text(config.read_text().replace("count: 1", "count: 2"))
        repository = Path(shutil.copytree(folder / "original", (disk or folder) / "repository"))
        http, grpc, metrics = free_ports(3, "0.0.0.0")  # noqa: S104  - looked for on every address, bound on none
        world = FaultSetup(folder, repository, [], disk)
        for number, host in enumerate(HOSTS if mode == "two" or fault.balanced else HOSTS[:1]):
            is_broken = number == 0
            replica = Replica(
                repository, folder / host, host=host, ports=(http, grpc, metrics), own_shm=fault.own_shm,
                own_clock=fault.own_clock and is_broken, log_folder=disk if is_broken else None,
            )  # fmt: skip
            stack.callback(replica.stop)
            world.replicas.append(replica)
        if fault.balanced:
            names = NameServer(list(HOSTS))
            stack.callback(names.close)
            listen = dict(zip(("HTTP", "GRPC", "STATS", "HTTPS", "GRPCS"), free_ports(5), strict=True))
            world.balance = lambda: starter(names.place, (http, grpc), folder / "balancer.log", listen)
            world.balancer = world.balance()
            stack.callback(lambda: world.balancer and world.balancer.stop())
        yield world


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A disk of a few MB."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def in_own_namespace() -> None:
    """Go on where what is mounted is seen by nobody else, if this user may; returns if it is so already or may not."""
    marker = "TRITONE_FAULTS_NAMESPACE"
    wrapper = ["unshare", "--mount", "--propagation", "private"]
    if os.environ.get(marker) or shutil.which("unshare") is None:
        return
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[marker] = "1"
        os.execvp(wrapper[0], [*wrapper, sys.executable, *sys.argv])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    in_own_namespace()
    main()
