"""The result of a training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from tritone_training.evaluation import SummaryTable
    from tritone_training.local_model import LocalModel


@dataclass(frozen=True)
class TrainedCheckpoint(os.PathLike[str]):
    """A finished training; can be passed wherever a path is expected.

    Attributes:
        kind: the model kind.
        folder: the checkpoint folder.
        n_epochs: epochs run.
        metrics: by split (`valid`, `test`), then by name.
        data: report on the data: rows or files read and used, problems.
        warm_start: which weights of another checkpoint were loaded; None without a warm start.
        finished: whether the training to resume was finished already, so that nothing was trained.
        key: the file with the key for pseudonyms; None for kinds without users.
        details: further values of the kind, by name, such as `n_train`, `labels` and `base_models_valid`.
        tables: tables for people that a kind adds to its metrics.
    """

    kind: str
    folder: Path
    n_epochs: int
    metrics: Mapping[str, Any]
    data: Mapping[str, Any] = field(repr=False)
    warm_start: Mapping[str, Any] | None = field(default=None, repr=False)
    finished: bool = False
    key: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tables: Sequence[SummaryTable] = field(default=(), repr=False)

    @classmethod
    def from_summary(cls, kind: str, summary: Mapping[str, Any]) -> Self:
        """Return the result of a kind's trainer, whose summary is a mapping."""
        names = {each.name for each in fields(cls)} - {"kind", "folder", "details"}
        return cls(
            kind=kind,
            folder=Path(summary["checkpoint"]),
            details={name: value for name, value in summary.items() if name not in names | {"checkpoint"}},
            **{name: value for name, value in summary.items() if name in names},
        )

    def __fspath__(self) -> str:
        return str(self.folder)

    def load(self) -> LocalModel:
        """Load the model for use in this process; see `tritone_training.load`."""
        from tritone_training.local_model import load

        return load(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; values that a kind does not have are left out, `warm_start` is None."""
        optional = {
            **({"finished": True} if self.finished else {}),
            **({} if self.key is None else {"key": self.key}),
        }
        return {
            "kind": self.kind,
            "checkpoint": str(self.folder),
            **self.details,
            "n_epochs": self.n_epochs,
            "metrics": self.metrics,
            "data": self.data,
            "warm_start": self.warm_start,
            **optional,
        }
