"""Plots of an evaluation: generated bars beside held-out ones, and the control that conditions have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tritone_training.bars.plots import draw_histograms, draw_pianorolls
from tritone_training.plots import saved_figure

if TYPE_CHECKING:
    from tritone_training.kinds.music_gan.evaluate import Evaluation

_N_SHOWN: Final = 6


def write(folder: Path, evaluation: Evaluation) -> list[str]:
    """Write the plots of the report and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    n_shown = min(_N_SHOWN, len(evaluation.held_out))
    theirs = np.linspace(0, len(evaluation.held_out) - 1, n_shown).astype(np.int64)
    rolls = [evaluation.held_out[theirs], evaluation.generated[:n_shown]]
    return [
        draw_pianorolls(folder / "bars.png", rolls, rows=("held-out", "generated")),
        draw_histograms(
            folder / "histograms.png", {"held-out": evaluation.held_out, "generated": evaluation.generated}
        ),
        _draw_density(folder / "density.png", evaluation),
    ]


def _draw_density(path: Path, evaluation: Evaluation) -> str:
    control = evaluation.metrics["conditions"]
    with saved_figure(path, (4, 3.5), 1, 1, dpi=100) as axes:
        axis = axes[0][0]
        axis.plot(control["density_asked"], control["density_measured"], marker="o")
        axis.set_xlabel("notes a quarter, asked for")
        axis.set_ylabel("measured, mean")
        axis.set_title(f"correlation {control['density_correlation']:.2f}")
    return str(path)
