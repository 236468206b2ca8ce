"""Measure event stores and the recording of events through Triton.

    python -m benchmarks.record_events [--json] [--seconds S] [--memory-events N]

Three parts: events a second that one process appends to each store, by events in a call; memory (Valkey) and disk space
(SQLite) per million events; and the time of `record` and the throughput of `record_many` through SDK and server.
Stores are on this machine's disk.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.arguments import amount, count
from benchmarks.event_faults import ValkeyProcess
from benchmarks.event_server import event_server, free_ports, start_replica
from tritone import ListeningEvent, MusicClient
from tritone_serving.events import Event, EventStore, EventStoreError, open_store

BATCHES = (1, 8, 64, 256)
N_USERS = 20_000
N_TRACKS = 50_000
KINDS = ("play", "play", "play", "skip", "like")


def events(n: int, *, seed: int) -> Iterator[Event]:
    """Yield n different random events of the last weeks."""
    draw = random.Random(seed)  # noqa: S311 - test data
    now = time.time()
    for number in range(n):
        user = hashlib.sha256(f"user {draw.randrange(N_USERS)}".encode()).hexdigest()[:32]
        own = hashlib.sha256(f"{seed} {number}".encode()).hexdigest()[:32]
        track, kind = f"track-{draw.randrange(N_TRACKS)}", draw.choice(KINDS)
        yield Event(own, user, track, kind, now - draw.random() * 1e6, round(draw.random() * 240, 1), None, now)


@contextlib.contextmanager
def valkey(folder: Path, fsync: str) -> Iterator[str]:
    """Run a Valkey server and yield its address."""
    (port,) = free_ports(1)
    server = ValkeyProcess(folder / f"valkey-{fsync}", port, fsync)
    url = f"valkey://127.0.0.1:{port}"
    try:
        with contextlib.closing(open_store(url)) as store:
            deadline_s = time.monotonic() + 10
            while True:
                try:
                    store.count()
                    break
                except EventStoreError:
                    if time.monotonic() > deadline_s:
                        raise
                    time.sleep(0.1)
        yield url
    finally:
        server.kill()


@contextlib.contextmanager
def stores(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the addresses of empty stores by name."""
    with valkey(folder, "everysec") as everysec, valkey(folder, "always") as always:
        yield {
            "sqlite": f"sqlite://{folder / 'events.db'}",
            "valkey, appendfsync everysec": everysec,
            "valkey, appendfsync always": always,
        }


def appends(store: EventStore, n_batch: int, seconds: float, seed: int) -> float:
    """Return the events a second that one process appends."""
    prepared = list(events(int(seconds * 120_000), seed=seed))
    began_s = time.perf_counter()
    n_events = 0
    while time.perf_counter() - began_s < seconds and n_events + n_batch <= len(prepared):
        store.append(prepared[n_events : n_events + n_batch])
        n_events += n_batch
    return n_events / (time.perf_counter() - began_s)


def latest_ms(store: EventStore, n_users: int) -> float:
    """Return the median time of reading the 50 latest events of users, in milliseconds."""
    users = list(dict.fromkeys(each.user for each in events(20_000, seed=1)))
    times = []
    for start in range(0, 300 * n_users, n_users):
        chosen = [users[(start + index) % len(users)] for index in range(n_users)]
        began_s = time.perf_counter()
        store.latest(chosen, 50)
        times.append((time.perf_counter() - began_s) * 1e3)
    return statistics.median(times)


def fill(store: EventStore, n: int) -> None:
    """Append n events."""
    batch: list[Event] = []
    for each in events(n, seed=99):
        batch.append(each)
        if len(batch) == 1_000:
            store.append(batch)
            batch.clear()
    store.append(batch)


