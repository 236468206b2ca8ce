"""What an exported graph is worth on held-out data: how `tritone export --precision` measures what it costs.

A kind that can be served in less than single precision declares a `Quality`: the figures of its own `evaluate` that
count, how much of each may be lost, and how to take them of any graph with its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tritone_training.exceptions import DataError

if TYPE_CHECKING:
    from tritone_training.kind import EvaluateRequest

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
Run: TypeAlias = Callable[[Arrays], Arrays]  # a graph: inputs by name -> outputs by name

_EMBEDDED: Final = ("embedded catalogue", "simulated listening")  # how the sources of such data begin


@dataclass(frozen=True)
class Metric:
    """One figure, named as `evaluate` names it.

    Attributes:
        max_loss: how much worse it may get, in its own unit, before an export is refused.
    """

    name: str
    max_loss: float
    higher_is_better: bool = True

    def loss(self, before: float, after: float) -> float:
        """How much worse `after` is; negative where it is better."""
        return before - after if self.higher_is_better else after - before


@dataclass(frozen=True)
class HeldOut:
    """Data to judge by, and data to calibrate by.

    Attributes:
        source: where they come from.
        measure: a graph -> figures by name (those that this checkpoint has), and `n`, the number of examples.
        calibration: batches of real inputs from the part that was learnt from, never from what is judged.
    """

    source: str
    measure: Callable[[Run], Mapping[str, float]]
    calibration: Callable[[], Iterable[Arrays]]


@dataclass(frozen=True)
class Quality:
    """How a graph is judged.

    Attributes:
        held_out: reads the checkpoint's validation data, or says what is missing.
        int8: `static` quantises activations by ranges seen in calibration, `dynamic` by those of each request; None if
            whole numbers of eight bits do not serve this graph.
    """

    metrics: tuple[Metric, ...]
    held_out: Callable[[EvaluateRequest], HeldOut]
    int8: Literal["static", "dynamic"] | None


def recorded_data(given: Path | None, info: Mapping[str, Any], checkpoint: Path) -> Path | None:
    """Where a checkpoint's data lie: what the caller gives, else what training wrote down; None for embedded data.

    Raises:
        DataError: they are not where training found them.
    """
    if given is not None:
        return given
    recorded = str((info.get("data") or {}).get("source") or "")
    if recorded.startswith(_EMBEDDED):
        return None
    path = Path(recorded)
    if recorded and path.exists():
        return path
    raise DataError(
        f"{checkpoint}: what a precision costs is measured on the validation data, and these are not at hand: training "
        f"read them from {recorded or 'a place that it did not write down'}; give them with --data"
    )


def spread(n: int, wanted: int) -> list[int]:
    """`wanted` places (or all) evenly over `n`."""
    return sorted({int(place) for place in np.linspace(0, n - 1, min(n, wanted))}) if n else []
