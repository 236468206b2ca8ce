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


def _perfect(voices: Tensor) -> Tensor:
    """(M, S + 1) pitches from the highest down, -1 behind the last -> (M, S + 1, 2S), as `FrameView.perfect`."""
    interval = (voices[:, None, :MAX_NOTES] - voices[:, :, None]) % N_KEYS  # (M, S + 1, S) of each above each
    places = torch.arange(MAX_NOTES + 1, device=voices.device)
    above = (places[:MAX_NOTES] < places[:, None]) & (voices >= 0)[:, :, None]
    return torch.cat([(interval == perfect) & above for perfect in PERFECT_INTERVALS], dim=2).to(torch.float32)


def notes_of(tokens: Tensor) -> Tensor:
    """Turn tokens back into notes: (..., K) -> (..., 2P) float, 1 for each note, the struck ones before the held."""
    choices = torch.arange(STRUCK, N_TOKENS, device=tokens.device)
    return (tokens[..., None] == choices).any(-2).to(torch.float32)


def multi_hot(frames: Tensor) -> Tensor:
    """(..., P) grid values -> (..., 2P) float, the struck notes before the held."""
    return torch.cat([frames == STRUCK_VALUE, frames == HELD_VALUE], dim=-1).to(torch.float32)


_OCTAVE_EACH_WAY: Final = 25
_THIRD_EACH_WAY: Final = 7
_N_INTERVALS: Final = 2 * N_PITCHES - 1
PERFECT_INTERVALS: Final = (7, 0)  # semitones modulo 12: fifths, and octaves with unisons
_MIDDLE: Final = 39  # middle C; what the first note is measured from after a silence


