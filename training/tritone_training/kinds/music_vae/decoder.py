"""A latent vector in, lanes out: step by step in time, and within a step from the highest voice down.

The latent vector becomes one vector of features for each step; a GRU adds what was written so far. A grammar allows
a hold only where the lane sounds, so every answer is a span. All is written relative to the level, which the latent
vector holds by itself.

Letters: B batch, N = 32 time steps, V = 4 lanes, K = 89 values of a relative lane, Q = 8 quarters, Z latent, D width,
F features of a step, E width of an embedding, H hidden, W width of a head.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from tritone_client.music.grid import N_PITCHES
from tritone_client.music.lanes import HOLD, N_LANES
from tritone_training.generation import NEVER, Choice, choose, open_above, unrolled_or_scan
from tritone_training.generation.loop import State
from tritone_training.kinds.music_vae.encoder import LEVEL_SCALE, N_QUARTERS, STEPS_PER_QUARTER, ConvBlock, FeedForward
from tritone_training.kinds.music_vae.lanes import (
    MIDDLE_LEVEL,
    N_MARKS,
    N_RELATIVE,
    N_SOUNDING,
    SILENCE,
    before,
    marks_of,
    sounding_next,
    sounding_of,
    to_absolute,
)

_HIDDEN_SOUNDING: Final = N_SOUNDING  # what stands for a step that word dropout hides
_HIDDEN_MARK: Final = N_MARKS
_LEVEL_DEVIATION: Final = 0.3  # semitones


class SpanDecoder(nn.Module):
    """Latent vectors to lanes.

    Args:
        n_latent: Z, one more than a multiple of 8.
        width: F is half of it, D of a quarter twice.
        n_hidden: H of the GRU.
        embedding_width: E.
        head_width: W.
    """

    def __init__(self, *, n_latent: int, width: int, n_hidden: int, embedding_width: int, head_width: int) -> None:
        super().__init__()
        self.n_features = width // 2
        self.head_width = head_width
        self.from_latent = nn.Linear((n_latent - 1) // N_QUARTERS, 2 * width)
        self.quarter = nn.Parameter(0.02 * torch.randn(N_QUARTERS, 2 * width))
        self.quarters = nn.Sequential(ConvBlock(2 * width), FeedForward(2 * width), nn.LayerNorm(2 * width))
        self.to_steps = nn.Linear(2 * width, STEPS_PER_QUARTER * self.n_features)
        self.sounding = nn.ModuleList(nn.Embedding(N_SOUNDING + 1, embedding_width) for _ in range(N_LANES))
        self.mark = nn.ModuleList(nn.Embedding(N_MARKS + 1, embedding_width) for _ in range(N_LANES))
        self.gru = nn.GRU(self.n_features + N_LANES * embedding_width, n_hidden, batch_first=True)
        self.to_heads = nn.Linear(n_hidden + self.n_features, N_LANES * head_width)
        self.own_sounding = nn.ModuleList(nn.Embedding(N_SOUNDING + 1, head_width) for _ in range(N_LANES))
        # What a lane's value says to each of the lanes below.
        self.to_lower = nn.ModuleList(
            nn.Embedding(N_RELATIVE, (N_LANES - 1 - lane) * head_width) for lane in range(N_LANES - 1)
        )
        self.out = nn.Parameter(torch.randn(N_LANES, head_width, N_RELATIVE) / math.sqrt(head_width))
        self.out_bias = nn.Parameter(torch.zeros(N_LANES, N_RELATIVE))

    def step_features(self, latent: Tensor) -> Tensor:
        """What the latent vector says about each step: (B, Z) -> (B, N, F)."""
        quarters = self.quarters(
            self.from_latent(latent[:, :-1].reshape(latent.shape[0], N_QUARTERS, -1)) + self.quarter
        )
        steps: Tensor = self.to_steps(quarters).unflatten(2, (STEPS_PER_QUARTER, self.n_features)).flatten(1, 2)
        return steps

    def level(self, latent: Tensor) -> Tensor:
        """The level that a latent vector means: (B, Z) -> (B,) int64, a column of the grid."""
        return level_place(latent).round().to(torch.int64).clamp(0, N_PITCHES - 1)

    def level_logits(self, latent: Tensor) -> Tensor:
        """How likely each level is, a normal distribution in steps: (B, Z) -> (B, 88)."""
        column = torch.arange(N_PITCHES, device=latent.device)
        return -0.5 * ((column - level_place(latent)[:, None]) / _LEVEL_DEVIATION) ** 2

    def logits(self, latent: Tensor, lanes: Tensor, *, hidden_steps: Tensor | None = None) -> Tensor:
        """Logits of each value given all that stands before it (teacher forcing).

        Args:
            latent: (B, Z).
            lanes: (B, N, V) relative.
            hidden_steps: (B, N) bool, steps at which the network may not see what was written before (word dropout).

        Returns:
            (B, N, V, K), the forbidden ones at -1e9.
        """
        features = self.step_features(latent)
        sounding = sounding_of(lanes)
        past, past_marks = before(sounding), before(marks_of(lanes, sounding))
        shown, shown_marks = past, past_marks
        if hidden_steps is not None:
            shown = torch.where(hidden_steps[:, :, None], _HIDDEN_SOUNDING, past)
            shown_marks = torch.where(hidden_steps[:, :, None], _HIDDEN_MARK, past_marks)
        states, _ = self.gru(torch.cat([features, self._embedded(shown, shown_marks)], dim=2))
        heads = self._heads(states, features, shown)
        for lane in range(N_LANES - 1):
            self._tell_lower(heads, lane, lanes[..., lane])
        hidden = nn.functional.silu(torch.stack(heads, dim=2))  # (B, N, V, W)
        logits = torch.einsum("bnvw,vwk->bnvk", hidden, self.out) + self.out_bias
        return torch.where(allowed_values(past), logits, NEVER)

    def write(self, latent: Tensor, noise: Tensor, *, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
        """Sample spans; equal noise gives equal spans.

        Args:
            latent: (B, Z).
            noise: (B, N, V) uniform in 0 <= u < 1.
            temperature, top_k, top_p: (B,) each, see `Choice.of`.

        Returns:
            (B, N, V) int64.
        """
        relative = self.write_relative(latent, noise, temperature=temperature, top_k=top_k, top_p=top_p)
        return to_absolute(relative, self.level(latent))

    def write_relative(
        self, latent: Tensor, noise: Tensor, *, temperature: Tensor, top_k: Tensor, top_p: Tensor
    ) -> Tensor:
        """As `write`, but the answer is relative."""

        def step(state: State, inputs: State) -> tuple[State, State]:
            hidden, sounding, marks = state
            features, uniform = inputs  # (B, F), (B, V)
            hidden = self._gru_step(torch.cat([features, self._embedded(sounding, marks)], dim=1), hidden)
            heads = self._heads(hidden, features, sounding)
            allowed = allowed_values(sounding)
            values: list[Tensor] = []
            for lane in range(N_LANES):
                logits = nn.functional.silu(heads[lane]) @ self.out[lane] + self.out_bias[lane]
                value = choose(torch.where(allowed[:, lane], logits, NEVER), uniform[:, lane : lane + 1], choice)
                values.append(value)
                if lane < N_LANES - 1:
                    self._tell_lower(heads, lane, value)
            written = torch.stack(values, dim=1)
            sounding = sounding_next(sounding, written)
            return (hidden, sounding, marks_of(written, sounding)), (written,)

        n_batch = latent.shape[0]
        choice = Choice.of(temperature=temperature, top_k=top_k, top_p=top_p, n_choices=self.out.shape[-1])
        silence = torch.zeros(n_batch, N_LANES, dtype=torch.int64, device=latent.device)
        state = (latent.new_zeros(n_batch, self.gru.hidden_size), silence, silence.clone())
        features = self.step_features(latent).transpose(0, 1)  # (N, B, F)
        _, (written,) = unrolled_or_scan(step, state, (features, open_above(noise).transpose(0, 1)))
        return written.transpose(0, 1)

    def _embedded(self, sounding: Tensor, marks: Tensor) -> Tensor:
        """(..., V) each -> (..., V * E)."""
        return torch.cat(
            [
                embed_sounding(sounding[..., lane]) + embed_mark(marks[..., lane])
                for lane, (embed_sounding, embed_mark) in enumerate(zip(self.sounding, self.mark, strict=True))
            ],
            dim=-1,
        )

    def _heads(self, states: Tensor, features: Tensor, sounding: Tensor) -> list[Tensor]:
        """(..., H), (..., F), (..., V) -> for each lane (..., W), which lacks only what the lanes above say."""
        shared = self.to_heads(torch.cat([states, features], dim=-1)).split(self.head_width, dim=-1)
        return [part + self.own_sounding[lane](sounding[..., lane]) for lane, part in enumerate(shared)]

    def _tell_lower(self, heads: list[Tensor], lane: int, values: Tensor) -> None:
        """Add to the heads of the lanes below what a lane's values (...) say to them."""
        for below, said in enumerate(self.to_lower[lane](values).split(self.head_width, dim=-1), start=lane + 1):
            heads[below] = heads[below] + said

    def _gru_step(self, x: Tensor, hidden: Tensor) -> Tensor:
        """One step of `self.gru`, written out so that it can stand in a Scan: (B, I), (B, H) -> (B, H)."""
        get = self.gru.get_parameter
        from_x = nn.functional.linear(x, get("weight_ih_l0"), get("bias_ih_l0"))
        from_hidden = nn.functional.linear(hidden, get("weight_hh_l0"), get("bias_hh_l0"))
        reset_x, update_x, new_x = from_x.chunk(3, dim=1)
        reset_h, update_h, new_h = from_hidden.chunk(3, dim=1)
        update = torch.sigmoid(update_x + update_h)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        return (1 - update) * new + update * hidden


def level_place(latent: Tensor) -> Tensor:
    """The level before it is rounded: (B, Z) -> (B,)."""
    return MIDDLE_LEVEL + LEVEL_SCALE * latent[:, -1]


def allowed_values(sounding: Tensor) -> Tensor:
    """The grammar: all but holding nothing. What sounds before (..., V) -> (..., V, K) bool."""
    value = torch.arange(N_RELATIVE, device=sounding.device)
    return (value != HOLD) | (sounding[..., None] != SILENCE)
