"""A classification's timeline as a picture."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tritone_client._exceptions import InvalidInputError, MissingExtraError
from tritone_client.constants import WINDOW_S

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tritone_client._results import Classification

FORMATS: Final = (".png", ".svg", ".pdf")
N_LINES_MAX: Final = 8  # more lines than this nobody can tell apart


def plot_timeline(result: Classification, path: Path) -> Path:
    """Draw and write the picture; see `Classification.plot`."""
    if path.suffix.lower() not in FORMATS:
        raise InvalidInputError(f"{path}: a picture's name ends in one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise InvalidInputError(f"{path}: there is no folder {path.parent} to write the picture to")
    figure = _drawn(result)
    try:
        # Beside the target, so that the last step is a rename and nobody sees half a picture.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix.lower())
        os.close(handle)
        written = Path(name)
        try:
            figure.savefig(written, dpi=150)
            written.chmod(0o644)
            written.replace(path)
        finally:
            written.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInputError(f"{path}: the picture cannot be written ({error})") from error
    return path


def _drawn(result: Classification) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "drawing needs matplotlib, which is not installed: pip install 'tritone[train]'"
        ) from error

    # Not through pyplot: it keeps global state that threads would share, and may look for a display.
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
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
