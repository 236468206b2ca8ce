"""Opening the engine that a request names."""

from __future__ import annotations

import importlib.util
import re
import socket
from typing import TYPE_CHECKING, Final

from tritone_training.exceptions import EngineError
from tritone_training.kinds.recommender.engines.base import Engine
from tritone_training.kinds.recommender.engines.local import LocalEngine
from tritone_training.progress import print_line

if TYPE_CHECKING:
    from tritone_training.kind import TrainRequest

ENGINES: Final = ("local", "ray", "spark")
READERS: Final = ("driver", "workers")
REACHABLE_WITHIN_S: Final = 10.0
_EXTRAS: Final = {"ray": ("ray", "ray"), "spark": ("pyspark", "spark")}  # engine -> package and extra
_SCHEME: Final = re.compile(r"(?:(?:ray|spark|k8s)://)?(?:https?://)?")
_HOST: Final = re.compile(r"(\[[^\]]+\]|[^:/]+):(\d+)")


def check_engine(request: TrainRequest) -> None:
    """Check that the engine of a request can be used; called before the data are read.

    Raises:
        EngineError: the engine or reader is unknown, its package is not installed, or no connection to its address.
    """
    name = request.engine or "local"
    if name not in ENGINES:
        raise EngineError(f"unknown engine: expected one of {', '.join(ENGINES)}, got {name!r}")
    if request.workers is not None and request.workers < 1:
        raise EngineError(f"invalid number of workers: expected at least 1, got {request.workers}")
    if request.read not in (None, *READERS):
        raise EngineError(f"unknown reader of the log: expected one of {', '.join(READERS)}, got {request.read!r}")
    if name == "local":
        if request.engine_address is not None:
            raise EngineError(
                "the engine local has no address: leave --engine-address out, or choose --engine ray or spark"
            )
        return
    package, extra = _EXTRAS[name]
    if importlib.util.find_spec(package) is None:
        raise EngineError(f"{name}: is not installed; install it with: pip install 'tritone[train,{extra}]'")
    if request.engine_address is not None:
        _require_reachable(name, request.engine_address)


def open_engine(request: TrainRequest) -> Engine:
    """Open the engine of a request, and print what is used; by default `local` with one worker.

    Raises:
        EngineError: it cannot be used.
    """
    check_engine(request)
    engine = _opened(request)
    at = "" if request.engine_address is None else f" at {request.engine_address}"
    workers = "1 worker" if engine.n_workers == 1 else f"{engine.n_workers} workers"
    print_line(f"engine: {engine.name}{at}, {workers}", shown=request.progress)
    return engine


def _opened(request: TrainRequest) -> Engine:
    if request.engine == "ray":
        from tritone_training.kinds.recommender.engines.ray_engine import RayEngine

        return RayEngine(request.workers, request.engine_address, progress=request.progress)
    if request.engine == "spark":
        from tritone_training.kinds.recommender.engines.spark_engine import SparkEngine

        return SparkEngine(request.workers, request.engine_address, progress=request.progress)
    return LocalEngine(request.workers or 1)


def _require_reachable(name: str, address: str) -> None:
    """Check that one of the hosts of an address accepts connections.

    An address with several, such as `spark://A:7077,B:7077`, names the active master and its standbys.
    """
    failures = []
    for host, port in _hosts(address):
        try:
            with socket.create_connection((host, port), timeout=REACHABLE_WITHIN_S):
                return
        except (OSError, OverflowError) as error:
            failures.append(f"{host}:{port}: {error}")
    if failures:
        raise EngineError(
            f"--engine-address: expected the address of a running {name} cluster, got {address} (no connection within "
            f"{REACHABLE_WITHIN_S:.0f} s: {'; '.join(failures)}); check the address and that the cluster runs"
        )


def _hosts(address: str) -> list[tuple[str, int]]:
    """Return the hosts and ports of an address; none for one without, such as `auto` or `yarn`."""
    hosts = _SCHEME.sub("", address, count=1).split(",")
    found = [_HOST.fullmatch(each.strip()) for each in hosts]
    return [(each[1].strip("[]"), int(each[2])) for each in found if each is not None]
