"""Plots of pieces as piano rolls."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tritone.exceptions import MissingExtraError
from tritone.files import Target, format_of, write_result
from tritone.music.grid import notes_of
from tritone.music.scores import INSTALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tritone.music.piece import Piece

PLOT_FORMATS: Final = ("png", "svg", "pdf")
_MARGIN: Final = 3  # pitches above and below the piece's own
_GAP: Final = 0.08  # of a step, so that repeated notes are seen as two
_MAX_BAR_LABELS: Final = 24


def plot_piece(piece: Piece, target: Target, kind: str | None) -> Any:
    """Draw and write the plot; see `Piece.plot`."""
    return write_plot(lambda: draw_piece(piece), target, kind)


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
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.collections import PatchCollection
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise MissingExtraError(f"drawing needs matplotlib, which is not installed: {INSTALL}") from error

    grid = piece.grid
    onset, end, pitch = notes_of(grid)  # each (K,)
    # Without pyplot, which keeps global state that threads would share and may open a display.
    figure = Figure(figsize=(min(24.0, 4.0 + grid.n_frames / 16), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
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
