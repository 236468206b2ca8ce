"""Plots and tables of an evaluation: likelihood by style and along a piece, written beside held-out music.

Shapes: T frames, P 88 pitches.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone.music.grid import LOWEST_PITCH, N_PITCHES
from tritone_training.kinds.music_transformer.generator import PieceGenerator
from tritone_training.kinds.music_transformer.network import MusicTransformer
from tritone_training.kinds.music_transformer.notes import MAX_NOTES, N_TOKENS
from tritone_training.plots import saved_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tritone_training.kinds.music_transformer.evaluate import Evaluation

_N_SHOWN: Final = 3  # pieces side by side with as many written ones
_SHOWN_FRAMES: Final = 128
_SMOOTHED_FRAMES: Final = 8
_FEWEST_PIECES: Final = 3  # that the mean along a piece is taken over


def write(folder: Path, evaluation: Evaluation, network: MusicTransformer, info: Mapping[str, Any]) -> list[str]:
    """Write the files of the report and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with saved_figure(folder / "nll_by_style.png", (7, 4)) as [[axes]]:
        _draw_styles(axes, evaluation.metrics)
    with saved_figure(folder / "nll_along_a_piece.png", (7, 4)) as [[axes]]:
        _draw_course(axes, evaluation)
    real = [evaluation.pieces[index] for index in _spread(len(evaluation.pieces), _N_SHOWN)]
    written = compose(network, n=len(real), n_frames=_SHOWN_FRAMES, meter=real[0].meter)
    with saved_figure(folder / "held_out_and_written.png", (12, 3 * len(real)), len(real), 2) as rows:
        for seed, (piece, grid, (left, right)) in enumerate(zip(real, written, rows, strict=True)):
            _draw_roll(left, piece.frames[:_SHOWN_FRAMES], f"held out: {piece.name}")
            _draw_roll(right, grid, f"generated, seed {seed}")
    _write_table(folder / "pieces.csv", evaluation)
    names = ("nll_by_style.png", "nll_along_a_piece.png", "held_out_and_written.png", "pieces.csv")
    return [str(folder / name) for name in names]


def compose(
    network: MusicTransformer, *, n: int, n_frames: int, meter: tuple[int, int] = (0, 0)
) -> npt.NDArray[np.uint8]:
    """Write n pieces from nothing, seeds 0 to n - 1: (n, T, P) grid values."""
    noise = torch.stack([torch.rand(n_frames, MAX_NOTES, generator=torch.Generator().manual_seed(i)) for i in range(n)])
    with torch.inference_mode():
        frames, _ = PieceGenerator(network).eval()(
            torch.zeros(n, n_frames, N_PITCHES, dtype=torch.uint8),
            torch.zeros(n, n_frames, dtype=torch.uint8),
            torch.tensor([meter] * n),
            torch.zeros(n, dtype=torch.int64),
            noise,
            torch.ones(n),
            torch.full((n,), N_TOKENS),
            torch.ones(n),
        )
    answer: npt.NDArray[np.uint8] = frames.numpy()
    return answer


def _spread(n_all: int, n_wanted: int) -> list[int]:
    """Indices from the first to the last, evenly."""
    return sorted({round(index) for index in np.linspace(0, n_all - 1, min(n_wanted, n_all))})


def _draw_styles(axes: Axes, metrics: Mapping[str, Any]) -> None:
    styles = metrics["styles"]
    # Names are the user's: without parse_math, one that holds two dollar signs is read as a formula.
    names = [f"{name} ({styles[name]['n']})" for name in styles]
    axes.barh(range(len(names)), [each["nll_per_frame"] for each in styles.values()], color="tab:green")
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    axes.axvline(metrics["nll_per_frame"], color="black", linewidth=0.8)
    axes.set_xlabel("nats per frame; fewer are better")
    axes.set_title(f"all: {metrics['nll_per_frame']:.3f} over {metrics['n_frames']:,} frames")


def _draw_course(axes: Axes, evaluation: Evaluation) -> None:
    longest = max(len(nll) for nll in evaluation.nll)
    rows = np.full((len(evaluation.nll), longest), np.nan)
    for row, nll in zip(rows, evaluation.nll, strict=True):
        row[: len(nll)] = nll
    enough = np.isfinite(rows).sum(0) >= min(_FEWEST_PIECES, len(rows))
    mean = np.nanmean(rows[:, enough], axis=0)
    width = min(_SMOOTHED_FRAMES, len(mean))
    smooth = np.convolve(mean, np.ones(width) / width, mode="valid")
    axes.plot(np.arange(len(smooth)) + width / 2, smooth, color="tab:blue")
    axes.set(xlabel="frames since the beginning", ylabel="nats per frame")
    axes.set_title(f"along a piece (mean over {len(rows)}, smoothed over {width} frames)")


def _draw_roll(axes: Axes, frames: npt.NDArray[np.uint8], title: str) -> None:
    axes.imshow(
        frames.T,
        origin="lower",
        aspect="auto",
        cmap="Greens",
        interpolation="nearest",
        vmin=0,
        vmax=2,
        extent=(0, len(frames), LOWEST_PITCH - 0.5, LOWEST_PITCH + N_PITCHES - 0.5),
    )
    axes.set(xlabel="frame", ylabel="MIDI pitch")
    axes.set_title(title, fontsize=8, parse_math=False)


def _write_table(path: Path, evaluation: Evaluation) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["piece", "style", "n_frames", "nll_per_frame"])
        for piece, nll in zip(evaluation.pieces, evaluation.nll, strict=True):
            writer.writerow([piece.name, piece.style, len(nll), f"{nll.mean():.4f}"])
