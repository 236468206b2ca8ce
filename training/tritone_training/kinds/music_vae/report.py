"""Pictures of an evaluation: reconstructions, a walk between two spans, and what moving along attributes does.

Shapes: S spans, N = 32 time steps, V = 4 lanes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone.music.grid import LOWEST_PITCH
from tritone.music.noise import uniform_noise
from tritone_training.kinds.music_vae.attributes import decode
from tritone_training.kinds.music_vae.judge import INTERPOLATION_STEPS, Judgement, spherical
from tritone_training.kinds.music_vae.network import MusicVae
from tritone_training.musicality import histogram, interval_histogram, length_histogram, spans_to_frames

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_N_SHOWN: Final = 4


def write(folder: Path, network: MusicVae, judgement: Judgement) -> list[str]:
    """Write the report's pictures; answers their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    spans = judgement.spans.lanes
    shown = np.linspace(0, len(spans) - 1, min(len(spans), _N_SHOWN)).astype(np.int64)
    files = [
        draw_pianorolls(
            folder / "reconstructions.png",
            [spans[shown], judgement.reconstructed[shown]],
            rows=("held-out", "reconstructed"),
        ),
        draw_histograms(folder / "histograms.png", {"held-out": spans, "reconstructed": judgement.reconstructed}),
        _draw_attributes(folder / "attributes.png", judgement.metrics["attributes"]),
    ]
    if len(shown) > 1:
        means = judgement.means[shown]
        noise = np.broadcast_to(uniform_noise(0, *spans.shape[1:]), (1, *spans.shape[1:]))
        walk = [
            decode(network, torch.from_numpy(spherical(means[:1], means[-1:], share)), noise)[0]
            for share in np.linspace(0, 1, INTERPOLATION_STEPS)
        ]
        files.append(draw_pianorolls(folder / "interpolation.png", [np.stack(walk)], rows=("from left to right",)))
    return files


def draw_pianorolls(path: Path, lanes: Sequence[npt.NDArray[Any]], *, rows: Sequence[str]) -> str:
    """One row of piano rolls for each set of spans (S, N, V), over the pitches that any of them uses."""
    frames = [spans_to_frames(each) for each in lanes]
    used = np.flatnonzero(np.concatenate(frames).any((0, 1)))
    low, high = (int(used[0]), int(used[-1])) if used.size else (39, 51)
    n_columns = max(map(len, frames))
    with picture(path, (2.2 * n_columns, 2.2 * len(frames)), len(frames), n_columns) as axes:
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
    """Pitches, note lengths and intervals of sets of spans, side by side."""
    with picture(path, (13, 3.5), 1, 3) as axes:
        for name, lanes in sets.items():
            struck = lanes[lanes >= 2] + LOWEST_PITCH - 2
            pitches = histogram(struck, lowest=LOWEST_PITCH, highest=LOWEST_PITCH + 87)
            for axis, bins, shares in (
                (axes[0][0], range(LOWEST_PITCH, LOWEST_PITCH + 88), pitches),
                (axes[0][1], range(1, lanes.shape[1] + 1), length_histogram(lanes)),
                (axes[0][2], range(-12, 13), interval_histogram(lanes)),
            ):
                axis.step(bins, shares, where="mid", label=name)
        for axis, title in zip(
            axes[0], ("MIDI pitch", "note length in sixteenths", "interval in semitones"), strict=True
        ):
            axis.set_xlabel(title)
        axes[0][0].set_ylabel("share of notes")
        axes[0][0].legend()
    return str(path)


def _draw_attributes(path: Path, control: dict[str, Any]) -> str:
    with picture(path, (4 * len(control), 3.5), 1, len(control)) as axes:
        for axis, (name, figures) in zip(axes[0], control.items(), strict=True):
            axis.plot(figures["amounts"], figures["measured"], marker="o")
            axis.set_xlabel("moved by (standard deviations)")
            axis.set_ylabel(f"measured {name.replace('_', ' ')}")
            axis.set_title(f"correlation {figures['correlation']:.2f}")
    return str(path)


@contextmanager
def picture(path: Path, inches: tuple[float, float], n_rows: int, n_columns: int) -> Iterator[list[list[Axes]]]:
    """A figure of rows and columns of axes, written when the block ends."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    figure = Figure(figsize=inches, layout="constrained")
    yield figure.subplots(n_rows, n_columns, squeeze=False).tolist()
    figure.savefig(path, dpi=100)
