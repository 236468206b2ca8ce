"""Reads what is given of the frames to come: a melody to harmonise, the bars behind a gap.

It looks a fixed number of frames ahead, so a piece can be written chunk by chunk, and answers exact zeros where it
sees nothing, so that a piece with nothing given is the same whether this ran or not.

Shapes: B batch, T frames, A frames of look-ahead, P 88 pitches, E width, D width of the frame decoder.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from tritone.music.grid import N_PITCHES

LOOK_AHEAD: Final = 64  # frames; four bars of 4/4 in sixteenths
_DILATIONS: Final = (1, 2, 4, 8, 16, 32)  # together they see 64 frames: the next one and 63 behind it


class Reader(nn.Module):
    """Convolutions that look forward only (WaveNet's, mirrored: van den Oord et al. 2016, arXiv:1609.03499)."""

    def __init__(self, *, width: int, reader_width: int, dropout: float) -> None:
        super().__init__()
        self.notes = nn.Linear(4 * N_PITCHES + 1, reader_width)
        self.layers = nn.ModuleList(nn.Linear(2 * reader_width, reader_width) for _ in _DILATIONS)
        self.out = nn.Linear(reader_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, whole: Tensor, top: Tensor, is_given: Tensor) -> Tensor:
        """Read ahead.

        Args:
            whole: (B, T + A, 2P) notes of the frames that are given whole; 0 elsewhere.
            top: (B, T + A, 2P) the highest notes of the frames whose highest note is given; 0 elsewhere.
            is_given: (B, T + A) 1 where either is given, be it silence; 0 elsewhere.

        Returns:
            (B, T, D) about the A frames after each.
        """
        n_frames = whole.shape[1] - LOOK_AHEAD
        x = self.notes(torch.cat([whole, top, is_given[..., None]], dim=-1)[:, 1:])
        for layer, dilation in zip(self.layers, _DILATIONS, strict=True):
            both = torch.cat([x[:, : x.shape[1] - dilation], x[:, dilation:]], dim=-1)
            x = x[:, : x.shape[1] - dilation] + self.dropout(nn.functional.gelu(layer(both)))
        n_given = is_given.cumsum(1)
        sees = (n_given[:, LOOK_AHEAD:] - n_given[:, :n_frames] > 0).to(x.dtype)
        answer: Tensor = self.out(x) * sees[..., None]
        return answer
