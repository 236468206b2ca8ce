"""Quality of an exported graph on held-out data: `tritone export --precision` measures the loss of lower precision.

A kind that can be served in less than single precision declares a `Quality`: the relevant metrics of its `evaluate`,
the largest loss of each, and a function that measures them for any graph with the same tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tritone_training.corpus import parse_selection
from tritone_training.exceptions import DataError

if TYPE_CHECKING:
    from tritone_training.kind import EvaluateRequest

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
Run: TypeAlias = Callable[[Arrays], Arrays]  # a graph: inputs by name -> outputs by name

# How recorded sources of embedded data begin; the second is that of earlier versions.
_EMBEDDED: Final = ("embedded corpus", "embedded catalogue", "simulated listening", "simulated sessions")


@dataclass(frozen=True)
class Metric:
    """One metric, named as in the results of `evaluate`.

    Attributes:
        max_loss: largest accepted loss, in the unit of the metric; an export with a larger loss is refused.
    """

    name: str
    max_loss: float
    higher_is_better: bool = True

    def loss(self, before: float, after: float) -> float:
        """Return how much worse `after` is than `before`; negative if it is better."""
        return before - after if self.higher_is_better else after - before


@dataclass(frozen=True)
class HeldOut:
    """Data for evaluation and data for calibration.

    Attributes:
        source: description of the data.
        measure: a graph -> metrics by name (those that this checkpoint has), and `n`, the number of examples.
        calibration: batches of inputs from the training split, never from the evaluated one.
    """

    source: str
    measure: Callable[[Run], Mapping[str, float]]
    calibration: Callable[[], Iterable[Arrays]]


@dataclass(frozen=True)
class Quality:
    """How the quality of a graph is measured.

    Attributes:
        held_out: reads the validation data of the checkpoint; raises an error if they are missing.
        int8: `static` quantises activations by ranges seen in calibration, `dynamic` by those of each request; None if
            this graph does not support 8-bit integers.
    """

    metrics: tuple[Metric, ...]
    held_out: Callable[[EvaluateRequest], HeldOut]
    int8: Literal["static", "dynamic"] | None


def recorded_data(given: Path | None, info: Mapping[str, Any], checkpoint: Path) -> Path | None:
    """Return the data of a checkpoint: the given ones, else the recorded ones; None for embedded data.

    Raises:
        DataError: the recorded path does not exist.
    """
    if given is not None:
        return given
    recorded = str((info.get("data") or {}).get("source") or "")
    if recorded.startswith(_EMBEDDED):
        return None
    path = Path(recorded)
    if recorded and (parse_selection(path) is not None or path.exists()):
        return path
    raise DataError(
        f"{checkpoint}: what a precision costs is measured on the validation data, and these are not at hand: training "
        f"read them from {recorded or 'a place that it did not write down'}; give them with --data"
    )


def spread(n: int, wanted: int) -> list[int]:
    """Return `wanted` evenly spaced indices below `n`, or all of them."""
    return sorted({int(place) for place in np.linspace(0, n - 1, min(n, wanted))}) if n else []
