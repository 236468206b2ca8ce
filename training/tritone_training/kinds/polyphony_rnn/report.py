"""Plots and tables of an evaluation: surprise along pieces, reliability, one row per piece."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tritone_training.plots import saved_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tritone_training.kinds.polyphony_rnn.evaluate import Evaluation

_N_PIECES: Final = 4


def write(folder: Path, evaluation: Evaluation) -> list[str]:
    """Write the files of the report and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with saved_figure(folder / "nll_over_time.png", (10, 5)) as [[axes]]:
        _draw_pieces(axes, evaluation)
    with saved_figure(folder / "reliability.png", (5, 5)) as [[axes]]:
        _draw_reliability(axes, evaluation)
    _write_pieces(folder / "pieces.csv", evaluation)
    return [str(folder / name) for name in ("nll_over_time.png", "reliability.png", "pieces.csv")]


def _draw_pieces(axes: Axes, evaluation: Evaluation) -> None:
    """Pieces from the most expected to the most surprising."""
    means = [float(nll.mean()) for nll in evaluation.nll]
    order = np.argsort(means)
    places = np.unique(np.linspace(0, len(order) - 1, _N_PIECES).round().astype(int))
    for index in order[places]:
        # Names are the user's words: not a name but a number stands in the legend, which pieces.csv explains.
        axes.plot(evaluation.nll[index], linewidth=1, label=f"piece {index}: mean {means[index]:.2f}")
    overall = evaluation.metrics["nll_per_frame"]
    axes.axhline(overall, color="black", linewidth=0.8, label=f"all frames: mean {overall:.2f}")
    axes.set(xlabel="frame", ylabel="negative log-likelihood (nats)", ylim=(0, None))
    axes.set_title("surprise along pieces, from the most expected to the least")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _draw_reliability(axes: Axes, evaluation: Evaluation) -> None:
    there = evaluation.counts > 0
    expected = evaluation.expected[there] / evaluation.counts[there]
    sounded = evaluation.sounded[there] / evaluation.counts[there]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, label="perfectly calibrated")
    axes.plot(expected, sounded, color="tab:blue", marker="o", label="pitches of all frames")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="probability", ylabel="share that sounded")
    axes.set_title(f"calibration error {evaluation.metrics['calibration_error']:.4f}")
    axes.legend(loc="lower right")


def _write_pieces(path: Path, evaluation: Evaluation) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "piece", "n_frames", "nll_per_frame", "nll_first_frame"])
        for number, (name, nll) in enumerate(zip(evaluation.names, evaluation.nll, strict=True)):
            writer.writerow([number, name, len(nll), f"{nll.mean():.4f}", f"{nll[0]:.4f}"])
