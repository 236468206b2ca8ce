"""What a piece from scratch begins with, and what no piece has: statistics of the training pieces.

Shapes: S styles, 24 keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from tritone_training.data.piece_conditions import N_KEYS_AND_MODES
from tritone_training.kinds.polyphony_rnn.conditions import KEY, LONGEST_BAR

if TYPE_CHECKING:
    from tritone_training.kinds.polyphony_rnn.dataset import PieceNotes

_KEY_SMOOTHING: Final = 0.25  # pieces added to each key of a style
_COMMON_CHORDS: Final = 0.99  # so many frames have no more notes; each note more costs every frame a step
_COMMON_RESTS: Final = 0.999  # so many rests are no longer
_N_NOTES_MAX: Final = 12


@dataclass(frozen=True)
class SamplingPriors:
    """Statistics of the training pieces.

    Attributes:
        styles: names, in the order of the condition.
        style_shares: by number of frames in a bar ("0" for any metre), the share of each style: (S,).
        key_shares: by style, the share of each key, C major .. B major, C minor .. B minor: (S, 24).
        n_notes_max: notes that sound at once.
        longest_rest: silent frames in succession within a piece.
        strikes: whether the data distinguish repeated notes from held ones.
    """

    styles: tuple[str, ...]
    style_shares: Mapping[str, tuple[float, ...]]
    key_shares: tuple[tuple[float, ...], ...]
    n_notes_max: int
    longest_rest: int
    strikes: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for checkpoint.json."""
        return asdict(self)

    def style_table(self) -> torch.Tensor:
        """Return the shares of the styles by frames in a bar: (17, S); those of any metre where a metre is new."""
        return torch.tensor(
            [self.style_shares.get(str(length), self.style_shares["0"]) for length in range(1 + LONGEST_BAR)]
        )

    def key_table(self) -> torch.Tensor:
        """Return the shares of the keys: (S, 24)."""
        return torch.tensor(self.key_shares)


def measure_priors(pieces: Sequence[PieceNotes], styles: Sequence[str], *, strikes: bool) -> SamplingPriors:
    """Return the statistics of training pieces.

    Args:
        pieces: at least one.
        styles: names; a piece's style is an index into them plus 1.
        strikes: whether the data distinguish repeated notes from held ones.
    """
    by_metre: dict[int, np.ndarray[Any, np.dtype[np.float64]]] = {}
    keys = np.full((len(styles), N_KEYS_AND_MODES), _KEY_SMOOTHING)
    n_notes: list[np.ndarray[Any, Any]] = []
    rests: list[int] = []
    for piece in pieces:
        for metre in {0, piece.bar_frames} if piece.bar_frames <= LONGEST_BAR else {0}:
            by_metre.setdefault(metre, np.zeros(len(styles)))[piece.style - 1] += 1
        key = int(piece.conditions[0, KEY])
        if key:
            keys[piece.style - 1, key - 1] += 1
        sounding = piece.notes.sum(1).numpy()
        n_notes.append(sounding)
        rests.extend(_rests(sounding > 0))
    return SamplingPriors(
        styles=tuple(styles),
        style_shares={
            str(metre): tuple((counts / counts.sum()).tolist()) for metre, counts in sorted(by_metre.items())
        },
        key_shares=tuple(tuple(row) for row in (keys / keys.sum(1, keepdims=True)).tolist()),
        n_notes_max=int(np.clip(np.quantile(np.concatenate(n_notes), _COMMON_CHORDS), 1, _N_NOTES_MAX)),
        longest_rest=max(1, int(np.quantile(rests, _COMMON_RESTS))) if rests else 1,
        strikes=strikes,
    )


def _rests(sounds: np.ndarray[Any, np.dtype[np.bool_]]) -> list[int]:
    """Return the lengths of the silences between sounding frames."""
    return [int(gap) - 1 for gap in np.diff(np.flatnonzero(sounds)) if gap > 1]


def priors_of(info: Mapping[str, Any]) -> SamplingPriors:
    """Return the statistics in a checkpoint's description.

    Raises:
        KeyError, TypeError: there are none, or they are not as `to_dict` returns them.
    """
    found = info["sampling"]
    return SamplingPriors(
        styles=tuple(found["styles"]),
        style_shares={metre: tuple(shares) for metre, shares in found["style_shares"].items()},
        key_shares=tuple(tuple(row) for row in found["key_shares"]),
        n_notes_max=int(found["n_notes_max"]),
        longest_rest=int(found["longest_rest"]),
        strikes=bool(found["strikes"]),
    )
