"""Report and limit of the time for which a cluster has no free CPU for the tasks of a fit."""

from __future__ import annotations

import time
from typing import Final

from tritone_training.exceptions import EngineError
from tritone_training.progress import LINE_INTERVAL_S, print_line
from tritone_training.timeouts import timeout_of

TIMEOUT_VARIABLE: Final = "TRITONE_CLUSTER_TIMEOUT_S"
POLL_S: Final = LINE_INTERVAL_S
_DEFAULT_TIMEOUT_S: Final = 600.0  # a cluster that scales up needs minutes to add a node


class CpuWait:
    """Clock of the time for which no task runs, because the cluster has no free CPU.

    Args:
        cluster: kind of the cluster, such as `Ray`.
        progress: whether waiting is reported on stderr.

    Raises:
        TrainingError: the timeout in the environment is invalid.
    """

    def __init__(self, cluster: str, *, progress: bool) -> None:
        self._cluster, self._progress = cluster, progress
        self._timeout_s = timeout_of(TIMEOUT_VARIABLE, _DEFAULT_TIMEOUT_S)
        self._began_s = time.monotonic()

    def restart(self) -> None:
        """Set the clock to zero: a task runs or has finished."""
        self._began_s = time.monotonic()

    def check(self, state: str) -> None:
        """Report that the cluster has no free CPU; to be called every `POLL_S` while that is so.

        Args:
            state: what the cluster has at the moment.

        Raises:
            EngineError: it has had none for longer than the timeout.
        """
        waited_s = time.monotonic() - self._began_s
        if waited_s >= self._timeout_s:
            raise EngineError(
                f"no free CPU in the {self._cluster} cluster for {waited_s:.0f} s ({state}); add workers, wait for "
                f"other jobs to end, or raise {TIMEOUT_VARIABLE} (seconds)"
            )
        print_line(
            f"waiting for a free CPU in the {self._cluster} cluster ({state}), {waited_s:.0f} s", shown=self._progress
        )
