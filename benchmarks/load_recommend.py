"""Measure recommendations through the server: one client, then 32 concurrent ones from perf_analyzer.

    make bench   or   python -m benchmarks.load_recommend [--repository DIR] [--users N] [--items N] [--json]

Four types of request:
    listed      a known user without further input: the list was computed in training
    recent      the same for users with 20 recorded events each: the events are read, and all base models compute scores
    scored      a known user and one new listen: all base models compute scores, including friends and taste_vae
    cold start  a history of 40 items without a user: scored as well
With --kinds, also playlists of 20 tracks between two items (path) or from one (mix), which are counted like requests.
Without --repository it serves an artifact of simulated listeners (2,000 x 17,000; the scores have no meaning, but the
same cost), with a small network in place of `taste_vae`. With one, it sends the ids in --user-ids, one per line.
The load generator shares the processors with the server, so the CPU seconds of both are reported per 1,000 requests.
There are no bounds. perf_analyzer comes with `pip install 'tritonclient[all]'`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tests.support import recommender_artifacts as models

from benchmarks.cpu_times import cpu_seconds
from tritone_serving import PerfAnalyzerError, PerfAnalyzerMissingError, ServerOptions, TritonServer
from tritone_serving.events import checked_event, event_id, open_store
from tritone_serving.perf_analyzer import Load, PerfAnalyzer
from tritone_serving.recommender import open_artifact, pseudonym, read_key
from tritone_serving.recommender.pseudonyms import find_key
from tritone_serving.security.callers import SERVICE_KEY_HEADER
from tritone_serving.security.service_key import make_service_key
from tritone_serving.supervision.processes import memory_mb, stubs_of

MODEL = "recommender"
OUTPUTS = ("item_ids", "scores", "source", "arm", "unknown")  # those that the SDK requests
K = 10
CONCURRENCY = 32
N_WARM_UP = 50
N_PERF_REQUESTS = 256
N_HISTORY = 40
N_LISTED = 100
N_EVENTS = 20
KINDS = ("listed", "recent", "scored", "cold")
PLAYLISTS = ("path", "mix", "mix for a user")
N_PLAYLIST = 20


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path)
    parser.add_argument("--user-ids", type=Path, help="with --repository: file with known user ids, one per line")
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--items", type=int, default=17_000)
    parser.add_argument("--taste", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="length of each measurement window of perf_analyzer (5)"
    )
    parser.add_argument("--kinds", nargs="+", choices=(*KINDS, *PLAYLISTS), default=list(KINDS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if (arguments.repository is None) != (arguments.user_ids is None):
        parser.error("expected both or neither of --repository and --user-ids")
    with tempfile.TemporaryDirectory(prefix="tritone-load-") as temporary:
        folder = Path(temporary)
        if arguments.repository is None:
            os.environ["XDG_STATE_HOME"] = str(folder / "state")  # keep the key of simulated users apart from real ones
            repository, users = simulated(folder, arguments)
        else:
            repository, users = arguments.repository, arguments.user_ids.read_text(encoding="utf-8").split()
        result = measure(repository, users, arguments, folder)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    print(f"{MODEL}, {result['n_items']:,} items, {result['n_users']:,} users, k = {K}; gRPC")
    for kind in arguments.kinds:
        one, many = result[kind]["one_client"], result[kind]["perf_analyzer"]
        print(f"{kind:9s} one client: p50 {one['p50_ms']:.2f} ms, p99 {one['p99_ms']:.2f} ms ({one['n']} requests)")
        if many is None:
            print("          32 clients were not measured, see the message above")
        else:
            print(
                f"          {CONCURRENCY} clients, perf_analyzer: {many['per_s']:.0f}/s, p50 {many['p50_ms']:.1f} ms, "
                f"p99 {many['p99_ms']:.1f} ms, {result[kind]['requests_per_call']:.1f} requests per call, "
                f"{result[kind]['backend_ms']:.2f} ms of an instance per request"
            )
            used = ", ".join(f"{name} {seconds:.2f}" for name, seconds in result[kind]["cpu_s_per_1000"].items())
            print(f"          CPU seconds per 1,000 requests: {used}")
    if not result["has_lists"]:
        print("the artifact has no precomputed lists: `listed` requests were scored")
    print(f"memory of the backend's processes: {result['memory_mb']:.0f} MB (shared pages count once)")
    print(f"server start to ready: {result['ready_s']:.2f} s")


def simulated(folder: Path, arguments: argparse.Namespace) -> tuple[Path, list[str]]:
    """Return a repository with a simulated recommender, and its user ids."""
    n_taste = arguments.items if arguments.taste else None
    artifact = models.make_artifact(
        folder / "artifact",
        folder / "recommender.key",
        n_users=arguments.users,
        n_items=arguments.items,
        n_neighbours=200,
        n_plays=40,
        n_taste=n_taste,
        n_listed=N_LISTED,
    )
    repository = folder / "repository"
    if n_taste is not None:
        models.make_taste(repository, n_taste)
    models.publish(artifact, folder / "recommender.key", repository, ensembles=False)
    return repository, [models.user_id(number) for number in range(arguments.users)]


def measure(repository: Path, users: Sequence[str], arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start a server and measure it."""
    served = tuple(name for name in (MODEL, "taste_vae") if list((repository / name).glob("[0-9]*")))
    # A key for this run only, since perf_analyzer shows it on its command line.
    key_file = folder / "service" / "service.key"
    make_service_key(key_file)
    headers = {SERVICE_KEY_HEADER: key_file.read_text()}
    store = f"sqlite://{folder.resolve()}/events.db"
    options = ServerOptions(
        repository=repository,
        models=served,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        service_key_file=key_file,
        events=store,
    )
    with TritonServer.start(options) as server:
        version = newest(repository / MODEL)
        requests = {kind: requests_of(kind, users, version) for kind in arguments.kinds}
        measured = {}
        for kind, asked in requests.items():
            if kind == "recent":
                record_events(store, version, [each["user_id"][0] for each in asked])
            times = one_client(server, asked, arguments.rounds, headers)
            before, used_before = counted(server), cpu_seconds_by_part(server)
            many = perf_analyzer(server, asked, arguments.seconds, folder, headers)
            time.sleep(0.6)  # the backend tells its counts a few times a second
            after, used_after = counted(server), cpu_seconds_by_part(server)
            measured[kind] = {
                "one_client": {
                    "p50_ms": 1e3 * float(np.quantile(times, 0.5)),
                    "p99_ms": 1e3 * float(np.quantile(times, 0.99)),
                    "n": len(times),
                },
                "perf_analyzer": many,
                "requests_per_call": (after[0] - before[0]) / max(after[1] - before[1], 1),
                "backend_ms": 1e3 * (after[2] - before[2]) / max(after[0] - before[0], 1),
                "cpu_s_per_1000": {
                    name: 1e3 * (used - used_before[name]) / max(after[0] - before[0], 1)
                    for name, used in used_after.items()
                },
            }
        memory_mb = backend_memory_mb(server)
        manifest = json.loads((version / "recommender.json").read_text(encoding="utf-8"))
        return {
            "n_users": manifest["n_users"],
            "n_items": manifest["n_items"],
            "has_lists": any(name.startswith("lists.") for name in manifest["arrays"]),
            **measured,
            "memory_mb": memory_mb,
            "ready_s": server.ready_s,
        }


