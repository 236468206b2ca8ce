"""Plots in the reports of model kinds.

Shapes: S two-bar spans, N = 32 time steps, V = 4 voices.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tritone.music.grid import LOWEST_PITCH
from tritone_training.musicality import histogram, interval_histogram, length_histogram, spans_to_frames

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    pass


@contextmanager
def saved_figure(
    path: Path, inches: tuple[float, float], n_rows: int = 1, n_columns: int = 1, *, dpi: int = 120
) -> Iterator[list[list[Axes]]]:
    """Yield the axes of a new figure by row and column; write the figure to a file when the block ends.

    Args:
        path: of the PNG file.
        inches: width and height of the figure.
    """
    from matplotlib.figure import Figure  # not pyplot, which may open a display

    figure = Figure(figsize=inches, layout="constrained")
    yield figure.subplots(n_rows, n_columns, squeeze=False).tolist()
    with warnings.catch_warnings():
        # A character that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(path, dpi=dpi)


def draw_pianorolls(path: Path, voices: Sequence[npt.NDArray[Any]], *, rows: Sequence[str]) -> str:
    """Draw one row of piano rolls for each set of spans (S, N, V) over the range of pitches in use; return the path."""
    frames = [spans_to_frames(each) for each in voices]
    used = np.flatnonzero(np.concatenate(frames).any((0, 1)))
    low, high = (int(used[0]), int(used[-1])) if used.size else (39, 51)
    n_columns = max(map(len, frames))
    with saved_figure(path, (2.2 * n_columns, 2.2 * len(frames)), len(frames), n_columns, dpi=100) as axes:
        for row, name in enumerate(rows):
            for column in range(n_columns):
                axis = axes[row][column]
                if column >= len(frames[row]):
                    axis.axis("off")
                    continue
                roll = frames[row][column].T
                axis.imshow(
                    roll, cmap="Greys", vmin=0, vmax=2, origin="lower", aspect="auto", interpolation="nearest",
                    extent=(0, roll.shape[1], LOWEST_PITCH - 0.5, LOWEST_PITCH + len(roll) - 0.5),
                )  # fmt: skip
                axis.set_ylim(low + LOWEST_PITCH - 2, high + LOWEST_PITCH + 2)
                axis.set_xticks(range(0, roll.shape[1] + 1, 16))
                axis.set_yticks([] if column else [low + LOWEST_PITCH, high + LOWEST_PITCH])
                if not column:
                    axis.set_ylabel(name)
    return str(path)


def draw_histograms(path: Path, sets: dict[str, npt.NDArray[Any]]) -> str:
    """Draw histograms of pitches, note lengths and intervals of sets of spans side by side; return the path."""
    with saved_figure(path, (13, 3.5), 1, 3, dpi=100) as axes:
        for name, voices in sets.items():
            struck = voices[voices >= 2] + LOWEST_PITCH - 2
            pitches = histogram(struck, lowest=LOWEST_PITCH, highest=LOWEST_PITCH + 87)
            for axis, bins, shares in (
                (axes[0][0], range(LOWEST_PITCH, LOWEST_PITCH + 88), pitches),
                (axes[0][1], range(1, voices.shape[1] + 1), length_histogram(voices)),
                (axes[0][2], range(-12, 13), interval_histogram(voices)),
            ):
                axis.step(bins, shares, where="mid", label=name)
        for axis, title in zip(
            axes[0], ("MIDI pitch", "note length in sixteenths", "interval in semitones"), strict=True
        ):
            axis.set_xlabel(title)
        axes[0][0].set_ylabel("share of notes")
        axes[0][0].legend()
    return str(path)
