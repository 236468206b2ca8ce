"""Request, state and result of a refit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tritone.atomic import replacing
from tritone_training.exceptions import TrainingError
from tritone_training.kinds.recommender.refit.comparison import Comparison

STATE_FILENAME: Final = "state.json"


class RefitRefusedError(TrainingError):
    """Raised when a refitted recommender is clearly worse than the previous one, which stays.

    Attributes:
        comparison: both on the same listens.
    """

    def __init__(self, message: str, comparison: Comparison) -> None:
        super().__init__(message)
        self.comparison = comparison

    def __reduce__(self) -> tuple[type[RefitRefusedError], tuple[str, Comparison]]:
        return type(self), (str(self), self.comparison)


@dataclass(frozen=True)
class RefitRequest:
    """The request of one refit.

    Attributes:
        checkpoint: folder of the recommender, whose settings and data are used.
        events: address of the event store; None for a refit on the log alone.
        key: file of the key of pseudonyms; None for the one of the training.
        interactions: the log, if it is at another path than in training.
        events_after: only events later than this, in seconds since 1970, such as those that the log lacks.
        max_loss: relative loss of NDCG@10 from which a refit is refused.
        force: refit without new data, and publish a refit that is worse.
        restart: begin again instead of continuing an interrupted refit.
        dry_run: read and compare the inputs only.
        progress: show progress.
        command: for checkpoint.json.
        engine: what computes the parts of the fits, with `workers`, `engine_address` and `read`, as in `TrainRequest`.
    """

    checkpoint: Path
    events: str | None = None
    key: Path | None = None
    interactions: Path | None = None
    events_after: float | None = None
    max_loss: float = 0.05
    force: bool = False
    restart: bool = False
    dry_run: bool = False
    progress: bool = True
    command: str = ""
    engine: str | None = None
    workers: int | None = None
    engine_address: str | None = None
    read: str | None = None


@dataclass(frozen=True)
class RefitResult:
    """Result of a refit.

    Attributes:
        status: `published`, `fitted` (without a repository), `nothing new` or `dry run`.
        n_listens: pairs of user and item in the fit.
        n_users: users in the fit.
        n_items: items in the fit; 0 if there was none.
        n_forgotten: users of the log who were left out, because `tritone forget` removed them.
        events: description of the events.
        comparison: with the previous recommender; None if there were too few new listens.
        versions: published version by model.
        resumed: stages that an interrupted refit had done.
        seconds: by stage.
    """

    status: str
    n_listens: int
    n_users: int
    n_items: int
    n_forgotten: int
    events: Mapping[str, Any]
    comparison: Comparison | None = None
    versions: Mapping[str, int] = field(default_factory=dict)
    resumed: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "status": self.status,
            "n_listens": self.n_listens,
            "n_users": self.n_users,
            "n_items": self.n_items,
            "n_forgotten": self.n_forgotten,
            "events": dict(self.events),
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "versions": dict(self.versions),
            "resumed": list(self.resumed),
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RefitResult:
        """Return the result that `to_dict` was called on."""
        found = values["comparison"]
        comparison = None if found is None else Comparison(**found)
        return cls(**{**values, "comparison": comparison, "resumed": tuple(values["resumed"])})


class RefitState:
    """The stages that are done, in a file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STATE_FILENAME
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            found = {}
        self.values: dict[str, Any] = found if isinstance(found, dict) else {}

    @property
    def inputs(self) -> Any:
        return self.values.get("inputs")

    def done(self, stage: str) -> Any:
        """Return the result of a stage, None if it is not done."""
        stages = self.values.get("stages")
        return stages.get(stage) if isinstance(stages, dict) else None

    def put(self, stage: str, result: Mapping[str, Any]) -> None:
        """Record that a stage is done; the record is on disk when this returns."""
        self.values.setdefault("stages", {})[stage] = dict(result)
        self.write()

    def write(self) -> None:
        """Write the file."""
        with replacing(self.path, sync=True) as staged:
            staged.write_text(json.dumps(self.values, indent=2) + "\n", encoding="utf-8")
