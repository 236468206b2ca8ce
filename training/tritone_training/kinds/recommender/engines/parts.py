"""Parts of a fit: slices of rows, whose number depends on the data only, and what is cut from the data for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

P = TypeVar("P")


class Parts(Sequence[P], Generic[P]):
    """Parts that are cut from the data when an engine asks for them, so that not all are in memory at once.

    Attributes:
        blocks: rows of each part.
        cut: returns the part of a block.
    """

    def __init__(self, blocks: Sequence[slice], cut: Callable[[slice], P]) -> None:
        self.blocks, self.cut = blocks, cut

    def __len__(self) -> int:
        return len(self.blocks)

    @overload
    def __getitem__(self, index: int) -> P: ...

    @overload
    def __getitem__(self, index: slice) -> Parts[P]: ...

    def __getitem__(self, index: int | slice) -> P | Parts[P]:
        if isinstance(index, slice):
            return Parts(self.blocks[index], self.cut)
        return self.cut(self.blocks[index])


def blocks_of(n_rows: int, size: int) -> list[slice]:
    """Return slices of `size` rows each; the last one may be shorter."""
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def blocks_by_work(work: npt.NDArray[Any], most: float) -> list[slice]:
    """Return slices of successive rows with at most `most` work each; a row with more is alone.

    Args:
        work: (R,) of each row, not negative, such as its entries.
        most: of a slice.
    """
    return list(_blocks_by_work(np.cumsum(work, dtype=np.float64), most))


def _blocks_by_work(ends: npt.NDArray[np.float64], most: float) -> Iterator[slice]:
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0.0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield slice(start, stop)
        start = stop