def requests_of(kind: str, users: Sequence[str], version: Path) -> list[dict[str, list[Any]]]:
    """Return requests of one kind by input name, with items drawn by popularity."""
    items = open_artifact(version).texts("items")
    rng = np.random.default_rng(1)
    odds = 1 / np.arange(1, len(items) + 1) ** 0.8
    if kind in PLAYLISTS:
        return playlists(kind, users, items)
    n = {"listed": 0, "recent": 0, "scored": 1, "cold": min(N_HISTORY, len(items))}[kind]
    # Other users than those of `listed`, whose answers stay lists.
    first = N_PERF_REQUESTS if kind == "recent" and len(users) >= 2 * N_PERF_REQUESTS else 0
    requests = []
    for number in range(N_PERF_REQUESTS):
        request: dict[str, list[Any]] = {}
        if kind != "cold":
            request["user_id"] = [users[(first + number) % len(users)]]
        if n:
            drawn = rng.choice(len(items), n, replace=False, p=odds / odds.sum())
            request["history"] = [items[item] for item in drawn.tolist()]
        requests.append({**request, "k": [K]})
    return requests


def playlists(kind: str, users: Sequence[str], items: Sequence[str]) -> list[dict[str, list[Any]]]:
    """Return requests for playlists by input name, between items drawn at random."""
    rng = np.random.default_rng(1)
    requests = []
    for number in range(N_PERF_REQUESTS):
        start, end = (items[item] for item in rng.choice(len(items), 2, replace=False).tolist())
        request: dict[str, list[Any]] = {"playlist_from": [start], "k": [N_PLAYLIST]}
        if kind == "path":
            request["playlist_to"] = [end]
        elif kind == "mix for a user":
            request["user_id"] = [users[number % len(users)]]
        requests.append(request)
    return requests


