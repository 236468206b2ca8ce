"""Plots of pieces as piano rolls, of classifications and of predictions."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tritone.constants import WINDOW_S
from tritone.extras import require
from tritone.files import Target, format_of, write_result
from tritone.music.grid import HIGHEST_PITCH, LOWEST_PITCH, N_PITCHES, notes_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tritone.music.piece import Piece
    from tritone.results.classification import Classification
    from tritone.results.prediction import Prediction

PLOT_FORMATS: Final = ("png", "svg", "pdf")
_MARGIN: Final = 3  # pitches above and below the piece's own
_GAP: Final = 0.08  # of a step, so that repeated notes are seen as two
_MAX_BAR_LABELS: Final = 24
N_LINES_MAX: Final = 8  # more lines are hard to tell apart


def plot_piece(piece: Piece, target: Target, kind: str | None) -> Any:
    """Draw and write the plot; see `Piece.plot`."""
    return write_plot(lambda: draw_piece(piece), target, kind)


def plot_timeline(result: Classification, target: Target, kind: str | None) -> Any:
    """Draw and write the plot; see `Classification.plot`."""
    return write_plot(lambda: _timeline(result), target, kind)


def plot_prediction(prediction: Prediction, target: Target, kind: str | None) -> Any:
    """Draw and write the plot; see `Prediction.plot`."""
    return write_plot(lambda: _expectations(prediction), target, kind)


def write_plot(draw: Callable[[], Figure], target: Target, kind: str | None) -> Any:
    """Write a figure to a path or a binary file object.

    Raises:
        InvalidInputError: the format is unknown, or the plot cannot be written.
    """
    suffixes = ", ".join(f".{kind}" for kind in PLOT_FORMATS)
    format_name = format_of(
        target, kind, PLOT_FORMATS, f"expected a file name of a plot that ends in one of {suffixes}"
    )

    def content() -> bytes:
        file = io.BytesIO()
        draw().savefig(file, format=format_name, dpi=150)
        return file.getvalue()

    return write_result(target, content, "the plot")


def draw_piece(piece: Piece) -> Figure:
    """Return the piano roll as a matplotlib figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    grid = piece.grid
    figure = _canvas(min(24.0, 4.0 + grid.n_frames / 16), 4.0)
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    onset, end, pitch = notes_of(grid)  # each (K,)
    axes = figure.add_subplot()
    notes = [Rectangle((a, p - 0.45), b - a - _GAP, 0.9) for a, b, p in zip(onset, end, pitch, strict=True)]
    axes.add_collection(PatchCollection(notes, facecolor="#31688e", edgecolor="none"))
    low, high = (int(pitch.min()), int(pitch.max())) if pitch.size else (60, 72)
    axes.set_xlim(0, grid.n_frames)
    axes.set_ylim(low - _MARGIN, high + _MARGIN)
    axes.set_yticks(*_octaves(low - _MARGIN, high + _MARGIN))
    starts = [bar.start for bar in grid.bars]
    every = int(np.ceil(len(starts) / _MAX_BAR_LABELS))
    first = 0 if grid.meter[1] else 1  # an upbeat is bar 0, as musicians count
    axes.set_xticks(starts[::every], [str(number + first) for number in range(0, len(starts), every)])
    axes.grid(axis="x", alpha=0.4)
    axes.grid(axis="y", alpha=0.2)
    axes.set_axisbelow(True)
    axes.set_xlabel("bar")
    axes.set_ylabel("pitch")
    axes.set_title(_title(piece))
    return figure


def _octaves(low: int, high: int) -> tuple[list[int], list[str]]:
    """Return the pitches to label, every C and G, and their names."""
    named = [p for p in range(low, high + 1) if p % 12 in (0, 7)]
    return named, [f"{'C' if p % 12 == 0 else 'G'}{p // 12 - 1}" for p in named]


def _title(piece: Piece) -> str:
    parts = []
    if piece.model:
        parts.append(piece.model + (f" version {piece.model_version}" if piece.model_version else ""))
    if piece.seed is not None:
        parts.append(f"seed {piece.seed}")
    parts.append(f"{piece.grid.n_notes} notes, {piece.grid.duration_s:.0f} s")
    return ", ".join(parts)


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


def _canvas(width: float, height: float) -> Figure:
    """Return an empty figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", extra="scores", purpose="plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not through pyplot: it keeps global state that threads would share, and may look for a display.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
