"""Attention over a window of past frames: for whole sequences in training, frame by frame in generation.

Each head has a learned bias for each distance, as in T5 (Raffel et al. 2020, arXiv:1910.10683) but without its buckets:
in music, "sixteen steps ago" differs from "fifteen steps ago". Keys carry no positions, so that those of past frames
can be cached.

Shapes: B batch, H heads, T frames, W window, E width of a head, n blocks of w frames, C frames of a chunk.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

UNSEEN: Final = -1e9  # a score that softmax turns into 0; finite, so that a row of it stays a number


def window_weights(query: Tensor, key: Tensor, bias: Tensor, *, nearest: int, nothing: Tensor | None = None) -> Tensor:
    """Return the attention weights of each frame over the window of frames before it.

    Work grows with T x W, not T x T: frames are grouped in blocks that attend to themselves and the block before.

    Args:
        query: (B, H, T, E).
        key: (B, H, T, E).
        bias: (H, W) of each distance, the nearest first.
        nearest: distance at which the window begins; 0: a frame sees itself.
        nothing: (H,) score of attending to nothing.

    Returns:
        (B, H, n, w, w or 2w), to be used with `mix`.
    """
    n_frames, n_window = query.shape[2], bias.shape[1]
    width = min(n_frames, n_window)
    query, key = _blocks(query, width), _with_block_before(_blocks(key, width))
    n_blocks, n_keys = key.shape[2], key.shape[3]
    column = torch.arange(n_keys, device=key.device)
    row = torch.arange(width, device=key.device) + n_keys - width
    rank = row[:, None] - column[None, :] - nearest
    seen = (rank >= 0) & (rank < n_window)
    if n_blocks > 1:  # the first block has none before it
        later = torch.arange(n_blocks, device=key.device) > 0
        seen = seen & (later[:, None, None] | (column >= width))
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    scores = scores + bias[:, rank.clamp(0, n_window - 1)][:, None]
    scores = scores.masked_fill(~seen, UNSEEN)
    if nothing is None:
        return torch.softmax(scores, -1)
    aside = nothing[:, None, None, None].expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat([scores, aside], -1), -1)[..., :-1]


def mix(weights: Tensor, value: Tensor) -> Tensor:
    """Return the weighted sums of values.

    Args:
        weights: from `window_weights`.
        value: (B, H or 1, T, E).

    Returns:
        (B, H, T, E).
    """
    n_frames = value.shape[2]
    mixed = weights @ _with_block_before(_blocks(value, weights.shape[3]))
    return mixed.flatten(2, 3)[:, :, :n_frames]


def _blocks(x: Tensor, width: int) -> Tensor:
    """(B, H, T, E) -> (B, H, n, w, E), zeros behind the end."""
    missing = -x.shape[2] % width
    return torch.unflatten(nn.functional.pad(x, (0, 0, 0, missing)), 2, (-1, width))


def _with_block_before(x: Tensor) -> Tensor:
    """(B, H, n, w, E) -> (B, H, n, 2w, E), or the same where there is one block."""
    if x.shape[2] == 1:
        return x
    before = nn.functional.pad(x[:, :, :-1], (0, 0, 0, 0, 1, 0))
    return torch.cat([before, x], dim=3)


class KVCache(NamedTuple):
    """Keys and values of the frames before a chunk; constant while the frames of the chunk are generated.

    Attributes:
        keys: (B, H, W, E), the last frame last.
        values: (B, H, W, E); of copy attention, notes (B, W, 2P).
    """

    keys: Tensor
    values: Tensor


def step_bias(bias: Tensor, n_chunk: int, *, nearest: int) -> Tensor:
    """Return the bias of each frame of a chunk for the frames before the chunk and in it.

    Args:
        bias: (H, W) of each distance, the nearest first.
        n_chunk: C.
        nearest: distance at which the window begins; 0: a frame sees itself, as the last of the chunk's.

    Returns:
        (C, 1, H, 1, W + C), UNSEEN for what is not in the window, or not yet written.
    """
    n_window = bias.shape[1]
    frame = torch.arange(n_chunk, device=bias.device)[:, None]
    past = frame + torch.arange(n_window, 0, -1, device=bias.device) - nearest  # (C, W) ranks
    # Of the chunk, however far it is, the last place is the nearest frame's.
    chunk = torch.arange(n_chunk - 1, -1, -1, device=bias.device).expand(n_chunk, -1)
    seen = torch.cat([past < n_window, (chunk <= frame - nearest) & (chunk < n_window)], dim=1)
    rank = torch.cat([past, chunk], dim=1).clamp_max(n_window - 1)
    answer = torch.where(seen, bias[:, rank], UNSEEN)  # (H, C, W + C)
    return answer.transpose(0, 1)[:, None, :, None]


def _step_weights(query: Tensor, past: KVCache, keys: Tensor, bias: Tensor, *aside: Tensor) -> Tensor:
    """Return the weights of the frames that one frame attends to: (B, H, 1, E) -> (B, H, 1, W + C (+ 1))."""
    # Scaled before they are joined, because ONNX Runtime makes one operator of a product and its factor.
    scores = [query @ each.transpose(-1, -2) / math.sqrt(query.shape[-1]) for each in (past.keys, keys)]
    return torch.softmax(torch.cat([*scores, *aside], -1) + bias, -1)


class DecoderLayer(nn.Module):
    """Pre-norm self-attention over the window that ends with the frame itself, then a feed-forward layer."""

    def __init__(self, *, width: int, n_heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.head_width = width // n_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(n_heads, window))
        self.feed_forward_norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        query, key, value = self._heads(x).permute(2, 0, 3, 1, 4)  # (B, H, T, E) each
        weights = window_weights(query, key, self.bias, nearest=0)
        return self._rest(x, mix(weights, value).transpose(1, 2).flatten(2))

    def step(
        self, x: Tensor, past: KVCache, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One frame of a chunk.

        Args:
            x: (B, D).
            past: the frames before the chunk.
            keys: (B, H, C, E) of the chunk's frames so far, the last one last, zeros before.
            values: as `keys`.
            bias: (B, H, 1, W + C) as from `step_bias`, this frame being the last of the chunk's; UNSEEN for frames
                before the piece.

        Returns:
            (B, D), and keys and values with this frame's behind them.
        """
        projected = self.query_key_value(self.attention_norm(x)).reshape(-1, 3 * self.n_heads, 1, self.head_width)
        query, key, value = torch.split(projected, self.n_heads, dim=1)  # (B, H, 1, E) each
        keys = torch.cat([keys[:, :, 1:], key], dim=2)
        values = torch.cat([values[:, :, 1:], value], dim=2)
        weights = _step_weights(query, past, keys, bias)
        of_past, of_chunk = torch.split(weights, [past.keys.shape[2], keys.shape[2]], dim=-1)
        mixed = of_past @ past.values + of_chunk @ values
        return self._rest(x, mixed.reshape(-1, x.shape[-1])), keys, values

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, 3, H, E)."""
        projected: Tensor = self.query_key_value(self.attention_norm(x))
        return torch.unflatten(projected, -1, (3, self.n_heads, self.head_width))

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.dropout(self.attention_out(mixed))
        wide = self.dropout(nn.functional.gelu(self.wide(self.feed_forward_norm(x))))
        rest: Tensor = x + self.dropout(self.narrow(wide))
        return rest


class CopyAttention(nn.Module):
    """Copy attention: attends to similar past frames and returns their notes, pitch by pitch.

    So repetitions can be copied instead of being learnt (a pointer over the past, after Vinyals et al. 2015,
    arXiv:1506.03134).
    """

    def __init__(self, *, width: int, n_heads: int, head_width: int, window: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.head_width = head_width
        self.query = nn.Linear(width, n_heads * head_width)
        self.key = nn.Linear(width, n_heads * head_width)
        self.bias = nn.Parameter(torch.zeros(n_heads, window))
        self.nothing = nn.Parameter(torch.zeros(n_heads))

    def forward(self, x: Tensor, notes: Tensor) -> Tensor:
        """Return past notes, weighted by attention.

        Args:
            x: (B, T, D) of the frame decoder.
            notes: (B, T, 2P) of the same frames; each frame sees those before it.

        Returns:
            (B, T, H, 2P), from 0 to 1.
        """
        query, key = (self._heads(layer, x) for layer in (self.query, self.key))
        weights = window_weights(query, key, self.bias, nearest=1, nothing=self.nothing)
        return mix(weights, notes[:, None]).transpose(1, 2)

    def step(  # noqa: PLR0917 - the tensors of a step of a loop
        self, x: Tensor, past: KVCache, keys: Tensor, notes: Tensor, bias: Tensor, aside: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One frame of a chunk.

        Args:
            x: (B, D).
            past: the frames before the chunk; its values are notes (B, W, 2P).
            keys: (B, H, C, E) of the chunk's frames so far, the last one last, zeros before.
            notes: (B, C, 2P) of the same.
            bias: (B, H, 1, W + C + 1) as from `step_bias`, and that of nothing.
            aside: (B, H, 1, 1) zeros, the score of nothing without its bias.

        Returns:
            (B, H, 2P), and the keys with this frame's behind them.
        """
        query, key = (layer(x).reshape(-1, self.n_heads, 1, self.head_width) for layer in (self.query, self.key))
        n_past, n_chunk = past.keys.shape[2], keys.shape[2]
        weights = _step_weights(query, past, keys, bias, aside).reshape(-1, self.n_heads, n_past + n_chunk + 1)
        of_past, of_chunk, _ = torch.split(weights, [n_past, n_chunk, 1], dim=-1)
        shown = of_past @ past.values + of_chunk @ notes
        return shown, torch.cat([keys[:, :, 1:], key], dim=2)

    def _heads(self, layer: nn.Module, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, E)."""
        projected: Tensor = layer(x)
        return torch.unflatten(projected, -1, (self.n_heads, self.head_width)).transpose(1, 2)
