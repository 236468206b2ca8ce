"""Statistics of a load from Triton (queue, compute, batches, cache) and from its processes (CPU time, memory)."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

import psutil

from tritone import TritoneError
from tritone_serving.supervision.processes import family, memory_mb

_PARTS: Final = ("queue", "compute_input", "compute_infer", "compute_output")
_SAMPLE_S: Final = 0.5


class StatisticsError(TritoneError):
    """Raised when a server does not return the configuration or the statistics of a model."""


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
        StatisticsError: the server does not answer, or has no such model ready.
    """
    return _get(http_url, f"/v2/models/{model}/config")


def statistics(http_url: str, model: str) -> Mapping[str, Any]:
    """Return the statistics of all versions of a model since the server started.

    Raises:
        StatisticsError: the server does not answer, or has no such model.
    """
    found = _get(http_url, f"/v2/models/{model}/stats")
    if not isinstance(found.get("model_stats"), list):
        raise _no_triton(http_url, "the answer has no statistics")
    return found


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


# Like the SDK, without proxies from environment variables.
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _get(http_url: str, path: str) -> Mapping[str, Any]:
    try:
        with _OPENER.open(http_url + path, timeout=10) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        reason = _reason(error.read())
        if reason is None:
            raise _no_triton(http_url, f"the answer is {error.code} {error.reason}"[:80]) from error
        raise StatisticsError(f"{http_url}: {reason}") from error
    except urllib.error.URLError as error:
        why = error.reason if isinstance(error.reason, OSError) else error
        raise _no_triton(http_url, getattr(why, "strerror", None) or str(why) or type(why).__name__) from error
    except TimeoutError as error:
        raise _no_triton(http_url, "no answer within 10 s") from error
    except OSError as error:
        raise _no_triton(http_url, error.strerror or type(error).__name__) from error
    except http.client.HTTPException as error:  # its text holds what was received
        raise _no_triton(http_url, "the response is not HTTP") from error
    except (ValueError, RecursionError) as error:
        raise _no_triton(http_url, "the answer is not JSON") from error
    if not isinstance(found, dict):
        raise _no_triton(http_url, "the answer is not a JSON object")
    return found


def _reason(body: bytes) -> str | None:
    """Return the error message in a response of Triton; None if the response is not from Triton."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    reason = str(found["error"]) if isinstance(found, dict) and "error" in found else ""
    return reason if re.search(r"\bmodel\b|restricted|\bversion\b", reason) and reason.isprintable() else None


def _no_triton(http_url: str, why: str) -> StatisticsError:
    return StatisticsError(
        f"no Triton HTTP answers at {http_url}: {why}; expected Triton's HTTP port (8000 by default) as "
        f"http://host:port, or its gRPC port (8001) as host:port"
    )


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
