"""The joint distribution of the notes of a frame, on top of the recurrent network.

A frame is decided from the highest pitch to the lowest: whether a pitch sounds depends on the notes above it in the
frame, as in NADE over the pitches (Boulanger-Lewandowski et al. 2012, arXiv:1206.6392) or the note axis of Johnson
2017 (EvoMUSART). Independent notes cannot be sampled: where a tune goes on to one of ten pitches that are equally
likely, none of them sounds in a third of all frames, and two or more in a quarter.

Training sees all pitches at once. Sampling chooses the next lower note among all pitches below the last one, or that
there is none, so that it takes as many steps as notes sound, not 88.

Shapes: N frames of any batch, 88 pitches, H units of the recurrent layer, M units of its input, W units of the decoder,
K notes at most.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from tritone.music.grid import N_PITCHES
from tritone_training.generation import NEVER, SamplingFilter, choose
from tritone_training.kinds.polyphony_rnn.conditions import N_HISTORY_FEATURES, ConditionEncoder

_REACH: Final = 36  # semitones; of notes farther above, only their number matters
_FIRST_STRIKE: Final = 44  # column of the noise that decides whether the first note is struck again


class FrameDecoder(nn.Module):
    """Decides the notes of a frame one after the other."""

    def __init__(self, *, units: int, hidden: int, width: int, n_styles: int, dropout: float) -> None:
        """Create with random weights.

        Args:
            units: M.
            hidden: H.
            width: W.
            n_styles: styles of the training data.
            dropout: of the units.
        """
        super().__init__()
        self.recurrent = nn.Linear(hidden, width)
        self.seen = nn.Linear(units, width, bias=False)
        self.history = nn.Linear(N_HISTORY_FEATURES, width, bias=False)
        self.conditions = ConditionEncoder(width, n_styles)
        self.above = nn.Conv1d(2, width, _REACH, bias=False)  # of struck and held notes
        self.n_above = nn.Linear(2, width, bias=False)
        self.inner = nn.Linear(width, width)
        self.out = nn.Linear(width, 2)
        self.dropout = nn.Dropout(dropout)
        nn.init.constant_(self.out.bias, -3.0)  # few of the 88 pitches sound at once
        # (88, 88): 1 where the row is a higher pitch than the column.
        self.register_buffer("higher", torch.ones(N_PITCHES, N_PITCHES).tril(-1), persistent=False)
        self.higher: Tensor

    def base(self, hidden: Tensor, seen: Tensor, history: Tensor, conditions: Tensor) -> Tensor:
        """Return what each pitch knows before the first note of the frame is decided.

        Args:
            hidden: (N, 88, H) of the recurrent layer.
            seen: (N, 88, M) its input.
            history: (N, 16, 88).
            conditions: (N, 9) int64.

        Returns:
            (N, 88, W).
        """
        before = self.recurrent(hidden) + self.seen(seen) + self.history(history.transpose(1, 2))
        base: Tensor = before + self.conditions(conditions)
        return base

    def context(self, struck: Tensor, held: Tensor) -> Tensor:
        """Return what each pitch sees of the notes above it: (N, 88), (N, 88) -> (N, 88, W)."""
        notes = torch.stack([struck, held], 1)  # (N, 2, 88)
        near = self.above(nn.functional.pad(notes, (0, _REACH))[:, :, 1:]).transpose(1, 2)
        seen: Tensor = near + self.n_above(torch.matmul(notes, self.higher).transpose(1, 2))
        return seen

    def logits(self, before: Tensor) -> Tensor:
        """Return the logits of sounding, and of being struck again: (N, 88, W) -> (N, 88, 2)."""
        # Flat: ONNX Runtime adds a bias within a product of matrices, not of stacks of them.
        inner = torch.relu(self.inner(torch.relu(before).flatten(0, 1)))
        found: Tensor = self.out(self.dropout(inner))
        return torch.unflatten(found, 0, before.shape[:2])

    def nll(self, base: Tensor, notes: Tensor, struck: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return the negative log-likelihood of frames, in nats.

        Args:
            base: (N, 88, W).
            notes: (N, 88) 1 for what sounds.
            struck: (N, 88) 1 for what begins.
            before: (N, 88) 1 for what sounded in the frame before.

        Returns:
            (N,) of the notes that sound, and (N,) of which of those that sounded before are struck again.
        """
        logits = self.logits(base + self.context(struck, notes * (1 - struck))).float()
        sounding, again = (
            nn.functional.binary_cross_entropy_with_logits(logits[..., index], target, reduction="none")
            for index, target in enumerate((notes, struck))
        )
        return sounding.sum(1), (again * notes * before).sum(1)


class FrameRules(NamedTuple):
    """What a frame may hold; more than the likelihood of its notes decides only in the final chord of a piece.

    Attributes:
        longest_rest: (B,) 1 where silence has lasted as long as it may.
        allowed: (B, 88) 1 for pitches that may sound.
        final: (B,) 1 in a final chord.
        roots: (B, 88) 1 for pitches that may be the lowest of a final chord.
    """

    longest_rest: Tensor
    allowed: Tensor
    final: Tensor
    roots: Tensor


