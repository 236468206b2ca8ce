"""Small networks with random weights, and music to give them.

Shapes: B batch, N frames, 88 pitches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tritone.music.grid import HELD, N_PITCHES, STRUCK
from tritone_training.data.piece_conditions import MOST_VOICES, N_DENSITIES, N_KEYS_AND_MODES
from tritone_training.kinds.music_transformer.network import MusicTransformer
from tritone_training.kinds.music_transformer.notes import MAX_NOTES, N_TOKENS

SIZES: dict[str, Any] = {
    "width": 16,
    "n_layers": 1,
    "n_heads": 2,
    "window": 6,
    "n_copies": 2,
    "copy_width": 4,
    "copy_window": 9,
    "note_width": 16,
    "n_channels": 4,
    "reader_width": 8,
}


def network(*, onsets: bool = True, seed: int = 0, **sizes: int) -> MusicTransformer:
    """A network whose every part says something: weights are larger than new ones, and no vector is zero."""
    torch.manual_seed(seed)
    made = MusicTransformer(**{**SIZES, **sizes}, n_styles=3, onsets=onsets, dropout=0.2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return made.eval().requires_grad_(False)


def chords(n_frames: int, *, seed: int, n_notes: int = 4) -> npt.NDArray[np.uint8]:
    """(N, 88) grid of chords of up to so many notes that begin and end at odd places, with rests."""
    random = np.random.default_rng(seed)
    frames = np.zeros((n_frames, N_PITCHES), np.uint8)
    for _ in range(n_notes * n_frames // 3):
        pitch, start = random.integers(20, 60), random.integers(0, n_frames)
        stop = min(n_frames, start + random.integers(1, 6))
        frames[start:stop, pitch] = HELD
        frames[start, pitch] = STRUCK
        if stop < n_frames and frames[stop, pitch] == HELD:
            frames[stop, pitch] = STRUCK
    frames[random.random(n_frames) < 0.1] = 0
    before = np.vstack([np.zeros((1, N_PITCHES), np.uint8), frames[:-1]])
    frames[(frames == HELD) & (before == 0)] = STRUCK
    return frames


@dataclass(frozen=True)
class Asked:
    """What a PieceGenerator takes, in its order."""

    given: Tensor
    given_mode: Tensor
    meter: Tensor
    style: Tensor
    key: Tensor
    density: Tensor
    n_voices: Tensor
    end: Tensor
    repeats: Tensor
    noise: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.__dict__.values())

    @property
    def unsteered(self) -> Asked:
        """The same with all conditions unknown."""
        zeros = {name: torch.zeros_like(getattr(self, name)) for name in ("key", "density", "n_voices", "end")}
        return replace(self, **zeros, repeats=torch.zeros_like(self.repeats))

    def rows(self, *rows: int) -> Asked:
        return Asked(*(tensor[list(rows)] for tensor in self.tensors))

    def write(self, writer: nn.Module) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        with torch.inference_mode():
            frames, nll = writer(*self.tensors)
        return frames.numpy(), nll.numpy()


def ask(n_batch: int, n_frames: int, *, seed: int, mode: str = "mixed", temperature: float | None = None) -> Asked:
    """A batch of requests; `mixed` takes turns at composing, continuing, harmonising and filling a gap."""
    random = np.random.default_rng(seed)
    given = np.stack([chords(n_frames, seed=1000 * seed + row) for row in range(n_batch)])
    modes = np.zeros((n_batch, n_frames), np.uint8)
    for row in range(n_batch):
        turn = ("compose", "continue", "harmonise", "infill")[row % 4] if mode == "mixed" else mode
        if turn == "continue":
            modes[row, : n_frames // 2] = 1
        elif turn == "harmonise":
            modes[row] = 2
        elif turn == "infill":
            modes[row] = 1
            modes[row, n_frames // 3 : 2 * n_frames // 3] = 0
    heat = random.uniform(0.5, 1.5, n_batch) if temperature is None else np.full(n_batch, temperature)
    return Asked(
        torch.from_numpy(given),
        torch.from_numpy(modes),
        torch.from_numpy(random.integers([2, 0], [9, 2], (n_batch, 2))),
        torch.from_numpy(random.integers(0, 4, n_batch)),
        torch.from_numpy(random.integers(0, N_KEYS_AND_MODES + 1, n_batch)),
        torch.from_numpy(random.integers(0, N_DENSITIES + 1, n_batch)),
        torch.from_numpy(random.integers(0, MOST_VOICES + 1, n_batch)),
        torch.from_numpy(random.integers(0, 2 * n_frames, n_batch)),
        # In one chunk or in several; some are longer than the window, and some than the piece is so far.
        torch.from_numpy(random.integers(-1, SIZES["copy_window"] + 2, (n_batch, n_frames))),
        torch.from_numpy(random.random((n_batch, n_frames, MAX_NOTES), np.float32)),
        torch.from_numpy(heat.astype(np.float32)),
        torch.from_numpy(random.integers(2, N_TOKENS + 1, n_batch)),
        torch.from_numpy(random.uniform(0.5, 1.0, n_batch).astype(np.float32)),
    )
