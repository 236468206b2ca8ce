"""Matrix factorization of implicit feedback, in which a history is folded in at request time.

The model is that of Hu et al. 2008 (doi:10.1109/ICDM.2008.22) with the regularisation of Rendle et al. 2022
(arXiv:2110.14037). The score of an item is the product of its factors and those of the history. The factors of a
history are the solution of a linear system, so new users and new listens need no training, and each score is an exact
sum over the items of the history.
Shapes: B requests, I items, D factors, K columns of a matrix of interactions (items or users), R of its rows, n items
to explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import N_FITTED, Artifact
from tritone_serving.recommender.base_models.base import Ints, ScoreParts, best_of
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.rows import Floats, Rows

_MOST_AT_ONCE: Final = 4 << 20  # numbers gathered at a time
_MOST: Final = 1e12  # largest regularisation and weight


@dataclass(frozen=True, eq=False)
class FactorSolver:
    """Solves for the factors of rows of interactions, given the factors of the other side.

    The factors x of a row minimise `sum of |weight| (sign(weight) - x v)^2` over its columns, plus
    `unobserved x (x v)^2` over all columns, plus `l2 (n + unobserved K) |x|^2` for n columns. Columns that were added
    after the fit have factors of 0 and are not among the K.

    Attributes:
        factors: (K, D) of the columns, rotated so that `unobserved x factors' factors` is diagonal.
        unobserved: weight of each column, whether it is in the row or not.
        l2: regularisation.
        n_columns: number K of columns of the fit.
        spectrum: (D,) the diagonal of that matrix.
    """

    factors: Floats
    unobserved: float
    l2: float
    n_columns: int
    spectrum: Floats

    @classmethod
    def of(cls, factors: Floats, *, unobserved: float, l2: float, n_columns: int | None = None) -> FactorSolver:
        """Return the solver for given factors of the columns, which are rotated; products with rows do not change.

        Args:
            factors: of the columns.
            unobserved: as the attribute.
            l2: as the attribute.
            n_columns: as the attribute; None for the number of factors.
        """
        spectrum, directions = np.linalg.eigh(unobserved * (factors.T @ factors).astype(np.float64))
        rotated = np.ascontiguousarray(factors @ directions.astype(np.float32))
        n_fitted = len(factors) if n_columns is None else n_columns
        return cls(rotated, unobserved, l2, n_fitted, np.maximum(spectrum, 0).astype(np.float32))

    def prior(self, n: int) -> Floats:
        """Return the diagonal (D,) of the system without the n columns of a row."""
        return self.spectrum + np.float32(self.l2 * (n + self.unobserved * self.n_columns))

    def solve(self, rows: Rows) -> Floats:
        """Return the factors of sparse rows (R, K), dense (R, D); 0 for empty rows."""
        size = self.factors.shape[1]
        found = np.zeros((rows.n_rows, size), np.float32)
        counts = rows.counts
        for n in np.unique(counts[counts > 0]).tolist():
            alike = np.flatnonzero(counts == n)
            prior = self.prior(n)
            step = max(1, _MOST_AT_ONCE // (n * size))
            for start in range(0, len(alike), step):
                some = alike[start : start + step]
                taken = rows.take(some)
                vectors = self.factors[taken.columns].reshape(len(some), n, size)
                weights = taken.values.reshape(len(some), n)
                found[some] = _solved(prior, vectors, weights)
        return found


def rotated_factors(artifact: Artifact, name: str, unobserved: float) -> dict[str, npt.NDArray[Any]]:
    """Return the factors and the spectrum of a `FactorSolver`, from an artifact's base model of a given name."""
    factors = np.asarray(artifact.arrays[f"{name}.factors"], np.float32)
    solver = FactorSolver.of(factors, unobserved=unobserved, l2=0.0)
    return {"factors": solver.factors, "spectrum": solver.spectrum}


def _solved(prior: Floats, vectors: Floats, weights: Floats) -> Floats:
    """Solve `(diag(prior) + sum |w| v v') x = sum w v` for R rows of n columns: vectors (R, n, D), weights (R, n)."""
    amounts = np.abs(weights)
    n, size = vectors.shape[1:]
    if n >= size:
        scaled = vectors * amounts[..., None]
        wanted = (vectors * weights[..., None]).sum(1)
        systems = scaled.transpose(0, 2, 1) @ vectors + np.diag(prior)
        return np.asarray(np.linalg.solve(systems, wanted[..., None])[..., 0])
    # With fewer columns than factors, the system of n unknowns is smaller (Woodbury identity).
    through = vectors / prior  # (R, n, D)
    inner = through @ vectors.transpose(0, 2, 1)
    index = np.arange(n)
    inner[:, index, index] += 1 / np.maximum(amounts, 1e-6)
    shares = np.linalg.solve(inner, np.sign(weights)[..., None])  # (R, n, 1)
    return np.asarray((through * shares).sum(1))


@dataclass(frozen=True, eq=False)
class MatrixFactorization:
    """score = factors of the item x factors of the history, in which all items listened to weigh 1.

    Attributes:
        solver: holds the factors of the items (I, D), 0 for items without listeners.
    """

    name: str
    solver: FactorSolver

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> MatrixFactorization:
        unobserved, l2 = float(described["unobserved"]), float(described["l2"])
        if not (0 <= unobserved < _MOST and 0 < l2 < _MOST):
            raise ValueError(f"unobserved {unobserved} or l2 {l2}, which are out of range")
        arrays = artifact.derive(f"rotated.{name}", lambda opened: rotated_factors(opened, name, unobserved))
        factors = arrays["factors"]
        n_fitted = int(artifact.manifest.get(N_FITTED, len(factors)))
        return cls(name, FactorSolver(factors, unobserved, l2, n_fitted, arrays["spectrum"]))

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        return batch.has_history

    def score(self, batch: RequestBatch, items: Ints | None = None) -> Floats:
        factors = self.solver.factors if items is None else self.solver.factors[items]
        scores: Floats = self.solver.solve(_listened(batch.history)) @ factors.T
        return scores

    def propose(self, batch: RequestBatch, n: int, first: int = 0) -> Ints:
        # Compares all items: fits of catalogues for which that takes long have no factorization.
        return best_of(self.score(batch)[0], n, first)

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        columns, weights = _listened(batch.only(request).history).row(0)
        vectors = self.solver.factors[columns]
        system = np.diag(self.solver.prior(len(columns))) + (vectors * np.abs(weights)[:, None]).T @ vectors
        amounts = self.solver.factors[items] @ np.linalg.solve(system, vectors.T * weights)
        return [ScoreParts("history", columns.astype(np.int64), np.asarray(amounts, np.float32))]


def _listened(history: Rows) -> Rows:
    """Return the history with weights of 1 for items listened to, and without weights of 0; skips keep theirs."""
    weights = np.where(history.values > 0, np.float32(1), np.maximum(history.values, np.float32(-1)))
    kept = weights != 0
    if kept.all():
        return Rows(history.starts, history.columns, weights)
    counts = np.bincount(history.row_numbers()[kept], minlength=history.n_rows)
    return Rows(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), history.columns[kept], weights[kept])