class FrameSampler(nn.Module):
    """Samples frames from a decoder."""

    def __init__(self, decoder: FrameDecoder, *, n_notes_max: int, strikes: bool, guidance: float = 0.0) -> None:
        """Prepare the tables.

        Args:
            n_notes_max: K, notes that may sound at once.
            strikes: whether notes may be struck again, which the decoder has learnt only from data with onsets.
            guidance: how far the logits are moved away from those of the unguided base (classifier-free guidance, Ho &
                Salimans 2022, arXiv:2207.12598); 0 for not at all.
        """
        super().__init__()
        self.decoder = decoder
        self.n_notes_max = n_notes_max
        self.strikes = strikes
        self.guidance = guidance
        with torch.no_grad():
            each, none = torch.eye(N_PITCHES), torch.zeros(N_PITCHES, N_PITCHES)
            nothing = torch.zeros(1, N_PITCHES, decoder.inner.in_features)
            tables = [decoder.context(each, none), nothing, decoder.context(none, each), nothing]
        # What one note adds to the context of all pitches; the row after the highest pitch is for no note.
        self.register_buffer("added", torch.cat(tables), persistent=False)  # (2 x 89, 88, W)
        self.register_buffer("pitches", torch.arange(N_PITCHES), persistent=False)
        self.added: Tensor
        self.pitches: Tensor

    def forward(  # noqa: PLR0917 - tensors of the same frame
        self,
        base: Tensor,
        plain: Tensor,
        before: Tensor,
        rules: FrameRules,
        sharpness: Tensor,
        noise: Tensor,
        choice: SamplingFilter,
    ) -> tuple[Tensor, Tensor]:
        """Sample a frame.

        Args:
            base: (B, 88, W).
            plain: (B, 88, W) unguided.
            before: (B, 88) 1 for what sounded in the frame before.
            rules: what the frame may hold.
            sharpness: (B,) factor of the logits, which divides the temperature.
            noise: (B, 88) uniform in 0 <= u < 1.
            choice: prepared sampling parameters for 89 choices.

        Returns:
            (B, 88) 1 for what sounds and (B, 88) 1 for what is struck.
        """
        sounding = torch.zeros_like(before)
        struck = torch.zeros_like(before)
        lowest = torch.full_like(rules.final, N_PITCHES).to(torch.int64)  # (B,)
        complete = 1 - rules.longest_rest  # (B,) whether there need be no further note
        for n in range(self.n_notes_max):
            logits = self.decoder.logits(base)
            if self.guidance:
                logits = logits + self.guidance * (logits - self.decoder.logits(plain))
            allowed = rules.allowed
            if n == self.n_notes_max - 1:
                allowed = torch.where(rules.final[:, None] > 0, allowed * rules.roots, allowed)
            below = (self.pitches < lowest[:, None]) & (allowed > 0)  # (B, 88)
            on, off = _log_sigmoid(logits[..., 0]), _log_sigmoid(-logits[..., 0]) * below
            # The next note is the highest one below the last: all pitches between are silent.
            between = torch.matmul(off, self.decoder.higher)
            none = torch.where(complete[:, None] > 0, off.sum(1, keepdim=True), torch.full_like(on[:, :1], NEVER))
            choices = torch.cat([torch.where(below, on + between, torch.full_like(on, NEVER)), none], 1)
            picked = choose(choices * sharpness[:, None], noise[:, n : n + 1], choice)  # (B, 1) 88 for none
            index = picked.clamp_max(N_PITCHES - 1)
            again = torch.sigmoid(torch.gather(logits[..., 1], 1, index) * sharpness[:, None] / choice.temperature)
            is_new = torch.gather(before, 1, index) == 0
            if self.strikes:
                column = _FIRST_STRIKE + n
                is_new = is_new | (noise[:, column : column + 1] < again)
            is_new = is_new.to(before.dtype)  # (B, 1)
            note = (self.pitches == picked).to(before.dtype)
            picked = picked[:, 0]
            sounding = sounding + note
            struck = struck + note * is_new
            added = self.added[picked + (1 - is_new[:, 0]).to(torch.int64) * (N_PITCHES + 1)]
            base, plain = base + added, plain + added
            lowest = torch.where(picked == N_PITCHES, torch.zeros_like(lowest), picked)
            is_root = torch.gather(rules.roots, 1, index)[:, 0]
            complete = torch.where((rules.final > 0) & (picked < N_PITCHES), is_root, torch.ones_like(complete))
        return sounding, struck


def _log_sigmoid(logits: Tensor) -> Tensor:
    """Return logarithms of sigmoids; ONNX Runtime's sigmoid is 0 below -18, and the logarithm of that not finite."""
    return logits.clamp_max(0) - torch.log1p(torch.exp(-logits.abs()))
