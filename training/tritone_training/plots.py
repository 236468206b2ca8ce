"""Figures for the reports of all model kinds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@contextmanager
def saved_figure(
    path: Path, inches: tuple[float, float], n_rows: int = 1, n_columns: int = 1, *, dpi: int = 120
) -> Iterator[list[list[Axes]]]:
    """Yield the axes of a new figure as rows and columns; the figure is written when the block ends.

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
