"""Encoder and decoder of the two-bar autoencoder.

The encoder maps spans to a normal distribution over the latent space, the decoder samples spans from latent vectors.

The last number of the latent vector is the level, the mean pitch of the span. The rest consists of 32 equal parts, one
for each quarter note of each voice (four voices, eight quarters), all computed by the same layers. The network
therefore generalises over keys, quarters and voices, and can be trained on a few thousand spans. Convolutions over
quarters and the mixing of voices connect each part with its neighbours.

Shapes: B batch, N = 32 time steps, V = 4 voices, Q = 8 quarters, D width of a quarter, E width of a step, Z latent.

The names of parameters are part of checkpoints, so the parameters of each voice keep their earlier name `lane`.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from tritone.music.grid import N_PITCHES
from tritone.music.voices import FIRST_STRIKE, HOLD, N_VOICE_VALUES, N_VOICES, SPAN_FRAMES
from tritone_training.bars.spans import (
    MIDDLE_LEVEL,
    N_MARKS,
    N_RELATIVE,
    N_SOUNDING,
    REACH,
    SILENCE,
    before,
    level_of,
    marks_of,
    sounding_next,
    sounding_of,
    to_absolute,
    to_relative,
)
from tritone_training.generation import NEVER, SamplingFilter, State, choose, open_above, unrolled_or_scan
from tritone_training.musicality import ATTRIBUTES

N_QUARTERS: Final = 8
STEPS_PER_QUARTER: Final = SPAN_FRAMES // N_QUARTERS
N_PARTS: Final = N_QUARTERS * N_VOICES
PITCH_SCALE: Final = 6.0  # semitones
_LOG_VARIANCE_RANGE: Final = (-8.0, 4.0)
_FIRST_LOG_VARIANCE: Final = -4.0  # little noise at first, or the decoder learns to ignore the latent
# The level is computed, not learned: a standard deviation of the prior is eight semitones, with an uncertainty of a
# quarter of a semitone.
LEVEL_SCALE: Final = 8.0
_LEVEL_LOG_VARIANCE: Final = 2 * math.log(0.25 / LEVEL_SCALE)
_HIDDEN_SOUNDING: Final = N_SOUNDING  # index of a step that word dropout hides
_HIDDEN_MARK: Final = N_MARKS
_LEVEL_DEVIATION: Final = 0.3  # semitones
_PLACE_SCALE: Final = 4.0  # an output of 1 is 24 semitones from the level
_FIRST_SLOPE: Final = 2.0  # begin with some two nats for six semitones


class ConvBlock(nn.Module):
    """A residual convolution over time: (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, width, 3, padding=1)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        hidden = self.convolution(self.norm(x).transpose(1, 2)).transpose(1, 2)
        added: Tensor = x + self.out(nn.functional.silu(hidden))
        return added


class FeedForward(nn.Module):
    """A residual layer applied to each step separately: (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        added: Tensor = x + self.narrow(nn.functional.silu(self.wide(self.norm(x))))
        return added


class MixVoices(nn.Module):
    """A layer that mixes the voices of each quarter: (B, V, Q, D) -> (B, V, Q, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(N_VOICES * width, width)
        self.out = nn.Linear(width, N_VOICES * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, V, Q, D) -> (B, V, Q, D)."""
        together = nn.functional.silu(self.mix(self.norm(x).transpose(1, 2).flatten(2)))
        added: Tensor = x + self.out(together).unflatten(2, (N_VOICES, -1)).transpose(1, 2)
        return added


class AttributeChange(nn.Module):
    """A layer that adds a change of attributes, and what all quarters and voices have in common, to each of them.

    The same change asks for different notes in spans of different density and range, so each part has to know the span.
    (B, V, Q, D), (B, A) -> (B, V, Q, D).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Linear(2 * len(ATTRIBUTES), width)
        self.norm = nn.LayerNorm(width)
        self.common = nn.Linear(2 * width, width)
        self.joint = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, attributes: Tensor) -> Tensor:
        """(B, V, Q, D), (B, A) -> (B, V, Q, D)."""
        parts = self.norm(x).flatten(1, 2)
        common = torch.cat([parts.mean(1), parts.amax(1)], dim=1)  # (B, 2 D)
        change = self.change(torch.cat([attributes, attributes.abs()], dim=1))
        scale, shift = self.joint(nn.functional.silu(self.common(common) + change)).chunk(2, dim=1)
        hidden = self.norm(x) * scale[:, None, None] + shift[:, None, None]
        added: Tensor = x + self.out(nn.functional.silu(hidden))
        return added


