"""Sparse matrices in CSR layout as plain arrays, with the few operations that scoring needs.

SciPy's matrix classes spend tens of microseconds per call on validation, too much for a request of under a millisecond.
Shapes: R rows, C columns, E entries.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

# The private C loops behind the matrix classes save 50 us per call, an overhead that
# https://github.com/scipy/scipy/pull/23790 measures too. Hence the upper bound of scipy in pyproject.toml.
from scipy.sparse import _sparsetools

Floats = npt.NDArray[np.float32]
_MOST_COUNTED: Final = 2**31 - 1  # entries that can be indexed by the 32-bit integers of these loops
Integers = npt.NDArray[np.integer[Any]]
_DENSE_FROM: Final = 8  # a product with more than this part of the columns is computed densely


@dataclass(frozen=True, eq=False)
class Rows:
    """A sparse matrix in CSR layout.

    Attributes:
        starts: (R + 1,) int64, start of each row in `columns` and `values`, and their length.
        columns: (E,) int32.
        values: (E,) float32.
        known_span: smallest and largest column index, if they were computed before.
    """

    starts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int32]
    values: Floats
    known_span: tuple[int, int] | None = None

    @property
    def n_rows(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """(R,) number of entries in each row."""
        counts: npt.NDArray[np.int64] = self.starts[1:] - self.starts[:-1]
        return counts

    @cached_property
    def span(self) -> tuple[int, int]:
        """Smallest and largest column index; if they are not known, computed once, by reading all columns."""
        if self.known_span is not None:
            return self.known_span
        return (int(self.columns.min()), int(self.columns.max())) if len(self.columns) else (0, 0)

    def row(self, index: int) -> tuple[npt.NDArray[np.int32], Floats]:
        """Return the columns and values of one row."""
        span = slice(int(self.starts[index]), int(self.starts[index + 1]))
        return self.columns[span], self.values[span]

    def row_numbers(self) -> npt.NDArray[np.int64]:
        """Return the row of each entry (E,)."""
        return np.repeat(np.arange(self.n_rows), self.counts)

    def take(self, rows: Integers) -> Rows:
        """Return the given rows, in that order."""
        counts = self.starts[rows + 1] - self.starts[rows]
        entries = ranges(self.starts[rows], counts)
        starts = np.concatenate([[0], np.cumsum(counts)])
        return Rows(starts, self.columns[entries], self.values[entries])

    def to_csr(self, n_columns: int) -> sparse.csr_matrix:
        """Convert to a SciPy matrix (R, n_columns)."""
        return sparse.csr_matrix((self.values, self.columns, self.starts), shape=(self.n_rows, n_columns))

    @classmethod
    def from_csr(cls, matrix: sparse.csr_matrix) -> Rows:
        """Convert from a SciPy matrix; columns are sorted in each row."""
        matrix = sparse.csr_matrix(matrix)
        matrix.sort_indices()
        return cls(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.float32))

    @classmethod
    def from_lists(cls, columns: Sequence[Integers], values: Sequence[Floats]) -> Rows:
        """Build from the columns and values of each row."""
        starts = np.zeros(len(columns) + 1, np.int64)
        np.cumsum([len(each) for each in columns], out=starts[1:])
        if not len(columns):
            return cls(starts, np.zeros(0, np.int32), np.zeros(0, np.float32))
        return cls(
            starts,
            np.concatenate(columns, dtype=np.int32, casting="unsafe"),
            np.concatenate(values, dtype=np.float32, casting="unsafe"),
        )


def product(left: Rows, table: Rows, n_columns: int) -> Floats:
    """Return the matrix product of left (R, C) and table (C, n_columns) as a dense array (R, n_columns).

    Raises:
        IndexError: a column of a used row of the table is out of range, so the artifact is damaged.
    """
    least, largest = table.span
    if least < 0 or largest >= n_columns or len(table.columns) > _MOST_COUNTED:
        return _copied_product(left, table, n_columns)
    result = np.zeros((left.n_rows, n_columns), np.float32)
    _add_product(left, table, result)
    return result


def _copied_product(left: Rows, table: Rows, n_columns: int) -> Floats:
    """As `product`, for a table of which not all columns are in range, or too large for 32-bit indices."""
    result = np.zeros((left.n_rows, n_columns), np.float32)
    for row in range(left.n_rows):
        indices, weights = left.row(row)
        if not len(indices):
            continue
        used = table.take(indices)
        if used.span[0] < 0 or used.span[1] >= n_columns:  # csc_matvec would write out of bounds
            raise IndexError(f"columns {used.span[0]} to {used.span[1]} of a table with {n_columns}")
        every = np.arange(len(indices), dtype=np.int32)
        _add_product(Rows(np.array([0, len(indices)]), every, weights), used, result[row : row + 1])
    return result


def _add_product(left: Rows, table: Rows, result: Floats) -> None:
    """Add the product of left (R, C) and a sound table (C, n_columns) to `result` (R, n_columns).

    The rows of the table that a row of `left` uses become the columns of a CSC matrix, last row first, without copying
    them. CSC requires each column to start where the previous one ends, so an empty column of weight 0, which ends
    before it starts, is put between two of them. The indices of all rows of `left`, also last first, are computed
    together, because that takes as long as for one.
    """
    n_rows, n_columns = result.shape
    numbers = left.row_numbers()
    starts = table.starts[left.columns]
    order = np.argsort(numbers * (len(table.columns) + 1) + starts)[::-1]
    n = len(order)
    places = 2 * np.arange(n) + (n_rows - 1 - numbers[order])
    bounds = np.zeros(2 * n + n_rows, np.int32)  # those of each row end with a 0
    bounds[places] = starts[order]
    bounds[places + 1] = table.starts[left.columns + 1][order]
    heights = np.zeros(2 * n, np.float32)
    heights[::2] = left.values[order]
    end = n
    for row, count in enumerate(left.counts.tolist()):
        if count:
            first, last, gap = 2 * (end - count), 2 * end, n_rows - 1 - row
            _sparsetools.csc_matvec(
                n_columns,
                2 * count,
                bounds[first + gap : last + gap + 1],
                table.columns,
                table.values,
                heights[first:last],
                result[row],
            )
        end -= count


@dataclass(frozen=True, eq=False)
class RowProduct:
    """The product of one sparse row and a table, for access to some of its entries.

    Attributes:
        columns: (E,) columns of the entries other than 0, in any order; None if `values` are dense.
        values: (E,) or (C,).
        n_columns: C.
    """

    columns: Integers | None
    values: Floats
    n_columns: int

    @classmethod
    def of(cls, left: Rows, table: Rows, n_columns: int) -> RowProduct:
        """Return the product of the single row of `left` (1, R) and a table (R, n_columns).

        Raises:
            IndexError: as `product`.
        """
        rows, weights = left.row(0)
        counts = table.starts[rows + 1] - table.starts[rows]
        if int(counts.sum()) > n_columns // _DENSE_FROM:
            return cls(None, product(left, table, n_columns)[0], n_columns)
        entries = ranges(table.starts[rows], counts)
        columns, values = table.columns[entries], table.values[entries] * np.repeat(weights, counts)
        if len(columns) and not 0 <= columns.min() <= columns.max() < n_columns:
            raise IndexError(f"columns {columns.min()} to {columns.max()} of a table with {n_columns}")
        # Entries of the same column are added at the place of the last of them; sorting would take longer.
        order = np.arange(len(columns), dtype=np.int32)
        last = _scratch(n_columns)
        last[columns] = order
        places = last[columns]
        is_last = places == order
        sums = np.bincount(places, values, len(columns))[is_last]
        return cls(columns[is_last], sums.astype(np.float32), n_columns)

    def at(self, columns: Integers) -> Floats:
        """Return the entries at some columns, without duplicates (n,)."""
        if self.columns is None:
            return self.values[columns]
        found = np.zeros(len(columns), np.float32)
        if len(columns):
            places = _scratch(self.n_columns)
            places[columns] = np.arange(len(columns), dtype=np.int32)
            # Elsewhere the scratch array holds anything: what it points to is compared.
            index = places[self.columns]
            index[(index < 0) | (index >= len(columns))] = 0
            hits = columns[index] == self.columns
            found[index[hits]] = self.values[hits]
        return found

    def largest(self, n: int, *, first: int = 0, factors: Floats | None = None) -> npt.NDArray[np.int64]:
        """Return the columns of the n largest entries above 0, or fewer, in any order.

        Args:
            n: number of columns.
            first: only columns from this one on.
            factors: (C,) above 0, by which the entries are multiplied first.
        """
        positive = np.flatnonzero(self.values > 0)
        if first:
            positive = positive[(positive if self.columns is None else self.columns[positive]) >= first]
        columns = positive if self.columns is None else self.columns[positive].astype(np.int64)
        if len(columns) <= n:
            return columns
        values = self.values[positive] if factors is None else self.values[positive] * factors[columns]
        best: npt.NDArray[np.int64] = columns[np.argpartition(-values, n - 1)[:n]]
        return best


_own = threading.local()


def _scratch(n: int) -> npt.NDArray[np.int32]:
    """Return an array (n,) of this thread with any content, which the next call returns again.

    A new one would have to be filled with zeros by the system, which takes longer than using a few of its entries.
    """
    found: npt.NDArray[np.int32] | None = getattr(_own, "scratch", None)
    if found is None or len(found) < n:
        found = _own.scratch = np.zeros(n, np.int32)
    return found


def ranges(starts: Integers, counts: Integers) -> npt.NDArray[np.int64]:
    """Return concatenated ranges, `[s0, s0+1, ... s0+c0-1, s1, ...]`."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    indices: npt.NDArray[np.int64] = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    return indices
