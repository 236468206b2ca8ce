"""Measure the memory of the recommender's backend processes, and requests to an artifact larger than the memory.

```
python -m benchmarks.scale_recommender --sizes 200k --keep /tmp/artifacts        # simulated listeners
python -m benchmarks.memory_recommender /tmp/artifacts/200k                      # 1, 2 and 4 instances
python -m benchmarks.memory_recommender /tmp/artifacts/200k --limit-mb 256       # as root, with a limit of memory
```
The first part starts Triton with 1, 2 and 4 instances of the model and reads /proc/PID/smaps_rollup of each Python
process when the server is ready and after requests of different stored users:

    anonymous   pages of this process alone, which only swapping can free
    file        its share of mapped files (PSS): pages that n processes map count 1/n; the kernel can drop them
    resident    all pages that are mapped, shared or not

`floor` is the same for an artifact of 60 users and 120 items: the interpreter and its libraries.
The second part makes requests in one process whose cgroup may hold so much memory, page cache included and without
swap: first with no page of the artifact in memory, then again. It needs a writable cgroup hierarchy (version 1 or 2).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tests.support import recommender_artifacts as models

from benchmarks.arguments import count
from benchmarks.limited_memory import limited
from benchmarks.load_recommend import MODEL, OUTPUTS
from benchmarks.scale_recommender import KEY
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.recommender import open_artifact, read_key
from tritone_serving.security.callers import SERVICE_KEY_HEADER
from tritone_serving.security.service_key import make_service_key
from tritone_serving.supervision.processes import stubs_of

K = 10


def main() -> None:
    """Measure and print tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="folder of an artifact that scale_recommender kept")
    parser.add_argument("--instances", type=count, nargs="+", default=[1, 2, 4])
    parser.add_argument("--requests", type=count, default=5_000, help="requests to each server (5,000)")
    parser.add_argument("--limit-mb", type=count, nargs="+", help="measure only one process within these limits of MiB")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "artifact": arguments.artifact.name,
        "artifact_mb": round(sum(path.stat().st_size for path in arguments.artifact.iterdir()) / 2**20),
    }
    if arguments.limit_mb:
        result["limited"] = [limited(arguments.artifact, each) for each in [None, *arguments.limit_mb]]
    else:
        result["floor"] = floor()
        result["servers"] = [served(arguments.artifact, KEY, n, arguments.requests) for n in arguments.instances]
    if arguments.json:
        print(json.dumps(result))
        return
    print_tables(result)


def print_tables(result: dict[str, Any]) -> None:
    """Print the result as tables in Markdown."""
    print(f"artifact {result['artifact']}: {result['artifact_mb']} MiB; values in MiB")
    if "servers" in result:
        print("| instances | ready after | when | anonymous each | file, all | PSS, all | resident each | p50 / p99 |")
        print("|---|---|---|---|---|---|---|---|")
        for row in [{**result["floor"], "n_instances": "floor"}, *result["servers"]]:
            for moment in ("ready", "requests"):
                each = row[moment]
                print(
                    f"| {row['n_instances']} | {row['ready_s']:.2f} s | {moment} | {each['anonymous_mb']:.0f} | "
                    f"{each['file_mb']:.0f} | {each['pss_mb']:.0f} | {each['resident_mb']:.0f} | "
                    f"{row['p50_ms']:.1f} / {row['p99_ms']:.1f} ms |"
                )
    for row in result.get("limited", []):
        print(
            f"limit {row['limit_mb'] or 'none'}: opened in {row['open_s']:.2f} s, "
            + "; ".join(
                f"{name} p50 {row[name]['p50_ms']:.1f} / p99 {row[name]['p99_ms']:.1f} ms, "
                f"{row[name]['major_faults']} major faults"
                for name in ("first", "again")
            )
            + (f"; peak memory {row['peak_mb']}" if row["limit_mb"] else "")
        )


# --- instances of a server -----------------------------------------------------------------------


