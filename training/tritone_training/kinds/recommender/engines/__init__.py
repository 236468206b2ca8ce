"""Engines that run the parts of a fit: this process, a pool of processes, a Ray cluster or a Spark cluster.

Schedulers, retries and transport are those of loky, Ray and Spark. A fit cuts its work into the same parts for all of
them, so the result does not depend on the engine or the number of workers.
"""

from tritone_training.exceptions import EngineError
from tritone_training.kinds.recommender.engines.base import Engine, Shared
from tritone_training.kinds.recommender.engines.local import IN_PROCESS, LocalEngine
from tritone_training.kinds.recommender.engines.opening import ENGINES, check_engine, open_engine

__all__ = [
    "ENGINES",
    "IN_PROCESS",
    "Engine",
    "EngineError",
    "LocalEngine",
    "Shared",
    "check_engine",
    "open_engine",
]
