"""Result of a listening test: estimates of each measure for the pieces and for real pieces, and the targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_training.evaluation import Summary, SummaryTable, problem_lines
from tritone_training.listening_test.estimates import Estimate, estimate, estimate_mean
from tritone_training.listening_test.pieces import ListeningPiece
from tritone_training.musicality.comparison import overlap_area
from tritone_training.musicality.piece_measures import ENDING_MEASURES, MEASURES

# Measures of the comparison with real pieces, and of the requested values.
_COMPARISONS: Final[Mapping[str, str]] = {
    "range_ratio": "  range / real median",
    "note_length_distance": "note lengths, distance",
}
_ASKED: Final[Mapping[str, str]] = {
    "requested_key_kept": "requested key kept",
    "requested_key_notes": "  notes in the requested key",
}
TITLES: Final[Mapping[str, str]] = {**MEASURES, **_COMPARISONS, **ENDING_MEASURES, **_ASKED}
MISSED: Final = "MISSED"
_AFTER: Final = {"pitch_range": "range_ratio", "longest_silence": "note_length_distance"}


@dataclass(frozen=True)
class Target:
    """The range in which a measure should be.

    Attributes:
        least, most: bounds; None for none.
        of_real: the bounds are multiples of the value of real pieces.
    """

    least: float | None = None
    most: float | None = None
    of_real: bool = False

    def is_met(self, value: float, real: float) -> bool | None:
        """Return whether a value is within the bounds; None if it is unknown."""
        unit = real if self.of_real else 1.0
        if math.isnan(value) or math.isnan(unit):
            return None
        return (self.least is None or value >= self.least * unit) and (self.most is None or value <= self.most * unit)

    def __str__(self) -> str:
        bounds = [f"{sign} {bound:g}" for sign, bound in ((">=", self.least), ("<=", self.most)) if bound is not None]
        if self.least is not None and self.most is not None:
            bounds = [f"{self.least:g} to {self.most:g}"]
        return bounds[0] + (" x real" if self.of_real else "")


TARGETS: Final[Mapping[str, Target]] = {
    "empty": Target(most=0.0),
    "scale_consistency": Target(least=0.94),
    "key_clarity": Target(least=0.82),
    "range_ratio": Target(most=1.25),
    "repeated_bars": Target(least=0.5, most=2.0, of_real=True),
    "silent_bars": Target(most=0.03),
    "cadence": Target(least=0.9),
    "requested_key_kept": Target(least=0.95),
}


@dataclass(frozen=True)
class MeasureResult:
    """One measure of pieces of one length.

    Attributes:
        generated: of the pieces under test.
        real: of real pieces.
        real_by_style: of the real pieces of each style.
        generated_by_style: of the pieces under test whose style is known.
        target: the range in which it should be; None if there is none.
    """

    generated: Estimate
    real: Estimate
    real_by_style: Mapping[str, Estimate]
    generated_by_style: Mapping[str, Estimate]
    target: Target | None = None

    @property
    def is_met(self) -> bool | None:
        """Return whether the target is met; None without a target, or if the measure is unknown."""
        return None if self.target is None else self.target.is_met(self.generated.mean, self.real.mean)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        styles = {
            f"{name}_by_style": {style: each.to_dict() for style, each in found.items()}
            for name, found in (("real", self.real_by_style), ("generated", self.generated_by_style))
        }
        target = None if self.target is None else {"text": str(self.target), "is_met": self.is_met}
        return {"generated": self.generated.to_dict(), "real": self.real.to_dict(), **styles, "target": target}


@dataclass(frozen=True)
class LengthResult:
    """The results of pieces of one length.

    Attributes:
        n_bars: the requested length.
        n_pieces: number of pieces under test.
        n_real: number of real pieces.
        measures: by name; see `TITLES`.
        self_similarity: mean similarity of bars 1, 2, ... bars apart, of the pieces under test.
        real_self_similarity: the same of real pieces.
    """

    n_bars: int
    n_pieces: int
    n_real: int
    measures: Mapping[str, MeasureResult]
    self_similarity: Sequence[float] = field(repr=False)
    real_self_similarity: Sequence[float] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**vars(self), "measures": {name: each.to_dict() for name, each in self.measures.items()}}


@dataclass(frozen=True)
class ListeningTestResult:
    """The result of a listening test.

    Attributes:
        source: the model and its version, or the folder.
        reference: description of the real pieces.
        lengths: results by length.
        details: arguments of the test, such as the seeds.
    """

    source: str
    reference: str
    lengths: Sequence[LengthResult]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_missed(self) -> int:
        """Return how many targets are missed, over all lengths."""
        return sum(each.is_met is False for length in self.lengths for each in length.measures.values())

    @property
    def summary(self) -> Summary:
        """Return lines and tables for people."""
        n_targets = sum(each.is_met is not None for length in self.lengths for each in length.measures.values())
        tables = [_table(self.source, each) for each in self.lengths]
        if len(self.lengths) > 1:
            tables.append(self.overview)
        last = f"{n_targets - self.n_missed} of {n_targets} targets met; real pieces: {self.reference}"
        return [*problem_lines("not used", self.details.get("problems", ())), *tables, last]

    @property
    def overview(self) -> SummaryTable:
        """Return the measures that have a target: means by length, those of real pieces in parentheses."""
        names = [name for name in TARGETS if any(name in each.measures for each in self.lengths)]
        rows = []
        for name in names:
            measures = {f"{each.n_bars} bars": each.measures[name] for each in self.lengths if name in each.measures}
            cells = {length: with_real(each) for length, each in measures.items()}
            rows.append({"": TITLES[name].strip(), **cells, "target": str(TARGETS[name])})
        return SummaryTable(f"{self.source}: mean (real pieces)", rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "source": self.source,
            "reference": self.reference,
            **self.details,
            "n_missed": self.n_missed,
            "lengths": [each.to_dict() for each in self.lengths],
        }


def compare(
    n_bars: int,
    pieces: Sequence[ListeningPiece],
    real: Sequence[ListeningPiece],
    real_note_lengths: Mapping[str | None, npt.NDArray[np.float64]],
) -> LengthResult:
    """Compare pieces with real pieces of the same length.

    Args:
        real_note_lengths: (32,) each, the shares of note lengths with which the pieces of a style are compared; under
            None, those for all pieces.
    """
    medians = _median_ranges(real)
    groups = {
        "generated": {None: list(pieces), **_by_style(pieces)},
        "real": {None: list(real), **_by_style(real)},
    }
    measures = {}
    for name in _names(pieces):
        found = {
            side: {
                style: _estimate(name, each, medians, real_note_lengths.get(style, real_note_lengths[None]))
                for style, each in by_style.items()
            }
            for side, by_style in groups.items()
        }
        measures[name] = MeasureResult(
            found["generated"].pop(None),
            found["real"].pop(None),
            {style: each for style, each in found["real"].items() if style is not None},
            {style: each for style, each in found["generated"].items() if style is not None},
            TARGETS.get(name),
        )
    return LengthResult(
        n_bars, len(pieces), len(real), measures, _mean_similarity(pieces, n_bars), _mean_similarity(real, n_bars)
    )


def _names(pieces: Sequence[ListeningPiece]) -> list[str]:
    names = []
    for name in (*MEASURES, *ENDING_MEASURES):
        names += [name, *([_AFTER[name]] if name in _AFTER else [])]
    return names + [name for name in _ASKED if any(name in piece.values for piece in pieces)]


def _by_style(pieces: Sequence[ListeningPiece]) -> dict[str | None, list[ListeningPiece]]:
    styles = sorted({piece.style for piece in pieces if piece.style is not None})
    return {style: [piece for piece in pieces if piece.style == style] for style in styles}


def _median_ranges(real: Sequence[ListeningPiece]) -> dict[str | None, float]:
    """Return the median range in semitones of each style, and of all under None."""
    groups = {None: list(real), **_by_style(real)}
    return {style: float(np.median([each.values["pitch_range"] for each in group])) for style, group in groups.items()}


def _estimate(
    name: str,
    pieces: Sequence[ListeningPiece],
    median_ranges: Mapping[str | None, float],
    real_note_lengths: npt.NDArray[np.float64],
) -> Estimate:
    if name == "note_length_distance":
        counts = np.array([piece.note_lengths for piece in pieces if piece.note_lengths.any()], np.float64)
        return estimate(counts, lambda samples: _distances(samples, real_note_lengths))
    if name == "range_ratio":
        medians = [median_ranges.get(piece.style, median_ranges[None]) for piece in pieces]
        return estimate_mean(
            [
                piece.values["pitch_range"] / each if each else math.nan
                for piece, each in zip(pieces, medians, strict=True)
            ]
        )
    return estimate_mean([piece.values.get(name, math.nan) for piece in pieces])


def _distances(samples: npt.NDArray[np.float64], real: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the total variation distance of the note lengths of each sample: (R, S, 32) -> (R,), 0 to 1."""
    counts = samples.sum(axis=1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    return np.array([1 - overlap_area(each, real) for each in shares])


def _mean_similarity(pieces: Sequence[ListeningPiece], n_bars: int) -> list[float]:
    n_lags = max(n_bars - 1, 0)
    rows = np.array([piece.self_similarity[:n_lags] for piece in pieces])
    return [float(column[~np.isnan(column)].mean()) if (~np.isnan(column)).any() else math.nan for column in rows.T]


def _table(source: str, length: LengthResult) -> SummaryTable:
    rows = []
    for name, each in length.measures.items():
        if not each.generated.n and not each.real.n:  # such as repeated phrases in two bars
            continue
        met = {None: "", True: "met", False: MISSED}[each.is_met]
        rows.append(
            {
                "": TITLES[name],
                "pieces": with_interval(each.generated),
                "real": with_interval(each.real),
                "target": "" if each.target is None else f"{each.target} {met}".strip(),
                **{style: _cell(found.mean) for style, found in each.real_by_style.items()},
            }
        )
    title = f"{length.n_bars} bars: {length.n_pieces} pieces of {source}, {length.n_real} real pieces (mean, 95 %)"
    return SummaryTable(title, rows)


def with_real(each: MeasureResult, *, shows_real: bool = True) -> str:
    """Return the mean, that of real pieces in parentheses, and whether the target is missed."""
    value = _cell(each.generated.mean)
    if shows_real:
        value = f"{value} ({_cell(each.real.mean)})"
    return f"{value} {MISSED}" if each.is_met is False else value


def with_interval(each: Estimate) -> str:
    """Return the mean and its interval."""
    if not each.n:
        return "-"
    if each.low == each.high == each.mean:
        return _cell(each.mean)
    return f"{_cell(each.mean)} ({_cell(each.low)}..{_cell(each.high)})"


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
