"""Plots of a listening test: each measure by length, and the similarity of bars by their distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tritone_training.listening_test.estimates import Estimate
from tritone_training.listening_test.result import TITLES, ListeningTestResult, Target
from tritone_training.plots import saved_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOTTED: Final = (
    "scale_consistency",
    "key_clarity",
    "key_drift",
    "range_ratio",
    "note_density",
    "polyphony",
    "note_length_distance",
    "silent_bars",
    "repeated_bars",
    "repeated_phrases",
    "parallels",
    "cadence",
)
_N_COLUMNS: Final = 4
_OFFSET: Final = 0.08  # of the points of one length, so that their intervals do not cover each other
_GENERATED, _REAL = "tab:orange", "tab:blue"


def draw_measures(path: Path, result: ListeningTestResult) -> str:
    """Draw one panel for each measure: means and intervals by length, real pieces, and the target; return the path."""
    n_rows = math.ceil(len(PLOTTED) / _N_COLUMNS)
    lengths = [str(each.n_bars) for each in result.lengths]
    with saved_figure(path, (3.2 * _N_COLUMNS, 2.6 * n_rows), n_rows, _N_COLUMNS) as axes:
        for number, name in enumerate(PLOTTED):
            axis = axes[number // _N_COLUMNS][number % _N_COLUMNS]
            measures = [each.measures[name] for each in result.lengths]
            _draw(axis, [each.real for each in measures], -_OFFSET, colour=_REAL, label="real")
            _draw(axis, [each.generated for each in measures], _OFFSET, colour=_GENERATED, label="pieces")
            _draw_target(axis, measures[0].target, [each.real.mean for each in measures])
            axis.set_title(TITLES[name].strip(), fontsize=9)
            axis.set_xticks(range(len(lengths)), lengths)
            axis.set_xlim(-0.5, len(lengths) - 0.5)
            axis.tick_params(labelsize=8)
        for axis in axes[-1]:
            axis.set_xlabel("bars", fontsize=8)
        axes[0][0].legend(fontsize=7)
    return str(path)


def draw_self_similarity(path: Path, result: ListeningTestResult) -> str:
    """Draw the mean similarity of bars by their distance, one panel for each length; return the path."""
    from matplotlib.ticker import MaxNLocator

    n_columns = len(result.lengths)
    with saved_figure(path, (3.6 * n_columns, 2.8), 1, n_columns) as axes:
        for axis, length in zip(axes[0], result.lengths, strict=True):
            for values, colour, label in (
                (length.real_self_similarity, _REAL, "real"),
                (length.self_similarity, _GENERATED, "pieces"),
            ):
                axis.plot(range(1, len(values) + 1), values, ".-", color=colour, label=label)
            axis.set_title(f"{length.n_bars} bars", fontsize=9)
            axis.set_xlabel("distance in bars", fontsize=8)
            axis.set_ylim(bottom=0)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.tick_params(labelsize=8)
        axes[0][0].set_ylabel("similarity of bars", fontsize=8)
        axes[0][0].legend(fontsize=7)
    return str(path)


def _draw(axis: Axes, estimates: Sequence[Estimate], offset: float, *, colour: str, label: str) -> None:
    known = [(place + offset, each) for place, each in enumerate(estimates) if each.n]
    means = [each.mean for _, each in known]
    below = [max(each.mean - each.low, 0.0) for _, each in known]
    above = [max(each.high - each.mean, 0.0) for _, each in known]
    places = [place for place, _ in known]
    axis.errorbar(places, means, yerr=[below, above], fmt="o", color=colour, markersize=4, capsize=2, label=label)


def _draw_target(axis: Axes, target: Target | None, real: Sequence[float]) -> None:
    """Draw the bounds of a target as a dashed line for each length."""
    if target is None:
        return
    for bound in (target.least, target.most):
        if bound is None:
            continue
        for place, value in enumerate(real):
            level = bound * value if target.of_real else bound
            if not math.isnan(level):
                axis.hlines(level, place - 0.4, place + 0.4, colors="grey", linestyles="dashed", linewidth=1)