class SpanEncoder(nn.Module):
    """Maps voices to mean and log variance of the latent vector.

    Args:
        n_latent: Z, one more than a multiple of 32.
        width: D of a quarter of a voice.
        step_width: E of a time step of a voice.
    """

    def __init__(self, *, n_latent: int, width: int, step_width: int) -> None:
        super().__init__()
        self.sounding = nn.Embedding(N_SOUNDING, step_width)
        self.mark = nn.Embedding(N_MARKS, step_width)
        self.lane = nn.Parameter(0.02 * torch.randn(N_VOICES, 1, step_width))
        self.step = nn.Parameter(0.02 * torch.randn(SPAN_FRAMES, step_width))
        self.steps = ConvBlock(step_width)
        self.to_quarters = nn.Linear(STEPS_PER_QUARTER * step_width, width)
        self.quarters = ConvBlock(width)
        self.lanes = nn.Sequential(MixVoices(width), FeedForward(width), nn.LayerNorm(width))
        self.mean = nn.Linear(width, (n_latent - 1) // N_PARTS)
        self.log_variance = nn.Linear(width, (n_latent - 1) // N_PARTS)
        with torch.no_grad():  # pitches that are near begin near
            self.sounding.weight[1:, 0] = (torch.arange(N_SOUNDING - 1) - REACH) / PITCH_SCALE
            self.sounding.weight[SILENCE, 0] = 0
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, _FIRST_LOG_VARIANCE)

    def forward(self, voices: Tensor) -> tuple[Tensor, Tensor]:
        """Encode.

        Args:
            voices: (B, N, V) int64; values out of range count as the nearest in range.

        Returns:
            mean and log variance, (B, Z) each.
        """
        voices = voices.clamp(0, N_VOICE_VALUES - 1)
        level = level_of(voices)
        voices = to_relative(voices, level)
        sounding = sounding_of(voices)
        embedded = (self.sounding(sounding) + self.mark(marks_of(voices, sounding))).transpose(1, 2)  # (B, V, N, E)
        x = self.steps((embedded + self.lane + self.step).flatten(0, 1))
        x = self.to_quarters(x.unflatten(1, (N_QUARTERS, STEPS_PER_QUARTER)).flatten(2))  # (B * V, Q, D)
        x = self.lanes(self.quarters(x).unflatten(0, (-1, N_VOICES))).transpose(1, 2)  # (B, Q, V, D)
        log_variance = self.log_variance(x).flatten(1).clamp(*_LOG_VARIANCE_RANGE)
        level_mean = (level - MIDDLE_LEVEL).to(x.dtype)[:, None] / LEVEL_SCALE
        return (
            torch.cat([self.mean(x).flatten(1), level_mean], dim=1),
            torch.cat([log_variance, torch.full_like(level_mean, _LEVEL_LOG_VARIANCE)], dim=1),
        )


class SpanDecoder(nn.Module):
    """Maps latent vectors to voices.

    Args:
        n_latent: Z, one more than a multiple of 32.
        width: D of a quarter of a voice.
        step_width: F.
        n_hidden: H of the GRU.
        embedding_width: E.
        head_width: W.
        changes_attributes: whether voices are also a function of a change of attributes.
    """

    def __init__(
        self,
        *,
        n_latent: int,
        width: int,
        step_width: int,
        n_hidden: int,
        embedding_width: int,
        head_width: int,
        changes_attributes: bool,
    ) -> None:
        super().__init__()
        self.change = AttributeChange(width) if changes_attributes else None
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

    def step_features(self, latent: Tensor, attributes: Tensor | None = None) -> Tensor:
        """Return features of each step of each voice: (B, Z), (B, A) or None for no change -> (B, N, V, F)."""
        parts = latent[:, :-1].reshape(-1, N_QUARTERS, N_VOICES, (latent.shape[1] - 1) // N_PARTS).transpose(1, 2)
        x = self.quarters((self.from_latent(parts) + self.lane + self.quarter).flatten(0, 1))
        x = x.unflatten(0, (-1, N_VOICES))  # (B, V, Q, D)
        if self.change is not None:
            x = self.change(x, torch.zeros_like(latent[:, : len(ATTRIBUTES)]) if attributes is None else attributes)
        x = self.lanes(x)
        steps: Tensor = self.to_steps(x).unflatten(3, (STEPS_PER_QUARTER, -1)).flatten(2, 3).transpose(1, 2)
        return steps

    def nearness(self, features: Tensor) -> Tensor:
        """Return the negative scaled distance of each pitch from a predicted one: (..., F) -> (..., K), at most 0."""
        place, slope = self.place(features).split(1, dim=-1)
        distance = (self.pitches - _PLACE_SCALE * place).abs()
        return nn.functional.pad(-nn.functional.softplus(slope + _FIRST_SLOPE) * distance, (FIRST_STRIKE, 0))

    def level(self, latent: Tensor) -> Tensor:
        """Return the level encoded in a latent vector: (B, Z) -> (B,) int64, a column of the grid."""
        return level_place(latent).round().to(torch.int64).clamp(0, N_PITCHES - 1)

    def level_logits(self, latent: Tensor) -> Tensor:
        """Return the logits of a discretised normal distribution over levels: (B, Z) -> (B, 88)."""
        column = torch.arange(N_PITCHES, device=latent.device)
        return -0.5 * ((column - level_place(latent)[:, None]) / _LEVEL_DEVIATION) ** 2

    def logits(
        self, latent: Tensor, voices: Tensor, *, attributes: Tensor | None = None, hidden_steps: Tensor | None = None
    ) -> Tensor:
        """Return the logits of each value given all values before it (teacher forcing).

        Args:
            latent: (B, Z).
            voices: (B, N, V) relative.
            attributes: (B, A) change of the attributes in standard deviations; None for no change.
            hidden_steps: (B, N) bool, steps whose previous values are hidden from the network (word dropout).

        Returns:
            (B, N, V, K), the forbidden ones at -1e9.
        """
        features = self.step_features(latent, attributes)
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

    def write(
        self,
        latent: Tensor,
        noise: Tensor,
        *,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        attributes: Tensor | None = None,
    ) -> Tensor:
        """Sample spans; equal noise gives equal spans.

        Args:
            latent: (B, Z).
            noise: (B, N, V) uniform in 0 <= u < 1.
            temperature, top_k, top_p: (B,) each, see `SamplingFilter.of`.
            attributes: (B, A) change of the attributes in standard deviations; None for no change.

        Returns:
            (B, N, V) int64.
        """
        sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        relative = self.write_relative(latent, noise, attributes=attributes, **sampling)
        return to_absolute(relative, self.level(latent))

    def write_relative(
        self,
        latent: Tensor,
        noise: Tensor,
        *,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        attributes: Tensor | None = None,
        tilt: Tensor | None = None,
    ) -> Tensor:
        """Sample spans relative to the level, as `write` otherwise.

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
                logits = torch.where(allowed[:, voice], logits, NEVER)
                value = choose(logits, uniform[:, voice : voice + 1], choice)[:, 0]
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
        features = self.step_features(latent, attributes).transpose(0, 1)  # (N, B, V, F)
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
        """Return (..., W) for each voice, without the terms of the voices above: (..., H), (..., V, F), (..., V)."""
        shared = self.from_hidden(states).unflatten(-1, (N_VOICES, -1))
        return list((shared + self.from_features(features) + self.own_sounding(sounding)).unbind(-2))

    def _add_to_lower(self, heads: list[Tensor], voice: int, values: Tensor) -> None:
        """Add the contribution of a voice's values (...) to the heads of the voices below."""
        for below, added in enumerate(
            self.to_lower[voice](values).split(heads[voice].shape[-1], dim=-1), start=voice + 1
        ):
            heads[below] = heads[below] + added

    def _gru_step(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Apply one step of `self.gru`, spelled out so that it can be exported in a Scan: (B, I), (B, H) -> (B, H)."""
        get = self.gru.get_parameter
        from_x = nn.functional.linear(x, get("weight_ih_l0"), get("bias_ih_l0"))
        from_hidden = nn.functional.linear(hidden, get("weight_hh_l0"), get("bias_hh_l0"))
        reset_x, update_x, new_x = from_x.chunk(3, dim=1)
        reset_h, update_h, new_h = from_hidden.chunk(3, dim=1)
        update = torch.sigmoid(update_x + update_h)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        return (1 - update) * new + update * hidden


def level_place(latent: Tensor) -> Tensor:
    """Return the level before rounding: (B, Z) -> (B,)."""
    return MIDDLE_LEVEL + LEVEL_SCALE * latent[:, -1]


def allowed_values(sounding: Tensor) -> Tensor:
    """Return the values that the grammar allows: all, except a hold after silence; (..., V) -> (..., V, K) bool."""
    value = torch.arange(N_RELATIVE, device=sounding.device)
    return (value != HOLD) | (sounding[..., None] != SILENCE)
