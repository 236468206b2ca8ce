"""Plots of classifications and predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tritone.constants import WINDOW_S
from tritone.exceptions import MissingExtraError
from tritone.files import Target
from tritone.music.grid import HIGHEST_PITCH, LOWEST_PITCH, N_PITCHES
from tritone.music.plot import write_plot
from tritone.music.scores import INSTALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tritone.results.classification import Classification
    from tritone.results.prediction import Prediction

N_LINES_MAX: Final = 8  # more lines are hard to tell apart


def plot_timeline(result: Classification, target: Target, kind: str | None) -> Any:
    """Draw and write the picture; see `Classification.plot`."""
    return write_plot(lambda: _timeline(result), target, kind)


def plot_prediction(prediction: Prediction, target: Target, kind: str | None) -> Any:
    """Draw and write the picture; see `Prediction.plot`."""
    return write_plot(lambda: _expectations(prediction), target, kind)


def _canvas(width: float, height: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(f"drawing needs matplotlib, which is not installed: {INSTALL}") from error

    # Not through pyplot: it keeps global state that threads would share, and may look for a display.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _timeline(result: Classification) -> Figure:
    figure = _canvas(9, 3.6)
    axes = figure.add_subplot()
    middles_s = [
        min(window.start_s + WINDOW_S / 2, result.duration_s - min(WINDOW_S, result.duration_s) / 2)
        for window in result.timeline
    ]
    means = {
        label: sum(window.probabilities[label] for window in result.timeline) / len(result.timeline)
        for label in result.timeline[0].probabilities
    }
    strongest = sorted(means, key=lambda label: -means[label])[:N_LINES_MAX]
    for label in strongest:
        values = [window.probabilities[label] for window in result.timeline]
        axes.plot(middles_s, values, marker="o", markersize=3, label=f"{label} ({means[label]:.0%})")
    axes.set_xlim(0, result.duration_s)
    axes.set_ylim(0, 1)
    axes.set_xlabel("time in the recording, s (middle of each 3 s window)")
    axes.set_ylabel("probability")
    axes.set_title(f"{result.label} — {result.model} version {result.model_version}")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _expectations(prediction: Prediction) -> Figure:
    """Plot expected pitches and played notes above the surprise of each time step."""
    grid = prediction.grid
    figure = _canvas(min(24.0, 5.0 + grid.n_frames / 16), 5.0)
    expected, surprise = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = (0, grid.n_frames, LOWEST_PITCH - 0.5, HIGHEST_PITCH + 0.5)
    if prediction.probabilities is not None:
        ahead = np.zeros((grid.n_frames, N_PITCHES), np.float32)
        ahead[1:] = prediction.probabilities[:-1]  # row n is about frame n + 1
        expected.imshow(ahead.T, origin="lower", aspect="auto", extent=edges, cmap="Blues", vmin=0, vmax=1)
    steps, columns = np.nonzero(grid.frames)
    expected.plot(steps + 0.5, columns + LOWEST_PITCH, ".", color="#d95f02", markersize=3)
    low, high = int(columns.min()) + LOWEST_PITCH - 3, int(columns.max()) + LOWEST_PITCH + 3
    expected.set_ylim(max(low, LOWEST_PITCH) - 0.5, min(high, HIGHEST_PITCH) + 0.5)
    expected.set_ylabel("MIDI pitch")
    expected.set_title(
        f"{prediction.model} version {prediction.model_version}: {prediction.nll_per_frame:.2f} nats a step "
        f"(blue: expected, orange: played)"
    )
    surprise.step(np.arange(grid.n_frames), prediction.nll, where="post", color="#31688e", linewidth=1)
    surprise.set_xlim(0, grid.n_frames)
    surprise.set_ylim(bottom=0)
    surprise.set_ylabel("surprise, nats")
    surprise.set_xlabel(f"time, {grid.frames_per_quarter} steps to a quarter")
    surprise.grid(alpha=0.3)
    return figure
