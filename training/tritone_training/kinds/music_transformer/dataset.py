"""Pieces into batches: transposed, cut into segments, with a task for each.

Shapes: B segments, T frames, R recent frames, A frames of look-ahead, P 88 pitches, K tokens of a frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tritone.music.grid import N_PITCHES
from tritone_training.data.piece_conditions import CONDITIONS, PieceConditions, unknown
from tritone_training.data.scores import ScorePiece
from tritone_training.exceptions import TrainingError
from tritone_training.kinds.music_transformer.declaration import LOOK_AHEAD
from tritone_training.kinds.music_transformer.network import GIVEN, N_RECENT, TOP_GIVEN, WRITE, SegmentInputs
from tritone_training.kinds.music_transformer.notes import PADDING, Frames, readable, tokens_of
from tritone_training.processes import rank

TRANSPOSITIONS: Final = range(-6, 6)  # every key once
_SHORTEST_SEGMENT: Final = 32  # frames; shorter rests of a piece go with the segment before
_WHOLE_SHARE: Final = 0.4  # of the passes in which a piece with excerpts is used as a whole
_GAP: Final = (8, 64)  # shortest and longest gap to fill in, in frames


class ExcerptReader(Protocol):
    """Returns a random part of a piece and its conditions, or None if it found none, as `conditions.excerpt_of`."""

    def __call__(
        self, piece: ScorePiece, /, *, random: np.random.Generator
    ) -> tuple[ScorePiece, PieceConditions] | None: ...


class Batch(NamedTuple):
    """Segments of pieces, padded to the longest.

    Attributes:
        shown: (B, R + T, P) uint8 readable frames, the R before the segment first.
        tokens: (B, T, K) int64.
        given: (B, T + A, P) uint8.
        mode: (B, T + A) uint8.
        meter: (B, 2) int64.
        style: (B,) int64.
        key, density, n_voices, end: (B,) int64, as in `PieceConditions`.
        repeats: (B, T) int64.
        repeated: (B, T, P) uint8 readable frames that those of the segment repeat, silent where none.
        n_before: (B,) int64.
        counted: (B, T) bool, the frames to learn from.
    """

    shown: Tensor
    tokens: Tensor
    given: Tensor
    mode: Tensor
    meter: Tensor
    style: Tensor
    key: Tensor
    density: Tensor
    n_voices: Tensor
    end: Tensor
    repeats: Tensor
    repeated: Tensor
    n_before: Tensor
    counted: Tensor

    @property
    def setting(self) -> SegmentInputs:
        """Return the inputs of the network; given frames at the beginning of a segment count as its prompt."""
        return SegmentInputs(
            given=self.given,
            mode=self.mode,
            meter=self.meter,
            style=self.style,
            key=self.key,
            density=self.density,
            n_voices=self.n_voices,
            end=self.end,
            repeats=self.repeats,
            n_before=self.n_before,
            past_prompt=torch.zeros_like(self.n_before),
        )


@dataclass(frozen=True, eq=False)
class PieceSegment:
    """Part of a piece.

    Attributes:
        frames: (n, P) readable frames of the whole piece.
        start, stop: of the segment, in frames.
        mode: (n,) uint8 of the whole piece, see `network`.
        conditions: of the whole piece.
    """

    frames: Frames
    start: int
    stop: int
    meter: tuple[int, int]
    style: int
    mode: npt.NDArray[np.uint8]
    conditions: PieceConditions

    def repeated(self) -> Frames:
        """Return the frames that those of the segment repeat: (stop - start, P), silent where none."""
        back = self.conditions.repeats[self.start : self.stop]
        moments = np.arange(self.start, self.stop) - back
        return np.where((back > 0)[:, None], self.frames[np.minimum(moments, len(self.frames) - 1)], 0)


def whole(
    piece: ScorePiece, styles: Sequence[str], *, onsets: bool, conditions: PieceConditions | None = None
) -> PieceSegment:
    """Return a complete piece without given notes; a style that is not among `styles` counts as any."""
    frames = readable(piece.frames, onsets=onsets)
    style = styles.index(piece.style) + 1 if piece.style in styles else 0
    mode = np.full(len(frames), WRITE, np.uint8)
    return PieceSegment(frames, 0, len(frames), piece.meter, style, mode, conditions or unknown(len(frames)))


def collate(segments: Sequence[PieceSegment]) -> Batch:
    """Pad segments to a batch."""
    n_frames = max(each.stop - each.start for each in segments)
    spelled = [tokens_of(each.frames[each.start : each.stop]) for each in segments]
    n_tokens = max(tokens.shape[1] for tokens in spelled)
    n = len(segments)
    shown = np.zeros((n, N_RECENT + n_frames, N_PITCHES), np.uint8)
    tokens = np.full((n, n_frames, n_tokens), PADDING, np.int64)
    given = np.zeros((n, n_frames + LOOK_AHEAD, N_PITCHES), np.uint8)
    mode = np.full((n, n_frames + LOOK_AHEAD), WRITE, np.uint8)
    counted = np.zeros((n, n_frames), np.bool_)
    repeats = np.zeros((n, n_frames), np.int64)
    repeated = np.zeros((n, n_frames, N_PITCHES), np.uint8)
    for row, (each, spelling) in enumerate(zip(segments, spelled, strict=True)):
        length, before = len(spelling), min(each.start, N_RECENT)
        shown[row, N_RECENT - before : N_RECENT + length] = each.frames[each.start - before : each.stop]
        tokens[row, :length, : spelling.shape[1]] = spelling
        repeats[row, :length] = each.conditions.repeats[each.start : each.stop]
        repeated[row, :length] = each.repeated()
        modes = each.mode[each.start : each.stop + LOOK_AHEAD]
        mode[row, : len(modes)] = modes
        given[row, : len(modes)] = each.frames[each.start : each.stop + LOOK_AHEAD] * (modes != WRITE)[:, None]
        in_prompt = np.logical_and.accumulate(modes[:length] == GIVEN)
        counted[row, :length] = (modes[:length] != GIVEN) | in_prompt
    return Batch(
        shown=torch.from_numpy(shown),
        tokens=torch.from_numpy(tokens),
        given=torch.from_numpy(given),
        mode=torch.from_numpy(mode),
        meter=torch.tensor([each.meter for each in segments]),
        style=torch.tensor([each.style for each in segments]),
        key=torch.tensor([each.conditions.key for each in segments]),
        density=torch.tensor([each.conditions.density for each in segments]),
        n_voices=torch.tensor([each.conditions.n_voices for each in segments]),
        end=torch.tensor([each.conditions.end for each in segments]),
        repeats=torch.from_numpy(repeats),
        repeated=torch.from_numpy(repeated),
        n_before=torch.tensor([each.start for each in segments]),
        counted=torch.from_numpy(counted),
    )


def batched(segments: Sequence[PieceSegment], batch_frames: int, *, n_at_least: int = 1) -> list[list[PieceSegment]]:
    """Group neighbours into batches of at most that many frames with padding; a longer one is a batch by itself.

    Args:
        segments: in the order of the batches.
        batch_frames: of a batch.
        n_at_least: segments that a batch has even if they have more frames; a last one with fewer is left out, unless
            it is the only one.
    """
    batches: list[list[PieceSegment]] = []
    longest = 0
    for each in segments:
        length = each.stop - each.start
        longest = max(longest, length)
        is_full = bool(batches) and len(batches[-1]) >= n_at_least
        if not batches or (is_full and longest * (len(batches[-1]) + 1) > batch_frames):
            batches.append([])
            longest = length
        batches[-1].append(each)
    if len(batches) > 1 and len(batches[-1]) < n_at_least:
        batches.pop()
    return batches


def _repetitions(styles: Sequence[str], balance: float) -> list[int]:
    """Return how many times a pass holds each piece."""
    n_of = Counter(styles)
    most = max(n_of.values())
    return [round((most / n_of[style]) ** balance) for style in styles]


class WholePieces(Dataset[Any]):
    """Pieces from beginning to end with nothing given, to be evaluated; one item is one batch."""

    def __init__(self, pieces: Sequence[ScorePiece], styles: Sequence[str], *, onsets: bool, batch_frames: int) -> None:
        segments = [whole(piece, styles, onsets=onsets) for piece in pieces]
        self.order = tuple(sorted(range(len(segments)), key=lambda index: segments[index].stop))
        self._batches = batched([segments[index] for index in self.order], batch_frames)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        return collate(self._batches[index])


class TrainingSegments(Dataset[Any]):
    """Batches in order, whatever the index; each pass over the pieces draws new keys, cuts and tasks."""

    def __init__(
        self,
        pieces: Sequence[ScorePiece],
        styles: Sequence[str],
        conditions: Sequence[PieceConditions],
        excerpt_of: ExcerptReader | None = None,
        *,
        onsets: bool,
        n_frames: int,
        n_segments: int,
        batch_frames: int,
        epoch_frames: int,
        transpose: bool,
        given_share: float,
        unknown_share: float,
        style_balance: float = 0.0,
        seed: int,
        n_processes: int = 1,
    ) -> None:
        """Prepare batches of pieces.

        Args:
            pieces: the pieces.
            styles: those that the network has.
            conditions: of each piece.
            excerpt_of: returns a random part of a piece, which is used instead of the piece in most passes;
                None: no parts are used.
            onsets: whether the data have onsets.
            n_frames: longest segment.
            n_segments: most of one piece in a pass.
            batch_frames: of a batch, padding included.
            epoch_frames: of an epoch, however many times the pieces that is.
            given_share: of the segments, half with the highest voice given and half with a gap to fill in.
            unknown_share: share of segments without style, share without meter, and share without conditions; of the
                others, each condition is unknown as often.
            style_balance: as in `TransformerConfig`.
            seed: of keys, cuts and tasks.
            transpose: whether to transpose to random keys.
            n_processes: number of shards of each batch; all processes draw the same batches.

        Raises:
            TrainingError: there are fewer segments than processes.
        """
        self._pieces = [
            whole(piece, styles, onsets=onsets, conditions=asked)
            for piece, asked in zip(pieces, conditions, strict=True)
        ]
        self._sources = pieces
        self._styles = styles
        self._onsets = onsets
        self._excerpt_of = excerpt_of
        self._n_times = _repetitions([piece.style for piece in pieces], style_balance)
        self._n_frames = n_frames
        self._n_stretches = n_segments
        self._batch_frames = batch_frames
        self._transpose = transpose
        self._given_share = given_share
        self._unknown_share = unknown_share
        self._seed = seed
        self._n_processes = n_processes
        self._n_passes = 0
        self._random = np.random.default_rng(seed)
        self.batches: list[list[PieceSegment]] = self._draw()
        n_frames_of_pass = sum(part.stop - part.start for batch in self.batches for part in batch)
        self._n_batches = max(1, round(epoch_frames / n_frames_of_pass * len(self.batches)))

    def __len__(self) -> int:
        return self._n_batches

    def __getitem__(self, _: int) -> Batch:
        if not self.batches:
            self.batches = self._draw()
        return collate(self.batches.pop()[rank() :: self._n_processes])

    @property
    def position(self) -> tuple[int, int]:
        """Return (number of passes begun, number of batches left in the last one)."""
        return self._n_passes, len(self.batches)

    def go_to(self, n_passes: int, n_left: int) -> None:
        """Set the position, as returned by `position`."""
        self._n_passes = n_passes - 1
        self.batches = self._draw()[:n_left]

    def _draw(self) -> list[list[PieceSegment]]:
        """Batches that hold every piece, or as much of it as it may have."""
        self._random = np.random.default_rng((self._seed, 0, self._n_passes))
        self._n_passes += 1
        segments = [
            part
            for number, n_times in enumerate(self._n_times)
            for _ in range(n_times)
            for part in self._cut(self._varied(self._piece_or_excerpt(number)))
        ]
        # Group segments of similar length, with jitter, so that batches differ between passes.
        lengths = np.array([each.stop - each.start for each in segments])
        order = np.argsort(lengths * self._random.uniform(0.9, 1.1, len(lengths)), kind="stable")
        batches = batched([segments[index] for index in order], self._batch_frames, n_at_least=self._n_processes)
        if len(batches[0]) < self._n_processes:
            raise TrainingError(
                f"{self._n_processes} processes: expected at least as many segments of pieces, got {len(batches[0])}; "
                f"train in fewer processes"
            )
        return [batches[index] for index in self._random.permutation(len(batches))]

    def _piece_or_excerpt(self, number: int) -> PieceSegment:
        """Return a piece, or a part of it."""
        if self._excerpt_of is None or self._random.random() < _WHOLE_SHARE:
            return self._pieces[number]
        excerpt = self._excerpt_of(self._sources[number], random=self._random)
        if excerpt is None:
            return self._pieces[number]
        part, conditions = excerpt
        return whole(part, self._styles, onsets=self._onsets, conditions=conditions)

    def _varied(self, piece: PieceSegment) -> PieceSegment:
        """Return the piece in a random key, and sometimes with unknown style, meter or conditions."""
        sounding = np.flatnonzero(piece.frames.any(0))
        if self._transpose and len(sounding):
            room = range(-int(sounding[0]), N_PITCHES - int(sounding[-1]))
            keys = [semitones for semitones in TRANSPOSITIONS if semitones in room]
            semitones = int(self._random.choice(keys))
            piece = replace(
                piece,
                frames=np.roll(piece.frames, semitones, axis=1),
                conditions=piece.conditions.transposed(semitones),
            )
        if self._random.random() < self._unknown_share:
            piece = replace(piece, style=0)
        if self._random.random() < self._unknown_share:
            piece = replace(piece, meter=(0, 0))
        left_out = [name for name in CONDITIONS if self._random.random() < self._unknown_share]
        if self._random.random() < self._unknown_share:
            left_out = list(CONDITIONS)
        return replace(piece, conditions=piece.conditions.without(left_out))

    def _cut(self, piece: PieceSegment) -> list[PieceSegment]:
        """Segments of at most `n_frames`, cut elsewhere each time, each with a task."""
        end, length = piece.stop, self._n_frames
        cuts = [0]
        if end > length:
            cuts = [0, *range(int(self._random.integers(_SHORTEST_SEGMENT, length + 1)), end, length)]
            if end - cuts[-1] < _SHORTEST_SEGMENT:
                cuts.pop()
        parts = list(zip(cuts, [*cuts[1:], end], strict=True))
        chosen = self._random.permutation(len(parts))[: self._n_stretches]
        return [
            replace(piece, start=start, stop=stop, mode=self._task(piece.mode, start, stop))
            for start, stop in (parts[index] for index in chosen)
        ]

    def _task(self, mode: npt.NDArray[np.uint8], start: int, stop: int) -> npt.NDArray[np.uint8]:
        which = self._random.random()
        if which >= self._given_share:
            return mode
        mode = mode.copy()
        if which < self._given_share / 2:
            mode[:] = TOP_GIVEN
            return mode
        mode[:] = GIVEN
        low, high = _GAP
        length = int(self._random.integers(low, high + 1))
        begin = int(self._random.integers(start, max(start + 1, stop - low)))
        mode[begin : begin + length] = WRITE
        return mode