def floor(n_requests: int = 200) -> dict[str, Any]:
    """Measure one instance with an artifact of 60 users and 120 items."""
    with tempfile.TemporaryDirectory(prefix="tritone-memory-") as folder:
        artifact = models.make_artifact(Path(folder) / "artifact", Path(folder) / "floor.key")
        key = read_key(Path(folder) / "floor.key")
        return served(artifact, key, 1, n_requests, users=[models.user_id(number) for number in range(models.N_USERS)])


def served(artifact: Path, key: bytes, n: int, n_requests: int, users: list[str] | None = None) -> dict[str, Any]:
    """Return the memory of the processes of n instances, and the latency of requests of many users."""
    with tempfile.TemporaryDirectory(prefix="tritone-memory-", dir=artifact.parent) as temporary:
        folder = Path(temporary)
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        (folder / "users.key").write_bytes(key)
        models.publish(artifact, folder / "users.key", folder / "repository", ensembles=False)
        config = folder / "repository" / MODEL / "config.pbtxt"
        text, n_changed = re.subn(r"(instance_group[^}]*count: )\d+", rf"\g<1>{n}", config.read_text())
        if n_changed != 1:
            raise ValueError(f"{config}: expected one instance group, found {n_changed}")
        config.write_text(text)
        service_key = folder / "service" / "service.key"
        make_service_key(service_key)
        options = ServerOptions(
            repository=folder / "repository",
            models=(MODEL,),
            http_port=0,
            grpc_port=0,
            metrics_port=0,
            service_key_file=service_key,
        )
        n_users = open_artifact(artifact).n_users
        drawn = np.random.default_rng(0).permutation(n_users)[:n_requests].tolist()
        asked = users or [f"user-{number}" for number in drawn]
        with TritonServer.start(options) as server:
            ready = memory_of(server)
            times = requests(server, [asked[number % len(asked)] for number in range(n_requests)], n, service_key)
            time.sleep(0.5)
            return {
                "n_instances": n,
                "ready_s": round(server.ready_s, 2),
                "ready": ready,
                "requests": memory_of(server),
                "n_requests": n_requests,
                "p50_ms": round(1e3 * float(np.quantile(times, 0.5)), 2),
                "p99_ms": round(1e3 * float(np.quantile(times, 0.99)), 2),
            }


def memory_of(server: TritonServer) -> dict[str, float]:
    """Return the mean anonymous and resident memory of the instances, and their proportional memory together."""
    found = [_rollup(stub.pid) for stub in stubs_of(server.pid) if stub.model == MODEL]
    return {
        "n_processes": len(found),
        "anonymous_mb": round(float(np.mean([each["Pss_Anon"] for each in found])), 1),
        "resident_mb": round(float(np.mean([each["Rss"] for each in found])), 1),
        "file_mb": round(sum(each["Pss_File"] for each in found), 1),
        "pss_mb": round(sum(each["Pss"] for each in found), 1),
    }


def _rollup(pid: int) -> dict[str, float]:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(kilobytes) / 1024 for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}


def requests(server: TritonServer, users: list[str], n: int, service_key: Path) -> list[float]:
    """Send a request for each user from 2 n clients, so that all instances work; return the latencies in seconds."""
    headers = {SERVICE_KEY_HEADER: service_key.read_text()}
    own = threading.local()

    def ask(user: str) -> float:
        if not hasattr(own, "client"):
            own.client = triton.InferenceServerClient(server.grpc_url)
        name = triton.InferInput("user_id", [1, 1], "BYTES")
        name.set_data_from_numpy(np.array([[user.encode()]], np.object_))
        amount = triton.InferInput("k", [1, 1], "INT32")
        amount.set_data_from_numpy(np.array([[K]], np.int32))
        outputs = [triton.InferRequestedOutput(each) for each in OUTPUTS]
        began_s = time.perf_counter()
        answer = own.client.infer(MODEL, [name, amount], outputs=outputs, headers=headers)
        if answer.as_numpy("source")[0, 0] != b"user":
            raise ValueError(f"user {user!r} is not known to the artifact; was it made by scale_recommender?")
        return time.perf_counter() - began_s

    with concurrent.futures.ThreadPoolExecutor(2 * n) as pool:
        return list(pool.map(ask, users))


if __name__ == "__main__":
    main()