@dataclass(frozen=True)
class FrameView:
    """The context of a frame for its notes.

    Attributes:
        context: (M, U).
        pitch_map: (M, C, P).
        top: (M,) the highest pitch of the frame before.
        possible: (M, V) bool, false for notes that cannot be held on because they did not sound.
        voices: (M, S + 1) the pitches of the frame before, from the highest down; -1 behind the last.
        perfect: (M, S + 1, 2S) 1 where the note at the first place and one above it were a fifth (S places), or an
            octave or unison (S places) apart in the frame before.
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
        self.out = nn.Linear(note_width, N_TOKENS + 2 * _N_INTERVALS + 2 * n_channels + len(PERFECT_INTERVALS))
        self.dropout = nn.Dropout(dropout)
        self.channel_dropout = nn.Dropout1d(dropout)
        for embedding in (self.word, self.written):
            nn.init.normal_(embedding.weight, std=0.1)
        self.register_buffer("pitch_of_token", pitch_of_token(), persistent=False)
        self.register_buffer("may_follow", may_follow(), persistent=False)
        self.register_buffer("degrees", torch.from_numpy(degrees()), persistent=False)
        columns = torch.arange(2 * N_PITCHES)
        # Index of the interval of each note below a pitch, minus that pitch.
        start = N_PITCHES - 1 - columns % N_PITCHES + columns // N_PITCHES * _N_INTERVALS
        self.register_buffer("interval_start", start, persistent=False)
        self.register_buffer("perfect_below", perfect_below(), persistent=False)
        self.register_buffer("pitch_class", torch.arange(N_PITCHES) % N_KEYS, persistent=False)
        self.perfect_below: Tensor
        self.pitch_class: Tensor
        self.pitch_of_token: Tensor
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
        sounded = (before[:, :N_PITCHES] + before[:, N_PITCHES:]) > 0
        pitches = torch.arange(N_PITCHES, device=frame.device)
        voices = nn.functional.pad(torch.where(sounded, pitches, -1).topk(MAX_NOTES, dim=1).values, (0, 1), value=-1)
        top = voices[:, 0]
        holds = sounded if self.onsets else torch.zeros_like(sounded)
        return FrameView(
            context=self.context(frame) + self.before(before),
            pitch_map=self.channel_dropout(pitch_map),
            top=torch.where(top < 0, _MIDDLE, top),
            possible=nn.functional.pad(holds, (1 + N_PITCHES, 0), value=True),
            voices=voices,
            perfect=_perfect(voices),
        )

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
        moves = self._moves_of(view, above[:, 1:n_places])
        parallel = self._parallel(outputs[:, :n_places], view.perfect[:, :n_places], moves)
        found = found + nn.functional.pad(parallel, (0, N_PITCHES, 0, above.shape[1] - n_places))
        return self._masked(outputs, anchor, found, self.may_follow[above] & view.possible[:, None])

    def _moves_of(self, view: FrameView, tokens: Tensor) -> Tensor:
        """(M, K) the first tokens of a frame -> (M, 2S, 12), the sum over its notes of `move`."""
        voices = view.voices[:, : tokens.shape[1]]
        moved = (tokens >= 0) & (self.pitch_of_token[tokens] != voices) & (voices >= 0)
        rows = self.perfect_below[tokens] * moved[..., None, None]  # (M, K, 2, 12)
        rows = nn.functional.pad(rows, (0, 0, 0, 0, 0, MAX_NOTES - tokens.shape[1]))
        return rows.transpose(1, 2).flatten(1, 2)

    def move(self, view: FrameView, at: Tensor, token: Tensor, pitch: Tensor) -> Tensor:
        """Return the pitch classes below the note at a place with which it would be in a perfect interval.

        Args:
            at: (1,) the place.
            token: (M,) its token.
            pitch: (M,) its pitch.

        Returns:
            (M, 2, S, 12), 0 at other places, and where the note is held on or the pitch is that of the place before.
        """
        before = view.voices.index_select(1, at)[:, 0]
        moved = ((pitch != before) & (before >= 0)).to(torch.float32)
        row = self.perfect_below.index_select(0, token) * moved[:, None, None]
        here = (torch.arange(MAX_NOTES, device=at.device) == at).to(torch.float32)
        return row[:, :, None] * here[:, None]

    def _parallel(self, outputs: Tensor, perfect: Tensor, moves: Tensor) -> Tensor:
        """Return the scores of parallel motion.

        Args:
            outputs: (M, K, ...) from `_outputs`.
            perfect: (M, K, 2S).
            moves: (M, 2S, 12).

        Returns:
            (M, K, P), added to the scores of struck notes.
        """
        weights = outputs[..., -len(PERFECT_INTERVALS) :].repeat_interleave(MAX_NOTES, dim=-1)
        return ((perfect * weights) @ moves).index_select(-1, self.pitch_class)

    def _query(self, outputs: Tensor) -> Tensor:
        """(..., outputs) -> (..., 2C), those that the pitch map is compared with."""
        return outputs[..., -2 * self.n_channels - len(PERFECT_INTERVALS) : -len(PERFECT_INTERVALS)]

    def next_scores(  # noqa: PLR0917 - the state of a loop
        self, view: FrameView, above: Tensor, conditioning: Tensor, anchor: Tensor, at: Tensor, moves: Tensor
    ) -> Tensor:
        """As `scores` for one token of each frame, in the fewest and flattest steps: generation repeats them.

        Args:
            above: (M,) the token before.
            conditioning: (M, U) the frame's context and the sum of `written` over the tokens before.
            anchor: (M,) pitch of the token before; of `view.top` for the first.
            at: (1,) the place.
            moves: (M, 2, S, 12) sum of `move` over the tokens before.

        Returns:
            (M, V).
        """
        outputs = self._outputs(conditioning, above)
        query = self._query(outputs).reshape(-1, 2, self.n_channels)
        found = (query @ view.pitch_map / math.sqrt(self.n_channels)).reshape(-1, 2 * N_PITCHES)
        perfect = view.perfect.index_select(1, at)
        parallel = self._parallel(outputs[:, None], perfect, moves.flatten(1, 2))[:, 0]
        found = found + nn.functional.pad(parallel, (0, N_PITCHES))
        return self._masked(outputs, anchor, found, self.may_follow.index_select(0, above) & view.possible)

    def _outputs(self, conditioning: Tensor, above: Tensor) -> Tensor:
        """(..., U) and (...) -> (..., the outputs of `out`)."""
        hidden = nn.functional.gelu(conditioning + self.word(above))
        hidden = self.dropout(hidden + nn.functional.gelu(self.hidden(self.norm(hidden))))
        answer: Tensor = self.out(hidden)
        return answer

    def _masked(self, outputs: Tensor, anchor: Tensor, found: Tensor, allowed: Tensor) -> Tensor:
        """Add up the four views, of which `found` holds two: (..., outputs), (...), (..., 2P), (..., V) -> (..., V)."""
        sizes = [1, 2 * N_PITCHES, 2 * _N_INTERVALS, 2 * self.n_channels + len(PERFECT_INTERVALS)]
        end, notes, intervals, _ = torch.split(outputs, sizes, dim=-1)
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
