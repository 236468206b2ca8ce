"""The notes of one frame: their tokens, and the network that scores each note given those above it.

A frame is spelled as tokens: its notes from the highest down, each struck here or held on, then an end.

Four views add up to the score of a note: its absolute pitch, its interval from the note above it, the recent notes
around that pitch (pitch map), and whether it would move in parallel fifths or octaves with a note above it. The last
three are the same in every key.

Shapes: M frames, T frames of a piece, K tokens of a frame, S 8 places of a frame, P 88 pitches, V 177 tokens, D width
of the frame decoder, U note width, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tritone.music.grid import HELD as HELD_VALUE
from tritone.music.grid import N_PITCHES, SILENT
from tritone.music.grid import STRUCK as STRUCK_VALUE
from tritone.music.keys import N_KEYS
from tritone_training.data.piece_conditions import degrees
from tritone_training.generation import NEVER

MAX_NOTES: Final = 8  # most notes of a generated frame; training and evaluation have no limit

END: Final = 0
STRUCK: Final = 1  # the token for the lowest pitch, struck; then one for each semitone
HELD: Final = STRUCK + N_PITCHES
N_TOKENS: Final = HELD + N_PITCHES
BEGIN: Final = N_TOKENS  # input before the first token; never sampled
PADDING: Final = -1

Frames = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.int64]


def readable(frames: npt.NDArray[Any], *, onsets: bool, before: npt.NDArray[Any] | None = None) -> Frames:
    """Return a grid as the network reads it: nothing is held after silence; without onsets, everything is struck.

    Args:
        frames: (T, P), values of the grid; without onsets, all but 0 sounds.
        before: (P,) the frame before the first one; None: silence.

    Returns:
        (T, P) uint8.
    """
    values = np.where(frames > 0, np.minimum(frames, STRUCK_VALUE), 0).astype(np.uint8)
    if not onsets:
        return np.where(values > 0, STRUCK_VALUE, SILENT).astype(np.uint8)
    earlier = np.zeros_like(values)
    earlier[1:] = values[:-1]
    if before is not None and len(values):
        earlier[0] = before
    return np.where((values == HELD_VALUE) & (earlier == SILENT), STRUCK_VALUE, values).astype(np.uint8)


def tokens_of(frames: Frames) -> Tokens:
    """Return the tokens of every frame.

    Args:
        frames: (T, P) as returned by `readable`.

    Returns:
        (T, K) tokens from the highest pitch down, an END, then PADDING; K is one more than the fullest frame's notes.
    """
    n_notes = (frames > 0).sum(1)
    tokens = np.full((len(frames), int(n_notes.max(initial=0)) + 1), PADDING, np.int64)
    rows, columns = np.nonzero(frames[:, ::-1])
    pitches = N_PITCHES - 1 - columns
    places = np.arange(len(rows)) - np.repeat(np.cumsum(n_notes) - n_notes, n_notes)
    tokens[rows, places] = pitches + np.where(frames[rows, pitches] == STRUCK_VALUE, STRUCK, HELD)
    tokens[np.arange(len(frames)), n_notes] = END
    return tokens


def pitch_of_token() -> Tensor:
    """(V + 1,) pitch index of each token; 0 for END and BEGIN, which have none."""
    pitches = torch.arange(N_PITCHES)
    return torch.cat([torch.zeros(1, dtype=torch.int64), pitches, pitches, torch.zeros(1, dtype=torch.int64)])


def may_follow() -> Tensor:
    """(V + 1, V) bool: which tokens may follow each token, regardless of what sounded before.

    Pitches fall strictly, so no note comes twice; after an END there is nothing but END.
    """
    pitches = torch.arange(N_PITCHES)
    below = pitches[None, :] < pitches[:, None]  # (P, P)
    notes = torch.cat([below, below], dim=1)  # (P, 2P)
    none, every = torch.zeros(1, 2 * N_PITCHES, dtype=torch.bool), torch.ones(1, 2 * N_PITCHES, dtype=torch.bool)
    follow = torch.cat([none, notes, notes, every])  # END, struck, held, BEGIN
    return torch.cat([torch.ones(len(follow), 1, dtype=torch.bool), follow], dim=1)


def perfect_below() -> Tensor:
    """(V + 1, 2, 12) the pitch class a fifth, and an octave, below each struck note; 0 for other tokens.

    Notes that are held on do not move, so that nothing moves in parallel with them.
    """
    table = torch.zeros(N_TOKENS + 1, len(PERFECT_INTERVALS), N_KEYS)
    pitches = torch.arange(N_PITCHES)
    for number, interval in enumerate(PERFECT_INTERVALS):
        table[STRUCK + pitches, number, (pitches - interval) % N_KEYS] = 1.0
    return table


def perfect_apart() -> Tensor:
    """Return a table that is 1 where two pitches are a fifth, or an octave, apart: (4P + 1, 2).

    Row `_NO_VOICE + d` is for a first pitch that is d above the second. Rows for d <= 0 are 0, and so are those for a
    difference from `_NO_VOICE`, which stands for a pitch that is missing.
    """
    table = torch.zeros(2 * _NO_VOICE + 1, len(PERFECT_INTERVALS))
    apart = torch.arange(1, N_PITCHES)
    for number, interval in enumerate(PERFECT_INTERVALS):
        table[_NO_VOICE + apart, number] = (apart % N_KEYS == interval).to(torch.float32)
    return table


def multi_hot(frames: Tensor) -> Tensor:
    """(..., P) grid values -> (..., 2P) float, the struck notes before the held."""
    return torch.cat([frames == STRUCK_VALUE, frames == HELD_VALUE], dim=-1).to(torch.float32)


_OCTAVE_EACH_WAY: Final = 25
_THIRD_EACH_WAY: Final = 7
_N_INTERVALS: Final = 2 * N_PITCHES - 1
PERFECT_INTERVALS: Final = (7, 0)  # semitones modulo 12: fifths, and octaves with unisons
_NO_VOICE: Final = 2 * N_PITCHES  # instead of a missing pitch; farther from every pitch than pitches are apart
_MIDDLE: Final = 39  # middle C; what the first note is measured from after a silence


@dataclass(frozen=True)
class FrameView:
    """The context of a frame for its notes.

    Attributes:
        context: (M, U).
        pitch_map: (M, C, P).
        top: (M,) the highest pitch of the frame before.
        possible: (M, V) bool, false for notes that cannot be held on because they did not sound.
        voices: (M, S + 1) the tokens that would strike the notes of the frame before again, from the highest down; END
            behind the last.
        perfect: (M, S + 1, 2 (S + 1)) 1 where the note at the first place was a fifth, or an octave (by turns), below
            the note at each place in the frame before.
    """

    context: Tensor
    pitch_map: Tensor
    top: Tensor
    possible: Tensor
    voices: Tensor
    perfect: Tensor


class NoteDecoder(nn.Module):
    """An autoregression over the notes of a frame (after NADE: Larochelle & Murray 2011)."""

    def __init__(
        self, *, width: int, note_width: int, n_channels: int, n_views: int, onsets: bool, dropout: float
    ) -> None:
        super().__init__()
        self.n_channels = n_channels
        self.context = nn.Linear(width, note_width)
        self.before = nn.Linear(2 * N_PITCHES, note_width, bias=False)
        self.map_in = nn.Conv1d(n_views, n_channels, _OCTAVE_EACH_WAY, padding="same")
        self.map_context = nn.Linear(width, n_channels)
        self.map_out = nn.Conv1d(n_channels, n_channels, _THIRD_EACH_WAY, padding="same")
        self.degree = nn.Embedding(2 * N_KEYS + 1, n_channels, padding_idx=2 * N_KEYS)
        self.word = nn.Embedding(N_TOKENS + 1, note_width)  # of the note above
        self.written = nn.Embedding(N_TOKENS, note_width)  # summed over all notes above
        self.norm = nn.LayerNorm(note_width)
        self.hidden = nn.Linear(note_width, note_width)
        # The scores of an END, of notes and of intervals, the query of the pitch map, the weights of parallel motion.
        self._sizes = [1, 2 * N_PITCHES, 2 * _N_INTERVALS, 2 * n_channels, len(PERFECT_INTERVALS)]
        self.out = nn.Linear(note_width, sum(self._sizes))
        self.dropout = nn.Dropout(dropout)
        self.channel_dropout = nn.Dropout1d(dropout)
        for embedding in (self.word, self.written):
            nn.init.normal_(embedding.weight, std=0.1)
        self.register_buffer("pitch_of_token", pitch_of_token(), persistent=False)
        self.register_buffer("note_of_token", torch.eye(N_TOKENS)[:, STRUCK:], persistent=False)  # (V, 2P)
        self.register_buffer("may_follow", may_follow(), persistent=False)
        self.register_buffer("degrees", torch.from_numpy(degrees()), persistent=False)
        columns = torch.arange(2 * N_PITCHES)
        # Index of the interval of each note below a pitch, minus that pitch.
        start = N_PITCHES - 1 - columns % N_PITCHES + columns // N_PITCHES * _N_INTERVALS
        self.register_buffer("interval_start", start, persistent=False)
        self.register_buffer("perfect_below", perfect_below().flatten(1), persistent=False)  # (V + 1, 24)
        self.register_buffer("perfect_apart", perfect_apart(), persistent=False)
        places = torch.eye(len(PERFECT_INTERVALS)).repeat(1, MAX_NOTES + 1)
        self.register_buffer("every_place", places, persistent=False)  # (2, 2 (S + 1)), repeats weights
        classes = nn.functional.one_hot(torch.arange(N_PITCHES) % N_KEYS, N_KEYS).T.to(torch.float32)
        classes = nn.functional.pad(classes, (0, N_PITCHES))  # (12, 2P), 0 for notes that are held on
        self.register_buffer("class_of_struck", classes, persistent=False)
        self.perfect_below: Tensor
        self.perfect_apart: Tensor
        self.every_place: Tensor
        self.class_of_struck: Tensor
        self.pitch_of_token: Tensor
        self.note_of_token: Tensor
        self.may_follow: Tensor
        self.degrees: Tensor
        self.interval_start: Tensor
        self.onsets = onsets

    def scale(self, key: Tensor) -> Tensor:
        """Return what each pitch is in a key: (B,) int64, 0 unknown -> (B, C, P)."""
        degree: Tensor = self.degree(self.degrees.index_select(0, key))
        return degree.transpose(1, 2)

    def view(self, frame: Tensor, before: Tensor, views: Tensor, scale: Tensor) -> FrameView:
        """Prepare a frame's notes.

        Args:
            frame: (M, D) of the frame decoder.
            before: (M, 2P) notes of the frame before.
            views: (M, n_views, P) notes of other frames, pitch by pitch.
            scale: (M, C, P) from `scale`.
        """
        frame = self.dropout(frame)
        pitch_map = nn.functional.gelu(self.map_in(views) + self.map_context(frame)[:, :, None] + scale)
        pitch_map = pitch_map + nn.functional.gelu(self.map_out(pitch_map))
        struck, held = before.chunk(2, dim=1)
        sounded = (struck + held) > 0
        pitches = torch.arange(N_PITCHES, device=frame.device)
        voices = nn.functional.pad(torch.where(sounded, pitches, -1).topk(MAX_NOTES, dim=1).values, (0, 1), value=-1)
        top = voices[:, 0]
        placed = torch.where(voices < 0, _NO_VOICE, voices)
        apart = placed[:, None] - placed[:, :, None] + _NO_VOICE  # (M, S + 1, S + 1) each place above each
        holds = sounded if self.onsets else torch.zeros_like(sounded)
        return FrameView(
            context=self.context(frame) + self.before(before),
            pitch_map=self.channel_dropout(pitch_map),
            top=torch.where(top < 0, _MIDDLE, top),
            possible=nn.functional.pad(holds, (1 + N_PITCHES, 0), value=True),
            voices=voices + STRUCK,
            perfect=nn.functional.embedding(apart, self.perfect_apart).flatten(2),
        )

    def notes_of(self, tokens: Tensor) -> Tensor:
        """Turn tokens back into notes: (M, K) -> (M, 2P) float, 1 for each note, the struck ones before the held."""
        return nn.functional.embedding(tokens, self.note_of_token).amax(-2)

    def scores(self, view: FrameView, above: Tensor, written: Tensor) -> Tensor:
        """Score every token.

        Args:
            above: (M, K) the token before each, BEGIN before the first.
            written: (M, K, U) sum of `written` over the tokens before each.

        Returns:
            (M, K, V), NEVER for what the grammar forbids.
        """
        outputs = self._outputs(view.context[:, None] + written, above)
        anchor = torch.where(above == BEGIN, view.top[:, None], self.pitch_of_token[above])
        query = torch.unflatten(self._query(outputs), 2, (2, self.n_channels)).flatten(1, 2)  # (M, 2K, C)
        found = torch.unflatten(query @ view.pitch_map / math.sqrt(self.n_channels), 1, (-1, 2)).flatten(2)
        n_places = min(above.shape[1], MAX_NOTES + 1)
        tokens = nn.functional.pad(above[:, 1:n_places], (0, MAX_NOTES + 2 - n_places), value=END)
        weights = outputs[:, :n_places, -len(PERFECT_INTERVALS) :]
        parallel = self._parallel(weights, view.perfect[:, :n_places], self._moves(view, tokens))
        found = found + nn.functional.pad(parallel, (0, 0, 0, above.shape[1] - n_places))
        return self._masked(outputs, anchor, found, self.may_follow[above] & view.possible[:, None])

    def _moves(self, view: FrameView, tokens: Tensor) -> Tensor:
        """Return the pitch classes with which a lower note would be in a perfect interval with each note.

        Args:
            tokens: (M, S + 1) of the frame so far, END behind them.

        Returns:
            (M, 2 (S + 1), 12), 0 where a note is held on, or its pitch is that of its place in the frame before. What
            has no voice in the frame before is left out by `FrameView.perfect`.
        """
        moved = torch.where(tokens == view.voices, END, tokens)
        rows = nn.functional.embedding(moved, self.perfect_below)  # (M, S + 1, 24)
        return rows.reshape(-1, self.every_place.shape[1], N_KEYS)

    def _parallel(self, weights: Tensor, perfect: Tensor, moves: Tensor) -> Tensor:
        """Return the scores of parallel motion.

        Args:
            weights: (M, K, 2) from `_outputs`.
            perfect: (M, K, 2 (S + 1)).
            moves: (M, 2 (S + 1), 12).

        Returns:
            (M, K, 2P), added to the scores of notes; 0 for those that are held on.
        """
        answer: Tensor = ((weights @ self.every_place * perfect) @ moves) @ self.class_of_struck
        return answer

    def _query(self, outputs: Tensor) -> Tensor:
        """(..., outputs) -> (..., 2C), those that the pitch map is compared with."""
        return outputs[..., -2 * self.n_channels - len(PERFECT_INTERVALS) : -len(PERFECT_INTERVALS)]

    def next_scores(  # noqa: PLR0917 - the state of a loop
        self, view: FrameView, above: Tensor, conditioning: Tensor, anchor: Tensor, tokens: Tensor, perfect: Tensor
    ) -> Tensor:
        """As `scores` for one token of each frame, in the fewest and flattest steps: generation repeats them.

        Args:
            above: (M,) the token before.
            conditioning: (M, U) the frame's context and the sum of `written` over the tokens before.
            anchor: (M, 1) pitch of the token before; of `view.top` for the first.
            tokens: (M, S + 1) of the frame so far, END behind them.
            perfect: (M, 2 (S + 1)) that of the view at this place.

        Returns:
            (M, V).
        """
        outputs = self._outputs(conditioning, above)
        end, notes, intervals, query, weights = torch.split(outputs, self._sizes, dim=-1)
        found = query.reshape(-1, 2, self.n_channels) @ view.pitch_map / math.sqrt(self.n_channels)
        near = intervals.gather(-1, anchor + self.interval_start)
        parallel = self._parallel(weights[:, None], perfect[:, None], self._moves(view, tokens))
        notes = notes + near + (found.reshape(-1, 2 * N_PITCHES) + parallel.reshape(-1, 2 * N_PITCHES))
        allowed = nn.functional.embedding(above, self.may_follow) & view.possible
        return torch.where(allowed, torch.cat([end, notes], dim=-1), NEVER)

    def _outputs(self, conditioning: Tensor, above: Tensor) -> Tensor:
        """(..., U) and (...) -> (..., the outputs of `out`)."""
        hidden = nn.functional.gelu(conditioning + self.word(above))
        hidden = self.dropout(hidden + nn.functional.gelu(self.hidden(self.norm(hidden))))
        answer: Tensor = self.out(hidden)
        return answer

    def _masked(self, outputs: Tensor, anchor: Tensor, found: Tensor, allowed: Tensor) -> Tensor:
        """Add up the four views, of which `found` holds two: (..., outputs), (...), (..., 2P), (..., V) -> (..., V)."""
        end, notes, intervals, *_ = torch.split(outputs, self._sizes, dim=-1)
        notes = notes + intervals.gather(-1, anchor[..., None] + self.interval_start) + found
        return torch.where(allowed, torch.cat([end, notes], dim=-1), NEVER)

    def nll(self, view: FrameView, tokens: Tensor, counted: Tensor) -> Tensor:
        """Return the exact negative log-likelihood of whole frames.

        Args:
            tokens: (M, K) each frame's tokens; anything behind its END.
            counted: (M, K) bool, which tokens count: none behind the END.

        Returns:
            (M,) nats.
        """
        tokens = tokens.clamp_min(0)
        above = torch.cat([torch.full_like(tokens[:, :1], BEGIN), tokens[:, :-1]], dim=1)
        embedded = self.written(tokens)
        written = embedded.cumsum(1) - embedded
        surprise = nn.functional.cross_entropy(
            self.scores(view, above, written).transpose(1, 2), tokens, reduction="none"
        )
        return (surprise * counted).sum(1)
