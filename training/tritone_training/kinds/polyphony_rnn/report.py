"""Pictures and tables of an evaluation: surprise along pieces, reliability, one row per piece."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tritone_training.kinds.polyphony_rnn.judge import Judgement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_N_PIECES: Final = 4


def write(folder: Path, judgement: Judgement) -> list[str]:
    """Write the report's files; answers their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[str] = []
    with _picture(folder / "nll_over_time.png", (10, 5), files) as axes:
        _draw_pieces(axes, judgement)
    with _picture(folder / "reliability.png", (5, 5), files) as axes:
        _draw_reliability(axes, judgement)
    files.append(_write_pieces(folder / "pieces.csv", judgement))
    return files


@contextmanager
def _picture(path: Path, inches: tuple[float, float], files: list[str]) -> Iterator[Axes]:
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    figure = Figure(figsize=inches, layout="constrained")
    yield figure.add_subplot()
    figure.savefig(path, dpi=120)
    files.append(str(path))


def _draw_pieces(axes: Axes, judgement: Judgement) -> None:
    """Pieces from the most expected to the most surprising."""
    means = [float(nll.mean()) for nll in judgement.nll]
    order = np.argsort(means)
    places = np.unique(np.linspace(0, len(order) - 1, _N_PIECES).round().astype(int))
    for index in order[places]:
        # Names are the user's words: not a name but a number stands in the legend, which pieces.csv explains.
        axes.plot(judgement.nll[index], linewidth=1, label=f"piece {index}: mean {means[index]:.2f}")
    overall = judgement.metrics["nll_per_frame"]
    axes.axhline(overall, color="black", linewidth=0.8, label=f"all frames: mean {overall:.2f}")
    axes.set(xlabel="frame", ylabel="negative log-likelihood (nats)", ylim=(0, None))
    axes.set_title("surprise along pieces, from the most expected to the least")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _draw_reliability(axes: Axes, judgement: Judgement) -> None:
    there = judgement.counts > 0
    expected = judgement.expected[there] / judgement.counts[there]
    sounded = judgement.sounded[there] / judgement.counts[there]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, label="perfectly calibrated")
    axes.plot(expected, sounded, color="tab:blue", marker="o", label="pitches of all frames")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="probability", ylabel="share that sounded")
    axes.set_title(f"calibration error {judgement.metrics['calibration_error']:.4f}")
    axes.legend(loc="lower right")


def _write_pieces(path: Path, judgement: Judgement) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "piece", "n_frames", "nll_per_frame", "nll_first_frame"])
        for number, (name, nll) in enumerate(zip(judgement.names, judgement.nll, strict=True)):
            writer.writerow([number, name, len(nll), f"{nll.mean():.4f}", f"{nll[0]:.4f}"])
    return str(path)