def record_events(store: str, version: Path, users: Sequence[str]) -> None:
    """Record plays and skips of the last hour for each user."""
    check = json.loads((version / "recommender.json").read_text(encoding="utf-8"))["key_check"]
    key = read_key(find_key("", check))
    items = open_artifact(version).texts("items")
    rng = np.random.default_rng(2)
    now = time.time()
    with contextlib.closing(open_store(store)) as opened:
        for raw in dict.fromkeys(users):
            user = pseudonym(key, raw).hex()
            opened.append(
                [
                    checked_event(
                        id=event_id(key, user, str(number)),
                        user=user,
                        track=items[int(rng.integers(len(items)))],
                        kind="skip" if number % 4 == 0 else "play",
                        at=now - 180.0 * (N_EVENTS - number),
                        now=now,
                    )
                    for number in range(N_EVENTS)
                ]
            )


def one_client(
    server: TritonServer, requests: Sequence[dict[str, list[Any]]], n_rounds: int, headers: dict[str, str]
) -> list[float]:
    """Return the latency of successive requests in seconds."""
    client = triton.InferenceServerClient(server.grpc_url)
    outputs = [triton.InferRequestedOutput(name) for name in OUTPUTS]
    times = []
    for index in range(N_WARM_UP + n_rounds):
        inputs = []
        for name, values in requests[index % len(requests)].items():
            is_text = isinstance(values[0], str)
            each = triton.InferInput(name, [1, len(values)], "BYTES" if is_text else "INT32")
            tensor = np.array([[v.encode() for v in values]], np.object_) if is_text else np.array([values], np.int32)
            each.set_data_from_numpy(tensor)
            inputs.append(each)
        began = time.perf_counter()
        client.infer(MODEL, inputs, outputs=outputs, headers=headers)
        if index >= N_WARM_UP:
            times.append(time.perf_counter() - began)
    client.close()
    return times


def perf_analyzer(
    server: TritonServer,
    requests: Sequence[dict[str, list[Any]]],
    window_s: float,
    folder: Path,
    headers: dict[str, str],
) -> dict[str, float] | None:
    """Measure 32 concurrent clients; None if perf_analyzer is missing or fails."""
    try:
        tool = PerfAnalyzer.find(folder)
    except PerfAnalyzerMissingError as error:
        sys.stderr.write(f"{error}\n")
        return None
    shaped = [
        {name: {"content": values, "shape": [len(values)]} for name, values in request.items()} for request in requests
    ]
    data = folder / "requests.json"
    data.write_text(json.dumps({"data": shaped}))
    try:
        reading = tool.measure(
            MODEL,
            server.grpc_url,
            protocol="grpc",
            data=data,
            load=Load(concurrency=CONCURRENCY),
            window_s=window_s,
            stability=0.5,
            percentile=99,
            n_trials=6,
            headers=headers,
        )
    except PerfAnalyzerError as error:
        sys.stderr.write(f"{error}\n")
        return None
    return {"per_s": reading.per_s, "p50_ms": reading.p50_ms, "p99_ms": reading.p99_ms}


def counted(server: TritonServer) -> tuple[float, float, float]:
    """Return requests answered, execute calls and seconds in them since the server started."""
    import urllib.request

    with urllib.request.urlopen(server.metrics_url) as answer:  # noqa: S310 - our own server
        text = answer.read().decode()

    def total(name: str) -> float:
        return sum(float(value) for value in re.findall(rf"^tritone_recommender_{name}{{[^}}]*}} (\S+)$", text, re.M))

    return total("answers_total"), total("calls_total"), total("seconds_total")


def cpu_seconds_by_part(server: TritonServer) -> dict[str, float]:
    """Return the CPU seconds of the server, the processes of each model, and the load generators that have ended."""
    pids = {"server": [server.pid]}
    for stub in stubs_of(server.pid):
        pids.setdefault(stub.model, []).append(stub.pid)
    generators = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = {name: cpu_seconds(each) for name, each in pids.items()}
    return {**used, "load generator": generators.ru_utime + generators.ru_stime}


def backend_memory_mb(server: TritonServer) -> float:
    """Return the memory of the processes that run the recommender, in MB."""
    return memory_mb(stub.pid for stub in stubs_of(server.pid) if stub.model == MODEL)


def newest(model: Path) -> Path:
    """Return the folder of the newest version."""
    return max(model.glob("[0-9]*"), key=lambda path: int(path.name))


if __name__ == "__main__":
    main()
