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
# A balancer is a single address, so retries must last longer than its restart.
BALANCED_RETRIES = 5
BALANCED = {"one": "two replicas behind it, no retries", "two": f"two replicas behind it, retries={BALANCED_RETRIES}"}
BEFORE_S = 1.5
AFTER_S = 2.0
HEALED_S = 30.0
PROBE_S = 0.1
DISK_MB = 4


def main() -> None:
    """Inject the given faults and print a Markdown table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"one of {', '.join(FAULTS)}; default: all")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument(
        "--report", type=Path, help="Markdown file for the table and its legend, such as docs/benchmarks/faults.md"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.faults) - FAULTS.keys())
    if unknown:
        parser.error(f"unknown fault {', '.join(unknown)}: expected one of {', '.join(FAULTS)}")
    rows = []
    for key in arguments.faults or FAULTS:
        for mode in arguments.modes:
            rows.append({"fault": key, "mode": mode, **row(FAULTS[key], mode)})
            sys.stderr.write(f"{markdown(rows[-1:], head=not rows[1:])}")
    runtime.remove_left_behind()  # folders of servers that were killed
    passed = not any(each.get("lost") for each in rows if each["mode"] == "two")
    if arguments.report:
        arguments.report.write_text(page(rows, MODES), encoding="utf-8")
    sys.stdout.write(json.dumps({"rows": rows, "passed": passed}) + "\n" if arguments.json else markdown(rows))
    sys.exit(0 if passed else 1)


def row(fault: Fault, mode: str) -> dict[str, Any]:
    """Inject one fault in one mode and return the results."""
    clients_are = (BALANCED if fault.balanced else MODES)[mode]
    named = {"name": fault.name, "clients": clients_are, "missing": fault.missing()}
    if named["missing"]:
        return named
    with tempfile.TemporaryDirectory(prefix="tritone-chaos-") as folder, setup_for(fault, mode, Path(folder)) as setup:
        behind = setup.balancer.grpc if setup.balancer else None
        addresses = [behind] if behind else [replica.grpc_url for replica in setup.replicas]
        retries = 0 if mode == "one" else BALANCED_RETRIES if fault.balanced else None
        with (
            Clients(addresses, retries=retries, long_clips=fault.long_clips) as clients,
            HealthProbe(setup.broken) as probes,
        ):
            time.sleep(BEFORE_S)
            fault_s = time.monotonic()
            fault.act(setup)
            healed = probes.wait_healed(fault_s)
            time.sleep(AFTER_S)
        noticed = [at_s for at_s, _ in setup.broken.log_lines if at_s >= fault_s]
        return {
            **named,
            **seen(clients.calls, fault_s),
            "noticed_s": min(noticed) - fault_s if noticed else None,
            "again_s": probes.again_s(fault_s) if healed else None,
            "healed": healed,
            "log": [line for at_s, line in setup.broken.log_lines if at_s >= fault_s],
            "notes": setup.notes,
        }


class HealthProbe:
    """Probes a replica continuously in a thread."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._results: list[tuple[float, bool]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> HealthProbe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def wait_healed(self, fault_s: float) -> bool:
        """Wait until five probes in a row succeed and no repair is in progress; return False after 30 s."""
        since_s, end_s = time.monotonic(), time.monotonic() + HEALED_S
        while time.monotonic() < end_s:
            well = [is_well for at_s, is_well in self._results if at_s > since_s][-5:]
            lines = [line for at_s, line in list(self._replica.log_lines) if at_s >= fault_s]
            is_repairing = any("reloading it" in line or "restarting" in line for line in lines[-1:])
            if len(well) == 5 and all(well) and not is_repairing:
                return True
            time.sleep(PROBE_S)
        return False

    def again_s(self, fault_s: float) -> float:
        """Return the time from the fault to the last failed probe or reported recovery; 0 if there was neither."""
        failed = [at_s for at_s, is_well in self._results if at_s >= fault_s and not is_well]
        recovered = [at_s for at_s, line in self._replica.log_lines if at_s >= fault_s and " again after" in line]
        return max([fault_s, *failed, *recovered]) - fault_s

    def _run(self) -> None:
        while not self._stop.wait(PROBE_S):
            is_well = self._replica.answers()
            self._results.append((time.monotonic(), is_well))


@contextlib.contextmanager
def setup_for(fault: Fault, mode: str, folder: Path) -> Iterator[FaultSetup]:
    """Yield the replicas and the other parts that a fault needs."""
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder / "disk")) if fault.small_disk else None
        make_repository(folder / "original")
        config = folder / "original" / MODEL / "config.pbtxt"
        config.write_text(config.read_text().replace("count: 1", "count: 2"))
        repository = Path(shutil.copytree(folder / "original", (disk or folder) / "repository"))
        http, grpc, metrics = free_ports(3, "0.0.0.0")  # noqa: S104  - checked on every address, bound on none
        setup = FaultSetup(folder, repository, [], disk)
        for number, host in enumerate(HOSTS if mode == "two" or fault.balanced else HOSTS[:1]):
            is_broken = number == 0
            replica = Replica(
                repository, folder / host, host=host, ports=(http, grpc, metrics), own_shm=fault.own_shm,
                own_clock=fault.own_clock and is_broken, log_folder=disk if is_broken else None,
            )  # fmt: skip
            stack.callback(replica.stop)
            setup.replicas.append(replica)
        if fault.balanced:
            names = NameServer(list(HOSTS))
            stack.callback(names.close)
            listen = dict(zip(("HTTP", "GRPC", "STATS", "HTTPS", "GRPCS"), free_ports(5), strict=True))
            setup.balance = lambda: starter(names.place, (http, grpc), folder / "balancer.log", listen)
            setup.balancer = setup.balance()
            stack.callback(lambda: setup.balancer and setup.balancer.stop())
        yield setup


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """Mount a file system of a few MB."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def in_own_namespace() -> None:
    """Restart this process in its own mount namespace; return if it has one already, or the user may not."""
    marker = "TRITONE_FAULTS_NAMESPACE"
    wrapper = ["unshare", "--mount", "--propagation", "private"]
    if os.environ.get(marker) or shutil.which("unshare") is None:
        return
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[marker] = "1"
        os.execvp(wrapper[0], [*wrapper, sys.executable, "-m", "benchmarks.faults", *sys.argv[1:]])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    in_own_namespace()
    main()
