"""Statistics of a load from Triton (queue, compute, batches, cache) and from its processes (CPU time, memory)."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

import psutil

from tritone_serving.admin import call_json, no_triton_error
from tritone_serving.supervision.processes import family, memory_mb

_PARTS: Final = ("queue", "compute_input", "compute_infer", "compute_output")
_SAMPLE_S: Final = 0.5


@dataclass(frozen=True)
class ServerCounts:
    """Statistics of one model between two calls of `statistics`.

    Attributes:
        n: successful requests.
        n_failed: rejected or failed requests.
        part_ms: mean time of a request in `queue`, `compute_input`, `compute_infer` and `compute_output`.
        batches: number of executions by batch size.
        n_cache_hits: requests answered from the response cache.
    """

    n: int
    n_failed: int
    part_ms: Mapping[str, float]
    batches: Mapping[int, int]
    n_cache_hits: int
    n_cache_misses: int

    @property
    def mean_batch(self) -> float | None:
        """Mean number of inferences per execution; None for ensembles, which have no executions."""
        n_runs = sum(self.batches.values())
        return sum(size * count for size, count in self.batches.items()) / n_runs if n_runs else None


def model_config(http_url: str, model: str) -> Mapping[str, Any]:
    """Return a model's configuration from the server.

    Raises:
        AdminApiError: the server does not respond, or has no such model ready.
    """
    return _get(http_url, f"/v2/models/{model}/config", required="input")


def statistics(http_url: str, model: str) -> Mapping[str, Any]:
    """Return the statistics of all versions of a model since the server started.

    Raises:
        AdminApiError: the server does not respond, or has no such model.
    """
    return _get(http_url, f"/v2/models/{model}/stats", required="model_stats")


def between(before: Mapping[str, Any], after: Mapping[str, Any]) -> ServerCounts:
    """Return the difference of two results of `statistics`."""
    old, new = _summed(before), _summed(after)
    diff = {name: value - old.get(name, 0) for name, value in new.items()}
    # Triton measures queue and compute times only for requests that are not answered from the cache.
    parts = {name: diff[f"{name}.ns"] / max(diff[f"{name}.count"], 1) / 1e6 for name in _PARTS}
    sizes = {int(name.partition(":")[2]): n for name, n in diff.items() if name.startswith("batch:") and n}
    return ServerCounts(
        n=diff["success.count"],
        n_failed=diff["fail.count"],
        part_ms=parts,
        batches=dict(sorted(sizes.items())),
        n_cache_hits=diff["cache_hit.count"],
        n_cache_misses=diff["cache_miss.count"],
    )


def _summed(found: Mapping[str, Any]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for version in found["model_stats"]:
        for name in (*_PARTS, "success", "fail", "cache_hit", "cache_miss"):
            for unit in ("count", "ns"):
                value = int(version["inference_stats"].get(name, {}).get(unit, 0))
                totals[f"{name}.{unit}"] = totals.get(f"{name}.{unit}", 0) + value
        for batch in version.get("batch_stats", ()):
            key = f"batch:{batch['batch_size']}"
            totals[key] = totals.get(key, 0) + int(batch["compute_infer"]["count"])
    return totals


def _get(http_url: str, path: str, *, required: str) -> Mapping[str, Any]:
    address = urllib.parse.urlsplit(http_url)
    host, port = str(address.hostname), int(address.port or 80)
    found = call_json(host, port, "GET", urllib.parse.quote(path))
    if not isinstance(found, dict) or not isinstance(found.get(required), list):
        raise no_triton_error(host, port, f"the response to {path} has no {required}")
    return found


@dataclass
class ProcessUsage:
    """CPU time and memory of a server and its stub processes during a `with` block.

    Attributes:
        pid: process id of the server; the stubs are its descendants.
        server_cores: mean number of cores that the server used.
        stub_cores: mean number of cores that all stubs used.
        memory_mb: maximum memory of all processes; shared pages count once.
    """

    pid: int
    server_cores: float = 0.0
    stub_cores: float = 0.0
    memory_mb: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)

    def __enter__(self) -> ProcessUsage:
        self._began_s, self._before = time.monotonic(), _cpu_s(self.pid)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        took_s = max(time.monotonic() - self._began_s, 1e-9)
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        spent = {pid: total_s - self._before.get(pid, 0.0) for pid, total_s in _cpu_s(self.pid).items()}
        self.server_cores = spent.pop(self.pid, 0) / took_s
        self.stub_cores = sum(spent.values()) / took_s

    def _watch(self) -> None:
        while True:
            self.memory_mb = max(self.memory_mb, memory_mb(family(self.pid)))
            if self._stop.wait(_SAMPLE_S):
                return


def _cpu_s(pid: int) -> dict[int, float]:
    """Return the CPU time of a process and of each of its descendants, in seconds by process id."""
    spent = {}
    for each in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = psutil.Process(each).cpu_times()
            spent[each] = times.user + times.system
    return spent
