"""Pictures of an evaluation: generated bars beside held-out ones, and the control that wishes have."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from tritone_training.kinds.music_gan.judge import Judgement
from tritone_training.kinds.music_vae.report import draw_histograms, draw_pianorolls, picture

_N_SHOWN: Final = 6


def write(folder: Path, judgement: Judgement) -> list[str]:
    """Write the report's pictures; answers their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    n_shown = min(_N_SHOWN, len(judgement.held_out))
    theirs = np.linspace(0, len(judgement.held_out) - 1, n_shown).astype(np.int64)
    rolls = [judgement.held_out[theirs], judgement.generated[:n_shown]]
    return [
        draw_pianorolls(folder / "bars.png", rolls, rows=("held-out", "generated")),
        draw_histograms(folder / "histograms.png", {"held-out": judgement.held_out, "generated": judgement.generated}),
        _draw_density(folder / "density.png", judgement),
    ]


def _draw_density(path: Path, judgement: Judgement) -> str:
    control = judgement.metrics["conditions"]
    with picture(path, (4, 3.5), 1, 1) as axes:
        axis = axes[0][0]
        axis.plot(control["density_asked"], control["density_measured"], marker="o")
        axis.set_xlabel("notes a quarter, asked for")
        axis.set_ylabel("measured, mean")
        axis.set_title(f"correlation {control['density_correlation']:.2f}")
    return str(path)
