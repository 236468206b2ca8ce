"""Asks a network about whole pieces, frame by frame as it is served.

Shapes: T frames, 88 pitches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone.music.grid import N_PITCHES
from tritone_training._exceptions import TrainingError
from tritone_training.kinds.polyphony_rnn.dataset import Piece
from tritone_training.kinds.polyphony_rnn.hearing import Heard
from tritone_training.kinds.polyphony_rnn.network import PolyphonyNetwork, State, frame_nll

_PIECES_AT_ONCE: Final = 32
_N_BINS: Final = 20


@dataclass(frozen=True, eq=False)
class Judgement:
    """What the network made of some pieces.

    Attributes:
        names: of the pieces.
        nll: (T,) nats for each frame of each piece.
        hits: pitches that were expected (probability of 0.5 or more) and sounded, over all frames.
        false_alarms: that were expected and did not sound.
        misses: that sounded unexpected.
        expected: (20,) sum of the probabilities that fell into each of 20 equal bins.
        sounded: (20,) how many of the pitches in each bin sounded.
        counts: (20,) pitches in each bin.
    """

    names: tuple[str, ...]
    nll: tuple[npt.NDArray[np.float64], ...]
    hits: int
    false_alarms: int
    misses: int
    expected: npt.NDArray[np.float64]
    sounded: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]

    @property
    def n_frames(self) -> int:
        """Over all pieces."""
        return sum(len(nll) for nll in self.nll)

    @property
    def metrics(self) -> dict[str, Any]:
        """JSON-able figures.

        `nll_per_frame` is the mean over all frames, the first of each piece included, whose past is empty;
        `accuracy` is that of frames in Bay et al. 2009 (ISMIR), at a threshold of 0.5.
        """
        nats = sum(float(nll.sum()) for nll in self.nll) / self.n_frames
        judged = self.hits + self.false_alarms + self.misses
        return {
            "nll_per_frame": nats,
            "log_likelihood_per_frame": -nats,
            "accuracy": self.hits / judged if judged else 1.0,  # silence that was expected to be silent
            "calibration_error": float(np.abs(self.expected - self.sounded).sum() / self.counts.sum()),
            "n_frames": self.n_frames,
            "n_pieces": len(self.names),
        }


@torch.inference_mode()
def judge(
    network: PolyphonyNetwork,
    pieces: Sequence[Piece],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Judgement:
    """Follow every piece from its first frame to its last.

    Args:
        network: in eval mode.
        pieces: at least one.

    Raises:
        TrainingError: the network diverged in training.
    """
    nll: dict[int, npt.NDArray[np.float64]] = {}
    agreed = np.zeros(3, np.int64)
    bins = np.zeros((3, _N_BINS))
    order = sorted(range(len(pieces)), key=lambda index: len(pieces[index].notes))
    for start in range(0, len(order), _PIECES_AT_ONCE):
        indices = order[start : start + _PIECES_AT_ONCE]
        notes = torch.nn.utils.rnn.pad_sequence([pieces[index].notes for index in indices]).float()  # (T, B, 88)
        lengths = torch.tensor([len(pieces[index].notes) for index in indices])  # ascending
        rows = np.zeros(notes.shape[:2])  # (T, B)
        state = network.start(notes[0])
        for t, padded in enumerate(notes):
            over = int((lengths <= t).sum()) - (len(lengths) - len(state.logits))
            if over:  # pieces that have ended are the first
                state = State(Heard(*(part[over:] for part in state.heard)), state.hidden[over:], state.logits[over:])
            frame = padded[len(lengths) - len(state.logits) :]
            if not torch.isfinite(state.logits).all():
                raise TrainingError(
                    "the network answers numbers that are not finite: it diverged; lower the learning rate"
                )
            rows[t, -len(frame) :] = frame_nll(state.logits, frame).double().numpy()
            likely = torch.sigmoid(state.logits).double().numpy()
            _count(likely, frame.numpy() > 0, agreed, bins)
            state = network.listen(state, frame)
        nll.update({index: rows[: len(pieces[index].notes), row] for row, index in enumerate(indices)})
        on_progress(len(nll), len(pieces))
    return Judgement(
        names=tuple(piece.name for piece in pieces),
        nll=tuple(nll[index] for index in range(len(pieces))),
        hits=int(agreed[0]),
        false_alarms=int(agreed[1]),
        misses=int(agreed[2]),
        expected=bins[0],
        sounded=bins[1],
        counts=bins[2].astype(np.int64),
    )


def _count(
    likely: npt.NDArray[np.float64],
    sounds: npt.NDArray[np.bool_],
    agreed: npt.NDArray[np.int64],
    bins: npt.NDArray[np.float64],
) -> None:
    """Add (..., 88) probabilities and what came of them to the running counts, in place."""
    guessed = likely >= 0.5
    agreed += np.array([(guessed & sounds).sum(), (guessed & ~sounds).sum(), (~guessed & sounds).sum()])
    place = np.minimum((likely * _N_BINS).astype(np.int64), _N_BINS - 1).reshape(-1, N_PITCHES).ravel()
    weights = (likely, sounds, np.ones_like(likely))
    bins += np.stack([np.bincount(place, each.ravel(), _N_BINS) for each in weights])
