"""Sampling of joint frames: composes a piece from scratch, or continues one.

Shapes: B batch, P frames of the prompt, N frames to sample, L lags, 88 pitches, H units of the recurrent layer, M units
of its input.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from tritone.music.grid import LOWEST_PITCH, N_PITCHES, STRUCK
from tritone.music.keys import N_KEYS, key_profiles, tonic_and_mode
from tritone_training.data.piece_conditions import N_KEYS_AND_MODES
from tritone_training.generation import SamplingFilter, unrolled_or_scan
from tritone_training.kinds.polyphony_rnn.conditions import (
    BAR,
    BAR_FRAMES,
    BARS_BACK,
    BARS_IN_PHRASE,
    DENSITY,
    KEY,
    LEFT,
    LONGEST_BAR,
    N_CONDITIONS,
    POSITION,
    REPEATS,
    STYLE,
    VOICES,
    range_features,
)
from tritone_training.kinds.polyphony_rnn.features import N_LAGS, FrameHistory
from tritone_training.kinds.polyphony_rnn.frame_decoder import FrameRules, FrameSampler
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


class Steering(NamedTuple):
    """What a piece is asked to be; 0 where unknown.

    Attributes:
        meter: (B, 2) int64 frames in a bar, and the index in its bar of the first frame.
        style: (B,) int64.
        key: (B,) int64 1 to 24.
        density: (B,) int64 1 to 3.
        n_voices: (B,) int64 1 to 6.
        end: (B,) int64 length of the piece in frames, if it ends there.
        repeats: (B, N) int64 how many frames earlier the moment is that each new frame repeats; -1 for none.
    """

    meter: Tensor
    style: Tensor
    key: Tensor
    density: Tensor
    n_voices: Tensor
    end: Tensor
    repeats: Tensor


class JointSampler(nn.Module):
    """Composes or continues a piece, each frame as a whole."""

    def __init__(
        self,
        network: PolyphonyNetwork,
        priors: SamplingPriors,
        *,
        frames_per_quarter: int,
        ending_temperature: float = 1.0,
        guidance: float = 0.0,
    ) -> None:
        """Prepare the tables.

        Args:
            network: with a decoder.
            priors: statistics of its training pieces.
            frames_per_quarter: of the training frames; 0 if unknown.
            ending_temperature: factor of the temperature in the last bar of a piece that is asked to end.
            guidance: towards the key and the end, see `FrameSampler`.
        """
        super().__init__()
        if network.decoder is None:
            raise ValueError("the network has no decoder of joint frames: expected one with width > 0, got width 0")
        self.network = network
        self.frames = FrameSampler(
            network.decoder,
            n_notes_max=priors.n_notes_max,
            strikes=priors.strikes,
            guidance=guidance,
        )
        self.longest_rest = float(priors.longest_rest)
        common = 4 * frames_per_quarter
        self.common_time = common if common <= LONGEST_BAR else 0
        self.last_frames = common or BARS_IN_PHRASE  # of a piece of unknown metre
        self.ending_sharpness = 1 / ending_temperature
        classes = (torch.arange(N_PITCHES) + LOWEST_PITCH) % 12
        roots, chords = final_chords()
        tables = {
            "roots": roots,  # (25, 88)
            "chords": chords,  # (25, 88)
            "style_table": priors.style_table(),  # (17, S)
            "key_table": priors.key_table(),  # (S, 24)
            "profiles": torch.from_numpy(key_profiles()).float().T[classes],  # (88, 24)
            "bars_back": torch.tensor(BARS_BACK),
            "unguided": torch.tensor([column not in (KEY, LEFT) for column in range(N_CONDITIONS)]).long(),  # (9,)
        }
        for name, values in tables.items():
            self.register_buffer(name, values, persistent=False)
        self.roots: Tensor
        self.chords: Tensor
        self.style_table: Tensor
        self.key_table: Tensor
        self.profiles: Tensor
        self.bars_back: Tensor
        self.unguided: Tensor

    def forward(  # noqa: PLR0917 - the exporter gives tensors by position, in the declaration's order
        self,
        prompt: Tensor,
        meter: Tensor,
        style: Tensor,
        key: Tensor,
        density: Tensor,
        n_voices: Tensor,
        end: Tensor,
        repeats: Tensor,
        noise: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
    ) -> tuple[Tensor]:
        """Read the prompt, then sample as many frames as there is noise for.

        Silence at the start of the prompt is skipped. A prompt of silence alone begins a piece, of which it is no part.
        If they are unknown, the metre of a new piece is 4/4, and its style and key are drawn.

        Args:
            prompt: (B, P, 88) uint8, P >= 1; 0 silent, 1 held, 2 struck.
            meter, style, key, density, n_voices, end, repeats: see `Steering`.
            noise: (B, N, 88) uniform in 0 <= u < 1.
            temperature: (B,) above 0; below 1 is more conservative, above 1 more random.
            top_k: (B,) int64, the next note of a frame is one of the k most probable.
            top_p: (B,) it is one of the most probable that together have this probability.

        Returns:
            (B, N, 88) uint8; 0 silent, 1 held, 2 struck.
        """
        state = self.read(prompt, self.start(noise[:, 0]))
        conditions = self.conditions(prompt, noise, Steering(meter, style, key, density, n_voices, end, repeats))
        choice = SamplingFilter.of(temperature=temperature, top_k=top_k, top_p=top_p, n_choices=N_PITCHES + 1)

        def step(
            packed: tuple[Tensor, ...], inputs: tuple[Tensor, ...]
        ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            before, (draw, now) = SamplerState.unpacked(packed), inputs
            history = self.history_features(before, now[:, BAR_FRAMES], now[:, REPEATS])
            base = self.frames.decoder.base(before.hidden, before.seen, history, now)
            # What the frame would be in no key and without an end; guidance leads away from it.
            plain = base + self.frames.decoder.conditions(now * self.unguided) - self.frames.decoder.conditions(now)
            sounded = (before.since > 0).to(draw.dtype)
            rules = self.rules(now, before.rested)
            notes, struck = self.frames(base, plain, sounded, rules, self.sharpness(now), draw, choice)
            return self.advance(before, notes, struck).packed(), ((notes + struck).to(torch.uint8),)

        inputs = (noise.transpose(0, 1), conditions.transpose(0, 1))
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

    def history_features(self, state: SamplerState, bar_frames: Tensor, repeats: Tensor) -> Tensor:
        """Return the history features before a frame; see `conditions.history_features`: (B, 16, 88).

        Args:
            bar_frames: (B,) frames in a bar; 0 if unknown.
            repeats: (B,) how many frames earlier the moment is that the frame repeats; 0 or less if it repeats none.
        """
        bars = self.bars_back * bar_frames[:, None] - 1  # (B, 4)
        lag = torch.cat([bars, repeats[:, None] - 1], 1)  # (B, 5)
        known = ((lag >= 0) & (lag < N_LAGS)).to(state.since.dtype)[:, :, None]
        index = lag.clamp(0, N_LAGS - 1)[:, :, None].expand(-1, -1, N_PITCHES)
        sounded, struck = (torch.gather(past, 1, index) * known for past in (state.history.past, state.struck))
        earlier = [sounded[:, :-1], struck[:, :-1], sounded[:, -1:], struck[:, -1:]]
        return torch.cat([torch.log1p(state.since)[:, None], range_features(state.used), *earlier], 1)

    def sharpness(self, conditions: Tensor) -> Tensor:
        """Return the factors of the logits of frames: (B, 9) -> (B,), larger in the last bar than before."""
        length = conditions[:, BAR_FRAMES]
        length = torch.where(length > 0, length, torch.full_like(length, self.last_frames))
        left = conditions[:, LEFT]
        is_last = ((left > 0) & (left <= length)).to(torch.float32)
        return 1 + is_last * (self.ending_sharpness - 1)

    def rules(self, conditions: Tensor, rested: Tensor) -> FrameRules:
        """Return what frames may hold; the last half bar of a piece that ends is the tonic, or its triad over it.

        Args:
            conditions: (B, 9) of the frames.
            rested: (B,) silent frames just before.
        """
        key, left = conditions[:, KEY], conditions[:, LEFT]
        length = conditions[:, BAR_FRAMES]
        length = torch.where(length > 0, length, torch.full_like(length, self.last_frames))
        half = torch.div(length + 1, 2, rounding_mode="floor")
        final = (left > 0) & (left <= half) & (key > 0)  # (B,)
        is_rested = (rested >= self.longest_rest) | (final & (left == half))  # the chord begins with it
        roots = self.roots[key]
        chord = torch.where(conditions[:, VOICES, None] == 1, roots, self.chords[key])
        return FrameRules(
            longest_rest=is_rested.to(rested.dtype),
            allowed=torch.where(final[:, None], chord, torch.ones_like(chord)),
            final=final.to(rested.dtype),
            roots=roots,
        )

    def conditions(self, prompt: Tensor, noise: Tensor, asked: Steering) -> Tensor:
        """Return the conditions of the frames to sample: (B, N, 9) int64."""
        sounding = (prompt > 0).to(torch.float32)
        is_new = sounding.amax((1, 2)) == 0  # (B,)
        n_prompt = torch.ones_like(prompt[:, :, 0], dtype=torch.int64).sum(1)  # (B,)
        zero = torch.zeros_like(n_prompt)
        length, first = asked.meter[:, 0], asked.meter[:, 1]
        length = torch.where((length == 0) & is_new, torch.full_like(length, self.common_time), length)
        length = torch.where(length <= LONGEST_BAR, length, zero)
        style = drawn(self.style_table[length], noise[:, 0, _STYLE_NOISE])
        style = torch.where(asked.style > 0, asked.style, torch.where(is_new, 1 + style, zero))
        key = drawn(self.key_table[(style - 1).clamp_min(0)], noise[:, 0, _KEY_NOISE])
        estimated = torch.argmax(torch.matmul(sounding.sum(1), self.profiles), 1)
        key = torch.where(asked.key > 0, asked.key, 1 + torch.where(is_new, key, estimated))
        n_read = torch.where(is_new, zero, n_prompt)[:, None]
        frame = n_read + torch.ones_like(noise[:, :, 0], dtype=torch.int64).cumsum(1) - 1  # (B, N)
        bar_frames = length[:, None].expand_as(frame)
        place = (first[:, None] + frame) * (bar_frames > 0).to(torch.int64)
        bar = 1 + torch.div(place, bar_frames.clamp_min(1), rounding_mode="floor") % BARS_IN_PHRASE
        columns: list[Tensor] = [zero[:, None].expand_as(frame)] * N_CONDITIONS
        for column, of_piece in ((KEY, key), (STYLE, style), (DENSITY, asked.density), (VOICES, asked.n_voices)):
            columns[column] = of_piece[:, None].expand_as(frame)
        columns[BAR_FRAMES] = bar_frames
        columns[POSITION] = place % bar_frames.clamp_min(1)
        columns[BAR] = torch.where(bar_frames > 0, bar, torch.zeros_like(bar))
        columns[LEFT] = (asked.end[:, None] - frame).clamp_min(0)
        columns[REPEATS] = torch.where(asked.repeats > N_LAGS, torch.zeros_like(frame), asked.repeats)
        return torch.stack(columns, 2)


def final_chords() -> tuple[Tensor, Tensor]:
    """Return which pitches may be the lowest of a final chord, and which may be in it, by key: (25, 88) each.

    The chord is the tonic triad; of minor keys, it may have the major third (Picardy). Any pitch has a tonic below it.
    """
    roots, chords = torch.ones(1 + N_KEYS_AND_MODES, N_PITCHES), torch.ones(1 + N_KEYS_AND_MODES, N_PITCHES)
    for key in range(1, 1 + N_KEYS_AND_MODES):
        tonic, mode = tonic_and_mode(key)
        degree = (torch.arange(N_PITCHES) + LOWEST_PITCH - tonic) % N_KEYS
        roots[key] = (degree == 0).float()
        thirds = (degree == 4) | ((degree == 3) & (mode == 1))
        chords[key] = ((thirds | (degree == 7)) & (torch.arange(N_PITCHES) >= N_KEYS)).float() + roots[key]
    return roots, chords


def drawn(shares: Tensor, noise: Tensor) -> Tensor:
    """Draw one of K choices: (B, K) shares that sum to 1, (B,) uniform -> (B,) int64."""
    reached = torch.cumsum(shares, 1)
    passed = (reached <= noise[:, None] * reached[:, -1:]).to(torch.int64).sum(1)
    return passed.clamp_max(shares.shape[1] - 1)
