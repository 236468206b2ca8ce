"""Pictures and tables of an evaluation: likelihood by style and along a piece, written beside held-out music.

Shapes: T frames, P 88 pitches.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone.music.grid import LOWEST_PITCH, N_PITCHES
from tritone_training.kinds.music_transformer.judge import Judgement
from tritone_training.kinds.music_transformer.network import MusicTransformer
from tritone_training.kinds.music_transformer.vocabulary import MAX_NOTES, N_WORDS
from tritone_training.kinds.music_transformer.writer import Writer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_N_SHOWN: Final = 3  # pieces side by side with as many written ones
_SHOWN_FRAMES: Final = 128
_SMOOTHED_FRAMES: Final = 8
_FEWEST_PIECES: Final = 3  # that the mean along a piece is taken over


def write(folder: Path, judgement: Judgement, network: MusicTransformer, info: Mapping[str, Any]) -> list[str]:
    """Write the report's files; answers their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[str] = []
    with _picture(folder / "nll_by_style.png", (7, 4), 1, files) as (axes,):
        _draw_styles(axes, judgement.metrics)
    with _picture(folder / "nll_along_a_piece.png", (7, 4), 1, files) as (axes,):
        _draw_course(axes, judgement)
    real = [judgement.pieces[index] for index in _spread(len(judgement.pieces), _N_SHOWN)]
    written = compose(network, n=len(real), n_frames=_SHOWN_FRAMES, meter=real[0].meter)
    with _picture(folder / "held_out_and_written.png", (12, 3 * len(real)), 2 * len(real), files) as axes:
        for row, (piece, grid) in enumerate(zip(real, written, strict=True)):
            _draw_roll(axes[2 * row], piece.frames[:_SHOWN_FRAMES], f"held out: {piece.name}")
            _draw_roll(axes[2 * row + 1], grid, f"written, seed {row}")
    files.append(_write_table(folder / "pieces.csv", judgement))
    return files


def compose(
    network: MusicTransformer, *, n: int, n_frames: int, meter: tuple[int, int] = (0, 0)
) -> npt.NDArray[np.uint8]:
    """Write n pieces from nothing, seeds 0 to n - 1: (n, T, P) grid values."""
    noise = torch.stack([torch.rand(n_frames, MAX_NOTES, generator=torch.Generator().manual_seed(i)) for i in range(n)])
    with torch.inference_mode():
        frames, _ = Writer(network).eval()(
            torch.zeros(n, n_frames, N_PITCHES, dtype=torch.uint8),
            torch.zeros(n, n_frames, dtype=torch.uint8),
            torch.tensor([meter] * n),
            torch.zeros(n, dtype=torch.int64),
            noise,
            torch.ones(n),
            torch.full((n,), N_WORDS),
            torch.ones(n),
        )
    answer: npt.NDArray[np.uint8] = frames.numpy()
    return answer


def _spread(n_all: int, n_wanted: int) -> list[int]:
    """Indices from the first to the last, evenly."""
    return sorted({round(index) for index in np.linspace(0, n_all - 1, min(n_wanted, n_all))})


@contextmanager
def _picture(path: Path, inches: tuple[float, float], n_axes: int, files: list[str]) -> Iterator[list[Axes]]:
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    figure = Figure(figsize=inches, layout="constrained")
    n_columns = 1 if n_axes == 1 else 2
    yield [figure.add_subplot(n_axes // n_columns, n_columns, index + 1) for index in range(n_axes)]
    figure.savefig(path, dpi=120)
    files.append(str(path))


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


def _draw_course(axes: Axes, judgement: Judgement) -> None:
    longest = max(len(nll) for nll in judgement.nll)
    rows = np.full((len(judgement.nll), longest), np.nan)
    for row, nll in zip(rows, judgement.nll, strict=True):
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


def _write_table(path: Path, judgement: Judgement) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["piece", "style", "n_frames", "nll_per_frame"])
        for piece, nll in zip(judgement.pieces, judgement.nll, strict=True):
            writer.writerow([piece.name, piece.style, len(nll), f"{nll.mean():.4f}"])
    return str(path)
