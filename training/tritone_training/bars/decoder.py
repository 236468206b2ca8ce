"""The decoder of the two-bar autoencoder: a latent vector to voices, step by step, from the highest voice down.

The latent vector becomes features of each step of each voice; a GRU adds what was generated so far. From the features
alone comes a pitch around which the values are likely, so that rare pitches need not be learnt one by one. A grammar
allows a hold only where the voice sounds, so that every output is a valid span. Pitches are relative to the level,
which the latent vector holds separately.

Shapes: B batch, N = 32 time steps, V = 4 voices, K = 89 values of a relative voice, Q = 8 quarters, Z latent, D width,
F features of a step of a voice, E width of an embedding, H hidden, W width of a head.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from tritone.music.grid import N_PITCHES
from tritone.music.voices import FIRST_STRIKE, HOLD, N_VOICES
from tritone_training.bars.encoder import (
    LEVEL_SCALE,
    N_PARTS,
    N_QUARTERS,
    PITCH_SCALE,
    STEPS_PER_QUARTER,
    ConvBlock,
    FeedForward,
    MixVoices,
)
from tritone_training.bars.spans import (
    MIDDLE_LEVEL,
    N_MARKS,
    N_RELATIVE,
    N_SOUNDING,
    REACH,
    SILENCE,
    before,
    marks_of,
    sounding_next,
    sounding_of,
    to_absolute,
)
from tritone_training.generation import NEVER, SamplingFilter, State, choose, open_above, unrolled_or_scan

_HIDDEN_SOUNDING: Final = N_SOUNDING  # what stands for a step that word dropout hides
_HIDDEN_MARK: Final = N_MARKS
_LEVEL_DEVIATION: Final = 0.3  # semitones
_PLACE_SCALE: Final = 4.0  # the layer's answer 1 is 24 semitones from the level
_FIRST_SLOPE: Final = 2.0  # begin with some two nats for six semitones


class SpanDecoder(nn.Module):
    """Latent vectors to voices.

    Args:
        n_latent: Z, one more than a multiple of 32.
        width: D of a quarter of a voice.
        step_width: F.
        n_hidden: H of the GRU.
        embedding_width: E.
        head_width: W.
    """

    def __init__(
        self, *, n_latent: int, width: int, step_width: int, n_hidden: int, embedding_width: int, head_width: int
    ) -> None:
        super().__init__()
        self.from_latent = nn.Linear((n_latent - 1) // N_PARTS, width)
        self.lane = nn.Parameter(0.02 * torch.randn(N_VOICES, 1, width))
        self.quarter = nn.Parameter(0.02 * torch.randn(N_QUARTERS, width))
        self.quarters = nn.Sequential(FeedForward(width), ConvBlock(width))
        self.lanes = nn.Sequential(MixVoices(width), FeedForward(width), nn.LayerNorm(width))
        self.to_steps = nn.Linear(width, STEPS_PER_QUARTER * step_width)
        self.place = nn.Linear(step_width, 2)
        self.sounding = nn.Embedding(N_SOUNDING + 1, embedding_width)
        self.mark = nn.Embedding(N_MARKS + 1, embedding_width)
        self.embedded_lane = nn.Parameter(0.02 * torch.randn(N_VOICES, embedding_width))
        self.gru = nn.GRU(N_VOICES * (step_width + embedding_width), n_hidden, batch_first=True)
        self.from_hidden = nn.Linear(n_hidden, N_VOICES * head_width)
        self.from_features = nn.Linear(step_width, head_width)
        self.own_sounding = nn.Embedding(N_SOUNDING + 1, head_width)
        # Contribution of a voice's value to each of the voices below.
        self.to_lower = nn.ModuleList(
            nn.Embedding(N_RELATIVE, (N_VOICES - 1 - voice) * head_width) for voice in range(N_VOICES - 1)
        )
        self.out = nn.Linear(head_width, N_RELATIVE)
        self.lane_bias = nn.Parameter(torch.zeros(N_VOICES, N_RELATIVE))
        self.register_buffer("pitches", (torch.arange(2 * REACH + 1) - REACH) / PITCH_SCALE, persistent=False)
        self.pitches: Tensor

    def step_features(self, latent: Tensor) -> Tensor:
        """Return features of each step of each voice: (B, Z) -> (B, N, V, F)."""
        parts = latent[:, :-1].reshape(-1, N_QUARTERS, N_VOICES, (latent.shape[1] - 1) // N_PARTS).transpose(1, 2)
        x = self.quarters((self.from_latent(parts) + self.lane + self.quarter).flatten(0, 1))
        x = self.lanes(x.unflatten(0, (-1, N_VOICES)))  # (B, V, Q, D)
        steps: Tensor = self.to_steps(x).unflatten(3, (STEPS_PER_QUARTER, -1)).flatten(2, 3).transpose(1, 2)
        return steps

    def nearness(self, features: Tensor) -> Tensor:
        """How near each value's pitch lies to the place that the features name: (..., F) -> (..., K), 0 at most."""
        place, slope = self.place(features).split(1, dim=-1)
        distance = (self.pitches - _PLACE_SCALE * place).abs()
        return nn.functional.pad(-nn.functional.softplus(slope + _FIRST_SLOPE) * distance, (FIRST_STRIKE, 0))

    def level(self, latent: Tensor) -> Tensor:
        """The level that a latent vector means: (B, Z) -> (B,) int64, a column of the grid."""
        return level_place(latent).round().to(torch.int64).clamp(0, N_PITCHES - 1)

    def level_logits(self, latent: Tensor) -> Tensor:
        """How likely each level is, a normal distribution in steps: (B, Z) -> (B, 88)."""
        column = torch.arange(N_PITCHES, device=latent.device)
        return -0.5 * ((column - level_place(latent)[:, None]) / _LEVEL_DEVIATION) ** 2

    def logits(self, latent: Tensor, voices: Tensor, *, hidden_steps: Tensor | None = None) -> Tensor:
        """Logits of each value given all that stands before it (teacher forcing).

        Args:
            latent: (B, Z).
            voices: (B, N, V) relative.
            hidden_steps: (B, N) bool, steps at which the network may not see what was written before (word dropout).

        Returns:
            (B, N, V, K), the forbidden ones at -1e9.
        """
        features = self.step_features(latent)
        sounding = sounding_of(voices)
        past, past_marks = before(sounding), before(marks_of(voices, sounding))
        shown, shown_marks = past, past_marks
        if hidden_steps is not None:
            shown = torch.where(hidden_steps[:, :, None], _HIDDEN_SOUNDING, past)
            shown_marks = torch.where(hidden_steps[:, :, None], _HIDDEN_MARK, past_marks)
        states, _ = self.gru(self._gru_inputs(features, shown, shown_marks))
        heads = self._heads(states, features, shown)
        for voice in range(N_VOICES - 1):
            self._add_to_lower(heads, voice, voices[..., voice])
        logits = self.out(nn.functional.silu(torch.stack(heads, dim=2))) + self.lane_bias + self.nearness(features)
        return torch.where(allowed_values(past), logits, NEVER)

    def write(self, latent: Tensor, noise: Tensor, *, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
        """Sample spans; equal noise gives equal spans.

        Args:
            latent: (B, Z).
            noise: (B, N, V) uniform in 0 <= u < 1.
            temperature, top_k, top_p: (B,) each, see `SamplingFilter.of`.

        Returns:
            (B, N, V) int64.
        """
        relative = self.write_relative(latent, noise, temperature=temperature, top_k=top_k, top_p=top_p)
        return to_absolute(relative, self.level(latent))

    def write_relative(
        self,
        latent: Tensor,
        noise: Tensor,
        *,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        tilt: Tensor | None = None,
    ) -> Tensor:
        """As `write`, but the answer is relative.

        Args:
            tilt: (B, K) added to the logits of every step and voice.
        """

        def step(state: State, inputs: State) -> tuple[State, State]:
            hidden, sounding, marks = state
            features, nearness, uniform = inputs  # (B, V, F), (B, V, K), (B, V)
            hidden = self._gru_step(self._gru_inputs(features, sounding, marks), hidden)
            heads = self._heads(hidden, features, sounding)
            allowed = allowed_values(sounding)
            values: list[Tensor] = []
            for voice in range(N_VOICES):
                logits = self.out(nn.functional.silu(heads[voice])) + self.lane_bias[voice] + nearness[:, voice]
                value = choose(torch.where(allowed[:, voice], logits, NEVER), uniform[:, voice : voice + 1], choice)
                values.append(value)
                if voice < N_VOICES - 1:
                    self._add_to_lower(heads, voice, value)
            written = torch.stack(values, dim=1)
            sounding = sounding_next(sounding, written)
            return (hidden, sounding, marks_of(written, sounding)), (written,)

        n_batch = latent.shape[0]
        choice = SamplingFilter.of(temperature=temperature, top_k=top_k, top_p=top_p, n_choices=N_RELATIVE)
        silence = torch.zeros(n_batch, N_VOICES, dtype=torch.int64, device=latent.device)
        state = (latent.new_zeros(n_batch, self.gru.hidden_size), silence, silence.clone())
        features = self.step_features(latent).transpose(0, 1)  # (N, B, V, F)
        nearness = self.nearness(features)
        if tilt is not None:
            nearness = nearness + tilt[:, None]
        _, (written,) = unrolled_or_scan(step, state, (features, nearness, open_above(noise).transpose(0, 1)))
        return written.transpose(0, 1)

    def _gru_inputs(self, features: Tensor, sounding: Tensor, marks: Tensor) -> Tensor:
        """Return the input of the GRU: (..., V, F), (..., V), (..., V) -> (..., V * (F + E))."""
        embedded = self.sounding(sounding) + self.mark(marks) + self.embedded_lane
        return torch.cat([features.flatten(-2), embedded.flatten(-2)], dim=-1)

    def _heads(self, states: Tensor, features: Tensor, sounding: Tensor) -> list[Tensor]:
        """(..., H), (..., V, F), (..., V) -> for each voice (..., W), without the contributions of the voices above."""
        shared = self.from_hidden(states).unflatten(-1, (N_VOICES, -1))
        return list((shared + self.from_features(features) + self.own_sounding(sounding)).unbind(-2))

    def _add_to_lower(self, heads: list[Tensor], voice: int, values: Tensor) -> None:
        """Add the contribution of a voice's values (...) to the heads of the voices below."""
        for below, added in enumerate(
            self.to_lower[voice](values).split(heads[voice].shape[-1], dim=-1), start=voice + 1
        ):
            heads[below] = heads[below] + added

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
