"""What a piece can be asked for: key, density, voices, an end, and bars that return.

Training reads these conditions from each piece; a request states them, or leaves them unknown (0).

Shapes: T frames of a piece, P 88 pitches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.music.endings import ending_of
from tritone.music.grid import FRAMES_PER_QUARTER, HELD, N_PITCHES, SILENT, STRUCK, Grid
from tritone.music.keys import N_KEYS, PITCH_CLASSES, key_code, key_correlations, tonic_and_mode
from tritone_training.data.scores import ScorePiece

UNKNOWN: Final = 0
N_KEYS_AND_MODES: Final = 24  # 1 to 12: C major to B major; 13 to 24: C minor to B minor
N_DENSITIES: Final = 3  # 1 sparse, 2 medium, 3 dense, as thirds of the training pieces of a style
MOST_VOICES: Final = 6  # notes at once; more count as these
NEW: Final = -1  # in `repeats`: this frame's bar repeats none
_ALIKE: Final = 0.8  # of the struck notes of two bars: Jaccard index from which one repeats the other
_MOST_TEMPLATES: Final = 60  # of a style
_FEWEST_BARS: Final = 8
_PHRASE_BARS: Final = 4
_FEWEST_EXCERPT_BARS: Final = 4
_MOST_EXCERPT_BARS: Final = 32
_MOST_TRIES: Final = 12
_CLEARER: Final = 0.1  # than any other: the correlation of a key that is known

Repeats = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PieceConditions:
    """The conditions of one piece; 0 where unknown.

    Attributes:
        key: 1 to 12 for C major to B major, 13 to 24 for C minor to B minor; unknown for pieces that fit two keys
            almost equally well, so that asking for a key is asking for a clear one.
        density: 1 to 3.
        n_voices: 1 to 6, median number of notes at once.
        end: length of the piece in frames; unknown for pieces that do not end with a cadence, so that asking for an end
            is asking for a cadence.
        repeats: (T,) for each frame, how many frames earlier the bar begins that its bar repeats, or `NEW`.
    """

    key: int
    density: int
    n_voices: int
    end: int
    repeats: Repeats = field(repr=False)

    def transposed(self, semitones: int) -> PieceConditions:
        """Return the conditions of the piece in another key."""
        if self.key == UNKNOWN:
            return self
        tonic, mode = tonic_and_mode(self.key)
        return replace(self, key=key_code((tonic + semitones) % N_KEYS, mode))

    def without(self, names: Sequence[str]) -> PieceConditions:
        """Return the conditions with some of them unknown."""
        changes: dict[str, Any] = dict.fromkeys(names, UNKNOWN)
        if "repeats" in changes:
            changes["repeats"] = np.zeros_like(self.repeats)
        return replace(self, **changes)


CONDITIONS: Final = ("key", "density", "n_voices", "end", "repeats")


def unknown(n_frames: int) -> PieceConditions:
    """Return the conditions of a piece that is asked for nothing."""
    return PieceConditions(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, np.zeros(n_frames, np.int64))


def conditions_of(
    piece: ScorePiece,
    density_edges: Mapping[str, Sequence[float]],
    *,
    reach: int,
    frames_per_quarter: int = FRAMES_PER_QUARTER,
) -> PieceConditions:
    """Return the conditions that a piece fulfils.

    Args:
        density_edges: of each style, from `density_edges`.
        reach: most frames back that a repeated bar may begin.
        frames_per_quarter: time steps in a quarter note.
    """
    frames = piece.frames
    edges = density_edges.get(piece.style)
    density = UNKNOWN if edges is None else 1 + int(np.searchsorted(np.asarray(edges), density_of(frames)))
    key = key_of(frames)
    return PieceConditions(
        key=key,
        density=density,
        n_voices=n_voices_of(frames),
        end=len(frames) if ends_with_cadence(piece, key, frames_per_quarter=frames_per_quarter) else UNKNOWN,
        repeats=repeats_of(frames, piece.meter, reach=reach),
    )


def excerpt_of(
    piece: ScorePiece,
    density_edges: Mapping[str, Sequence[float]],
    *,
    reach: int,
    frames_per_quarter: int = FRAMES_PER_QUARTER,
    random: np.random.Generator,
) -> tuple[ScorePiece, PieceConditions] | None:
    """Return a random part of a piece that could be a piece: whole bars that end with a cadence.

    Requests are for whole bars, while many pieces begin with an upbeat and end with an incomplete bar. A part begins at
    the first bar line or a multiple of four bars later, and is 4 to 32 bars long. Its last chord is held where the
    piece goes on with the next upbeat, or where its last bar is incomplete.

    Returns:
        The part and its conditions; None if none of a few random ones ends with a cadence.
    """
    length, index = piece.meter
    if length <= 0:
        return None
    upbeat = -index % length
    body = piece.frames[upbeat:]
    n_bars = -(-len(body) // length)
    if n_bars < _FEWEST_EXCERPT_BARS:
        return None
    body = np.concatenate([body, _held(body[-1:], n_bars * length - len(body))])
    parts = [
        (start, n)
        for start in range(0, n_bars, _PHRASE_BARS)
        for n in range(_FEWEST_EXCERPT_BARS, min(_MOST_EXCERPT_BARS, n_bars - start) + 1)
    ]
    for number in random.permutation(len(parts))[:_MOST_TRIES]:
        start, n = parts[number]
        frames = body[start * length : (start + n) * length].copy()
        if upbeat and start + n < n_bars:
            frames[-upbeat:] = _held(frames[-upbeat - 1 : -upbeat], upbeat)
        part = replace(piece, frames=frames, meter=(length, 0), voices=None)
        if ends_with_cadence(part, key_of(frames), frames_per_quarter=frames_per_quarter):
            return part, conditions_of(part, density_edges, reach=reach, frames_per_quarter=frames_per_quarter)
    return None


def _held(frame: npt.NDArray[np.uint8], n_frames: int) -> npt.NDArray[np.uint8]:
    """Return n frames in which the notes of a (1, P) frame are held."""
    return np.repeat(np.where(frame > 0, HELD, SILENT).astype(np.uint8), n_frames, axis=0)


def key_of(frames: npt.NDArray[np.uint8]) -> int:
    """Return the key of (T, P) frames, as in `PieceConditions`."""
    correlations = key_correlations(frames[None])[0]
    second, first = np.sort(correlations)[-2:]
    return UNKNOWN if first - second < _CLEARER else 1 + int(correlations.argmax())


def ends_with_cadence(piece: ScorePiece, key: int, *, frames_per_quarter: int) -> bool:
    """Return whether a piece ends with a cadence in a key, as the listening test defines it; not if it is unknown."""
    if key == UNKNOWN:
        return False
    grid = Grid(piece.frames, frames_per_quarter=frames_per_quarter, meter=piece.meter)
    return ending_of(grid, tonic_and_mode(key)).is_cadence


def density_of(frames: npt.NDArray[np.uint8]) -> float:
    """Return the number of struck notes in a frame, on average over (T, P) frames."""
    return float((frames == STRUCK).sum() / len(frames))


def density_edges(pieces: Sequence[ScorePiece]) -> dict[str, list[float]]:
    """Return the two densities that divide the pieces of each style in thirds."""
    by_style: dict[str, list[float]] = {}
    for piece in pieces:
        by_style.setdefault(piece.style, []).append(density_of(piece.frames))
    return {style: np.quantile(values, (1 / 3, 2 / 3)).tolist() for style, values in sorted(by_style.items())}


def n_voices_of(frames: npt.NDArray[np.uint8]) -> int:
    """Return the median number of notes at once of (T, P) frames, at most `MOST_VOICES`; 0 if nothing sounds."""
    n_notes = (frames > 0).sum(1)
    n_notes = n_notes[n_notes > 0]
    return min(MOST_VOICES, int(np.median(n_notes))) if len(n_notes) else UNKNOWN


def repeats_of(frames: npt.NDArray[np.uint8], meter: tuple[int, int], *, reach: int) -> Repeats:
    """Return, for each frame, how far back the bar is that its bar repeats.

    A bar repeats the earlier one that is most like it, the nearest of several, if the struck notes that they have in
    common are at least 80 % of those in either. Bars of which less than half is in the piece, such as an upbeat, and
    bars without a struck note are new.

    Args:
        frames: (T, P).
        meter: frames in a bar, and the index of the first frame in its bar; unknown: all is unknown.
        reach: most frames back.
    """
    length, index = meter
    repeats = np.zeros(len(frames), np.int64)
    if length <= 0:
        return repeats
    starts = np.arange(-index % length, len(frames), length)
    bars = [np.flatnonzero(frames[start : start + length].ravel() == STRUCK) for start in starts]
    repeats[:] = NEW
    for number, (start, bar) in enumerate(zip(starts, bars, strict=True)):
        stop = min(start + length, len(frames))
        if not len(bar) or stop - start < length / 2:
            continue
        best, chosen = _ALIKE, 0
        for earlier in range(number - 1, -1, -1):
            distance = int(start - starts[earlier])
            if distance > reach:
                break
            common = len(np.intersect1d(bar, bars[earlier], assume_unique=True))
            alike = common / (len(bar) + len(bars[earlier]) - common)
            if alike > best or (alike == best and not chosen):
                best, chosen = alike, distance
        if chosen:
            repeats[start:stop] = chosen
    return repeats


def templates(pieces: Sequence[ScorePiece], conditions: Sequence[PieceConditions]) -> list[dict[str, Any]]:
    """Describe real pieces by their conditions only, from which clients choose what to ask for by default.

    Pieces of unknown meter and short ones are left out; at most 60 of a style are kept, evenly spaced.

    Returns:
        For each: style, bar (frames), mode (0 major, 1 minor), density, n_voices, and repeats: for each complete bar
        how many bars earlier the one is that it repeats, or 0.
    """
    described: dict[str, list[dict[str, Any]]] = {}
    for piece, each in zip(pieces, conditions, strict=True):
        length, index = piece.meter
        if length <= 0 or each.key == UNKNOWN:
            continue
        first = -index % length
        distances = each.repeats[first::length] // length
        n_bars = (len(piece.frames) - first) // length
        if n_bars < _FEWEST_BARS:
            continue
        described.setdefault(piece.style, []).append(
            {
                "style": piece.style,
                "bar": length,
                "mode": tonic_and_mode(each.key)[1],
                "density": each.density,
                "n_voices": each.n_voices,
                "repeats": [max(0, int(distance)) for distance in distances[:n_bars]],
            }
        )
    kept = []
    for of_style in described.values():
        places = np.linspace(0, len(of_style) - 1, min(_MOST_TEMPLATES, len(of_style))).round().astype(int)
        kept += [of_style[place] for place in places]
    return kept


def degrees() -> npt.NDArray[np.int64]:
    """Return the degree of each pitch in each key, unknown first: (25, P); 0.. major, 12.. minor, 24 unknown."""
    table = np.full((1 + N_KEYS_AND_MODES, N_PITCHES), 2 * N_KEYS, np.int64)
    for key in range(1, 1 + N_KEYS_AND_MODES):
        tonic, mode = tonic_and_mode(key)
        table[key] = mode * N_KEYS + (PITCH_CLASSES - tonic) % N_KEYS
    return table
