"""Sampling of joint frames: composes a piece from scratch, or continues one.

Shapes: B batch, P frames of the prompt, N frames to sample, L lags, 88 pitches, H units of the recurrent layer, M units
of its input.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from tritone.music.grid import LOWEST_PITCH, N_PITCHES, STRUCK
from tritone.music.keys import key_profiles
from tritone_training.generation import SamplingFilter, unrolled_or_scan
from tritone_training.kinds.polyphony_rnn.conditions import BARS_BACK, BARS_IN_PHRASE, LONGEST_BAR, range_features
from tritone_training.kinds.polyphony_rnn.features import N_LAGS, FrameHistory
from tritone_training.kinds.polyphony_rnn.frame_decoder import FrameSampler
from tritone_training.kinds.polyphony_rnn.network import PolyphonyNetwork
from tritone_training.kinds.polyphony_rnn.priors import SamplingPriors

# Columns of the first frame's noise that choose what a piece from scratch is to be; a frame of notes uses lower ones.
_STYLE_NOISE: Final = 86
_KEY_NOISE: Final = 87


class SamplerState(NamedTuple):
    """The state before a frame.

    Attributes:
        hidden: (B, 88, H) of the recurrent layer.
        seen: (B, 88, M) its input.
        used: (B, 88) 1 for each pitch that has sounded.
        since: (B, 88) frames since a sounding pitch was struck; 0 where it is silent.
        struck: (B, L, 88) what was struck in the last frames, the latest first.
        rested: (B,) silent frames just before.
        started: (B,) 1 once anything has sounded.
    """

    history: FrameHistory
    hidden: Tensor
    seen: Tensor
    used: Tensor
    since: Tensor
    struck: Tensor
    rested: Tensor
    started: Tensor

    def packed(self) -> tuple[Tensor, ...]:
        """Return the tensors, as loops take them."""
        return (*self.history, *self[1:])

    @classmethod
    def unpacked(cls, state: tuple[Tensor, ...]) -> SamplerState:
        """Return the state whose `packed` gave the tensors."""
        n_history = len(FrameHistory._fields)
        return cls(FrameHistory(*state[:n_history]), *state[n_history:])


class JointSampler(nn.Module):
    """Composes or continues a piece, each frame as a whole."""

    def __init__(self, network: PolyphonyNetwork, priors: SamplingPriors, *, frames_per_quarter: int) -> None:
        """Prepare the tables.

        Args:
            network: with a decoder.
            priors: statistics of its training pieces.
            frames_per_quarter: of the training frames; 0 if unknown.
        """
        super().__init__()
        if network.decoder is None:
            raise ValueError("the network has no decoder of joint frames: expected one with width > 0, got width 0")
        self.network = network
        self.frames = FrameSampler(
            network.decoder,
            n_notes_max=priors.n_notes_max,
            longest_rest=priors.longest_rest,
            strikes=priors.strikes,
        )
        # Without a count-in, a piece from scratch is in 4/4.
        common = 4 * frames_per_quarter
        self.common_time = common if common <= LONGEST_BAR else 0
        classes = (torch.arange(N_PITCHES) + LOWEST_PITCH) % 12
        tables = {
            "style_table": priors.style_table(),  # (17, S)
            "key_table": priors.key_table(),  # (S, 24)
            "profiles": torch.from_numpy(key_profiles()).float().T[classes],  # (88, 24)
            "bars_back": torch.tensor(BARS_BACK),
        }
        for name, values in tables.items():
            self.register_buffer(name, values, persistent=False)
        self.style_table: Tensor
        self.key_table: Tensor
        self.profiles: Tensor
        self.bars_back: Tensor

    def forward(
        self, prompt: Tensor, noise: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor
    ) -> tuple[Tensor]:
        """Read the prompt, then sample as many frames as there is noise for; the piece ends with them.

        Silence at the start of the prompt is skipped. A prompt of silence alone begins a piece: of more than one frame,
        it is a count-in of one bar, whose length is that of the bars of the piece.

        Args:
            prompt: (B, P, 88) uint8, P >= 1; 0 silent, 1 held, 2 struck.
            noise: (B, N, 88) uniform in 0 <= u < 1.
            temperature: (B,) above 0; below 1 is more conservative, above 1 more random.
            top_k: (B,) int64, the next note of a frame is one of the k most probable.
            top_p: (B,) it is one of the most probable that together have this probability.

        Returns:
            (B, N, 88) uint8; 0 silent, 1 held, 2 struck.
        """
        state = self.read(prompt, self.start(noise[:, 0]))
        fixed, position, bar, left = self.conditions(prompt, noise)
        choice = SamplingFilter.of(temperature=temperature, top_k=top_k, top_p=top_p, n_choices=N_PITCHES + 1)

        def step(
            packed: tuple[Tensor, ...], inputs: tuple[Tensor, ...]
        ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            before, (draw, *moving) = SamplerState.unpacked(packed), inputs
            conditions = torch.stack([*fixed.unbind(1), *moving], 1)
            base = self.frames.decoder.base(
                before.hidden, before.seen, self.history_features(before, fixed[:, 2]), conditions
            )
            sounded = (before.since > 0).to(draw.dtype)
            notes, struck = self.frames(base, sounded, before.rested, draw, choice)
            return self.advance(before, notes, struck).packed(), ((notes + struck).to(torch.uint8),)

        inputs = (noise.transpose(0, 1), *(part.transpose(0, 1) for part in (position, bar, left)))
        _, (written,) = unrolled_or_scan(step, state.packed(), inputs)
        return (written.transpose(0, 1),)

    def start(self, like: Tensor) -> SamplerState:
        """Return the state before the first frame; `like` is (B, 88) float."""
        history, features = self.network.extractor.silence(like)
        hidden, seen = self.network.recur(features, self.network.no_hidden(like))
        empty = like * 0.0
        nothing = empty[:, 0]
        return SamplerState(
            history,
            hidden,
            seen,
            empty.clone(),
            empty.clone(),
            empty[:, None].expand(-1, N_LAGS, -1).clone(),
            nothing.clone(),
            nothing.clone(),
        )

    def read(self, prompt: Tensor, state: SamplerState) -> SamplerState:
        """Return the state after a prompt (B, P, 88); silence at its start leaves the state as it is."""

        def step(
            packed: tuple[Tensor, ...], inputs: tuple[Tensor, ...]
        ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            before, frame = SamplerState.unpacked(packed), inputs[0]
            notes = (frame > 0).to(torch.float32)
            begins = (frame == STRUCK).to(torch.float32)
            after = self.advance(before, notes, torch.where(before.since > 0, begins, notes))
            kept = [
                torch.where(after.started.reshape(-1, *[1] * (new.ndim - 1)) > 0, new, old)
                for new, old in zip(after.packed(), packed, strict=True)
            ]
            return tuple(kept), (after.started.clone(),)

        packed, _ = unrolled_or_scan(step, state.packed(), (prompt.transpose(0, 1),))
        return SamplerState.unpacked(packed)

    def advance(self, state: SamplerState, notes: Tensor, struck: Tensor) -> SamplerState:
        """Return the state after a frame: (B, 88) what sounds and what is struck."""
        history, features = self.network.extractor(state.history, notes)
        hidden, seen = self.network.recur(features, state.hidden)
        some = notes.amax(1)  # (B,)
        return SamplerState(
            history,
            hidden,
            seen,
            torch.maximum(state.used, notes),
            notes * (1 + state.since * (1 - struck)),
            torch.cat([struck[:, None], state.struck[:, :-1]], 1),
            (1 - some) * (state.rested + 1),
            torch.maximum(state.started, some),
        )

    def history_features(self, state: SamplerState, bar_frames: Tensor) -> Tensor:
        """Return the history features before a frame; see `conditions.history_features`: (B, 14, 88)."""
        lag = self.bars_back * bar_frames[:, None] - 1  # (B, 4)
        known = ((bar_frames[:, None] > 0) & (lag < N_LAGS)).to(state.since.dtype)[:, :, None]
        index = lag.clamp(0, N_LAGS - 1)[:, :, None].expand(-1, -1, N_PITCHES)
        before = [torch.gather(past, 1, index) * known for past in (state.history.past, state.struck)]
        return torch.cat([torch.log1p(state.since)[:, None], range_features(state.used), *before], 1)

    def conditions(self, prompt: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the conditions of the frames to sample.

        Returns:
            (B, 3) int64 key, style and frames in a bar; (B, N) int64 each: position, bar, frames left.
        """
        sounding = (prompt > 0).to(torch.float32)
        is_new = sounding.amax((1, 2)) == 0  # (B,)
        n_prompt = torch.ones_like(prompt[:, :, 0], dtype=torch.int64).sum(1)  # (B,)
        counted = torch.where(n_prompt > 1, n_prompt, torch.full_like(n_prompt, self.common_time))
        counted = torch.where(counted <= LONGEST_BAR, counted, torch.zeros_like(counted))
        bar_frames = torch.where(is_new, counted, torch.zeros_like(counted))
        style = drawn(self.style_table[bar_frames], noise[:, 0, _STYLE_NOISE])
        key = drawn(self.key_table[style], noise[:, 0, _KEY_NOISE])
        estimated = torch.argmax(torch.matmul(sounding.sum(1), self.profiles), 1)
        fixed = torch.stack(
            [
                1 + torch.where(is_new, key, estimated),
                torch.where(is_new, 1 + style, torch.zeros_like(style)),
                bar_frames,
            ],
            1,
        )
        n_each = torch.ones_like(noise[:, :, 0], dtype=torch.int64).cumsum(1)  # (B, N) 1..N
        length = bar_frames[:, None]
        index = (n_each - 1) * (length > 0).to(torch.int64)
        position = index % length.clamp_min(1)
        bar = 1 + torch.div(index, length.clamp_min(1), rounding_mode="floor") % BARS_IN_PHRASE
        bar = torch.where(length > 0, bar, torch.zeros_like(bar))
        left = n_each.amax(1, keepdim=True) + 1 - n_each
        return fixed, position, bar, left


def drawn(shares: Tensor, noise: Tensor) -> Tensor:
    """Draw one of K choices: (B, K) shares that sum to 1, (B,) uniform -> (B,) int64."""
    reached = torch.cumsum(shares, 1)
    passed = (reached <= noise[:, None] * reached[:, -1:]).to(torch.int64).sum(1)
    return passed.clamp_max(shares.shape[1] - 1)
