"""Tasks for engines of a fit; workers import this module, so it imports little."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np


def scaled(part: int, factors: np.ndarray, name: str) -> tuple[str, int, np.ndarray]:
    return name, os.getpid(), factors * part


def refuses_2(part: int) -> int:
    if part == 2:
        raise np.linalg.LinAlgError("a matrix of part 2 is singular")
    return part


def runs_out_of_memory(part: int) -> None:
    raise MemoryError


class OwnError(Exception):
    """Cannot be sent to another process: its arguments are not those of its creation."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


def raises_own_error(part: int) -> None:
    raise OwnError("the disk", "full")


def dies(part: int) -> int:
    if part == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return part


def dies_once(part: int, marker: Path) -> int:
    if part == 1 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return part * part


def waits(part: int) -> int:
    time.sleep(0.2)
    return part


def array_of(part: int, value: dict[str, Any]) -> tuple[type, bool, float]:
    """Return the type of a shared array, whether it can be changed, and its sum."""
    array = value["array"]
    return type(array), bool(array.flags.writeable), float(array.sum())
