"""Results of `evaluate`, `crossvalidate` and `tune`, of the same form for all model kinds.

Each result holds its values under the names of the JSON form, and a `summary` for people: lines of text and tables in
the order in which they are printed. A caller can therefore show the result of any kind without knowing its metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

_N_PROBLEMS_SHOWN: Final = 10


@dataclass(frozen=True)
class SummaryTable:
    """A table for people; all rows have the same keys, the names of the columns."""

    title: str
    rows: Sequence[Mapping[str, Any]]


Summary: TypeAlias = Sequence[str | SummaryTable]


@dataclass(frozen=True)
class EvaluationResult:
    """The evaluation of a checkpoint on one data set.

    Attributes:
        checkpoint: the evaluated checkpoint folder.
        data: description of the data set.
        metrics: by name; metrics per class, split, style or length of history are nested mappings.
        details: what was evaluated, by name, such as `split`, `fold` and the number of examples seen in training.
        summary: lines and tables for people.
        report: paths of the plots and tables that were written; None if no report was requested.
    """

    checkpoint: Path
    data: str
    metrics: Mapping[str, Any]
    details: Mapping[str, Any] = field(default_factory=dict)
    summary: Summary = field(default=(), repr=False)
    report: Sequence[str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: metrics and details at the top level; `report` only if there is one."""
        return {
            **self.metrics,
            "checkpoint": str(self.checkpoint),
            "data": self.data,
            **self.details,
            **({} if self.report is None else {"report": list(self.report)}),
        }


class MeanStd(NamedTuple):
    """Mean and standard deviation of a metric over the folds (or seeds) of a cross-validation."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanStd:
        """Return mean and (population) standard deviation of the values."""
        import numpy as np  # not at the top: the command line imports this module for every command

        return cls(float(np.mean(values)), float(np.std(values)))


@dataclass(frozen=True)
class CrossValidationResult:
    """The evaluations of a cross-validation.

    Attributes:
        out: folder with the checkpoint of each fold.
        metrics: mean and standard deviation over the folds, by name.
        details: further values, by name, such as metrics of all folds pooled.
        folds: number (or seed) and metrics of each fold.
        data: report on the data: rows or files read and used, problems.
        summary: lines and tables for people.
    """

    out: Path
    metrics: Mapping[str, MeanStd]
    details: Mapping[str, Any]
    folds: Sequence[Mapping[str, Any]]
    data: Mapping[str, Any] = field(repr=False)
    summary: Summary = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; the standard deviation of `accuracy` is `accuracy_std`."""
        return {
            **{name: each.mean for name, each in self.metrics.items()},
            **{f"{name}_std": each.std for name, each in self.metrics.items()},
            **self.details,
            "folds": list(self.folds),
            "data": self.data,
            "out": str(self.out),
        }


@dataclass(frozen=True)
class TuningResult:
    """The state of a hyper-parameter search.

    Attributes:
        kind: the model kind.
        score: name of the maximised metric, such as `valid accuracy`.
        best: hyper-parameters of the best trial.
        best_value: its score.
        n_trials: number of trials with a score.
        n_failed: number of trials whose training failed.
        trials: number, score and hyper-parameters of each trial, the best first.
        out: folder of the study.
    """

    kind: str
    score: str
    best: Mapping[str, Any]
    best_value: float
    n_trials: int
    n_failed: int
    trials: Sequence[Mapping[str, Any]] = field(repr=False)
    out: Path

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**vars(self), "trials": list(self.trials), "out": str(self.out)}


def summarize(values: Mapping[str, Any]) -> list[str | SummaryTable]:
    """Return a summary of nested values: the numbers in one line, and each group of numbers as a table."""
    numbers = {name: value for name, value in values.items() if _is_number(value)}
    found: list[str | SummaryTable] = [
        ", ".join(f"{in_words(name)} {format_cell(value)}" for name, value in numbers.items())
    ]
    for name, group in values.items():
        if isinstance(group, Mapping):
            found += _tables(in_words(name), group)
    return found


def _tables(title: str, group: Mapping[str, Any]) -> Iterator[SummaryTable]:
    """Yield a table of the group's own numbers, and a table with a row for each of its sub-groups."""
    if plain := {name: value for name, value in group.items() if _is_number(value)}:
        yield SummaryTable(title, [plain])
    rows = [
        {"": in_words(name), **{column: number for column, number in part.items() if _is_number(number)}}
        for name, part in group.items()
        if isinstance(part, Mapping)
    ]
    if rows:
        columns = dict.fromkeys(column for row in rows for column in row)
        yield SummaryTable(title, [{column: row.get(column) for column in columns} for row in rows])


def problem_lines(what: str, problems: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each example that was left out, with its path and the reason; at most ten."""
    lines = [
        f"  {what}: {problem['path']} ({problem['reason']}): {problem['message']}"
        for problem in problems[:_N_PROBLEMS_SHOWN]
    ]
    if len(problems) > _N_PROBLEMS_SHOWN:
        lines.append(f"  ... and {len(problems) - _N_PROBLEMS_SHOWN} more; --json lists all")
    return lines


def in_words(name: str) -> str:
    """Return a name with spaces instead of underscores."""
    return name.replace("_", " ")


def format_cell(value: Any) -> str:
    """Return a value as text: floats with three digits, None as a dash."""
    if isinstance(value, float):  # a small value, such as a learning rate, is not shown as 0.000
        return f"{value:.3f}" if value == 0 or abs(value) >= 0.1 else f"{value:.3g}"
    return "-" if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