def memory(folder: Path, n: int) -> dict[str, float]:
    """Return bytes of each event: memory of Valkey, its append-only file, and SQLite's file."""
    import valkey as client

    path = folder / "memory.db"
    with contextlib.closing(open_store(f"sqlite://{path}")) as store:
        fill(store, n)
    sqlite = sum(each.stat().st_size for each in folder.glob("memory.db*"))
    (folder / "memory").mkdir()
    with valkey(folder / "memory", "everysec") as url:
        port = int(url.rpartition(":")[2])
        with contextlib.closing(client.Valkey(port=port)) as connection:
            before = connection.info("memory")["used_memory"]
            with contextlib.closing(open_store(url)) as store:
                fill(store, n)
            used = connection.info("memory")["used_memory"] - before
        log = sum(each.stat().st_size for each in (folder / "memory").rglob("*.aof"))
    return {"valkey_memory": used / n, "valkey_log": log / n, "sqlite_file": sqlite / n}


def through_triton(folder: Path, url: str, seconds: float) -> dict[str, float]:
    """Return times of `record` of one client, and events a second of four clients with `record_many`."""
    folder.mkdir()
    with event_server(folder, url) as server:
        replica = start_replica(server, folder / "replica")
        try:
            with MusicClient(replica.grpc_url, service_key=server.service_key) as music:
                times = []
                end_s = time.monotonic() + seconds
                while time.monotonic() < end_s:
                    began_s = time.perf_counter()
                    music.record(f"user {len(times) % 100}", "track")
                    times.append((time.perf_counter() - began_s) * 1e3)
            times.sort()
            n_events = _many(replica.grpc_url, server.service_key, seconds)
        finally:
            replica.stop()
    return {
        "record_p50_ms": times[len(times) // 2],
        "record_p99_ms": times[int(len(times) * 0.99)],
        "record_many_events_s": n_events / seconds,
    }


def _many(url: str, service_key: str, seconds: float) -> int:
    counts: list[int] = []

    def run(number: int) -> None:
        n_events = 0
        with MusicClient(url, service_key=service_key) as music:
            end_s = time.monotonic() + seconds
            while time.monotonic() < end_s:
                batch = [ListeningEvent(f"user {number} {n % 50}", f"track {n}") for n in range(256)]
                n_events += music.record_many(batch).n_new
        counts.append(n_events)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return sum(counts)


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=amount, default=2.0, help="of each measurement")
    parser.add_argument("--memory-events", type=count, default=300_000, help="events for the memory per event")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"appends_s": {}, "latest_ms": {}, "triton": {}}
    with tempfile.TemporaryDirectory(prefix="tritone-record-events-") as name:
        folder = Path(name)
        with stores(folder) as urls:
            for seed, (kind, url) in enumerate(urls.items()):
                with contextlib.closing(open_store(url)) as store:
                    result["appends_s"][kind] = {
                        n: appends(store, n, arguments.seconds, 10 * seed + index) for index, n in enumerate(BATCHES)
                    }
                    result["latest_ms"][kind] = {n: latest_ms(store, n) for n in (1, 16)}
            for kind, url in urls.items():
                result["triton"][kind] = through_triton(folder / kind.replace(" ", "-"), url, arguments.seconds)
        result["bytes_an_event"] = memory(folder, arguments.memory_events)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    sys.stdout.write("events/s by one process, by events in a call\n")
    for kind, by_batch in result["appends_s"].items():
        rates = ", ".join(f"{n}: {rate:,.0f}" for n, rate in by_batch.items())
        sys.stdout.write(f"  {kind}: {rates}\n")
    sys.stdout.write("50 latest events, ms\n")
    for kind, by_users in result["latest_ms"].items():
        sys.stdout.write(f"  {kind}: 1 user {by_users[1]:.3f}, 16 users {by_users[16]:.3f}\n")
    sys.stdout.write("through Triton\n")
    for kind, found in result["triton"].items():
        sys.stdout.write(
            f"  {kind}: record p50 {found['record_p50_ms']:.2f} ms, p99 {found['record_p99_ms']:.2f} ms; "
            f"record_many {found['record_many_events_s']:,.0f} events/s\n"
        )
    sizes = {name: f"{value:.0f}" for name, value in result["bytes_an_event"].items()}
    sys.stdout.write(f"bytes an event (MB per million events): {sizes}\n")


if __name__ == "__main__":
    main()
