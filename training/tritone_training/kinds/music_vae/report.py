"""Plots of an evaluation: reconstructions, a walk between two spans, and what moving along attributes does.

Shapes: S spans, N = 32 time steps, V = 4 voices.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from tritone.sampling import uniform_noise
from tritone_training.bars.autoencoder import INTERPOLATION_STEPS, MusicVae, decode, spherical
from tritone_training.bars.plots import draw_histograms, draw_pianorolls
from tritone_training.plots import saved_figure

if TYPE_CHECKING:
    from tritone_training.kinds.music_vae.evaluate import Evaluation

    pass

_N_SHOWN: Final = 4


def write(folder: Path, network: MusicVae, evaluation: Evaluation) -> list[str]:
    """Write the plots of the report and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    spans = evaluation.spans.voices
    shown = np.linspace(0, len(spans) - 1, min(len(spans), _N_SHOWN)).astype(np.int64)
    files = [
        draw_pianorolls(
            folder / "reconstructions.png",
            [spans[shown], evaluation.reconstructed[shown]],
            rows=("held-out", "reconstructed"),
        ),
        draw_histograms(folder / "histograms.png", {"held-out": spans, "reconstructed": evaluation.reconstructed}),
        _draw_attributes(folder / "attributes.png", evaluation.metrics["attributes"]),
    ]
    if len(shown) > 1:
        means = evaluation.means[shown]
        noise = np.broadcast_to(uniform_noise(0, *spans.shape[1:]), (1, *spans.shape[1:]))
        walk = [
            decode(network, torch.from_numpy(spherical(means[:1], means[-1:], share)), noise)[0]
            for share in np.linspace(0, 1, INTERPOLATION_STEPS)
        ]
        files.append(draw_pianorolls(folder / "interpolation.png", [np.stack(walk)], rows=("from left to right",)))
    return files


def _draw_attributes(path: Path, control: dict[str, Any]) -> str:
    with saved_figure(path, (4 * len(control), 3.5), 1, len(control), dpi=100) as axes:
        for axis, (name, metrics) in zip(axes[0], control.items(), strict=True):
            axis.plot(metrics["amounts"], metrics["measured"], marker="o")
            axis.set_xlabel("moved by (standard deviations)")
            axis.set_ylabel(f"measured {name.replace('_', ' ')}")
            axis.set_title(f"correlation {metrics['correlation']:.2f}")
    return str(path)
