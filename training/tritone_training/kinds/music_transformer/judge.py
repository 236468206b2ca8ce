"""Asks a network how likely pieces are: whole pieces, every frame, the first included.

Shapes: T frames of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone_training._exceptions import TrainingError
from tritone_training.data.scores import ScorePiece
from tritone_training.kinds.music_transformer.dataset import WholePieces
from tritone_training.kinds.music_transformer.module import frame_nll
from tritone_training.kinds.music_transformer.network import MusicTransformer

_BATCH_FRAMES: Final = 4096


@dataclass(frozen=True)
class Judgement:
    """What pieces are worth.

    Attributes:
        metrics: JSON-able.
        pieces: those judged, in the order of `nll`.
        nll: (T,) nats of each piece's frames.
    """

    metrics: dict[str, Any]
    pieces: tuple[ScorePiece, ...]
    nll: tuple[npt.NDArray[np.float64], ...]


def judge(
    network: MusicTransformer,
    pieces: Sequence[ScorePiece],
    styles: Sequence[str],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Judgement:
    """The exact negative log-likelihood of every frame given all frames before it.

    Args:
        network: in eval mode.
        styles: those that the network knows, in its order.

    Raises:
        TrainingError: the network diverged in training.
    """
    batches = WholePieces(pieces, styles, onsets=network.onsets, batch_frames=_BATCH_FRAMES)
    answers: list[npt.NDArray[np.float64]] = []
    with torch.inference_mode():
        for index in range(len(batches)):
            batch = batches[index]
            nll = frame_nll(network, batch).double().numpy()
            answers += np.split(nll, np.cumsum(batch.counted.sum(1).numpy())[:-1])
            on_progress(len(answers), len(pieces))
    ordered = tuple(pieces[index] for index in batches.order)
    if not all(np.isfinite(nll).all() for nll in answers):
        raise TrainingError("the network answers numbers that are not finite: it diverged; lower the learning rate")
    return Judgement(_metrics(ordered, answers), ordered, tuple(answers))


def _metrics(pieces: Sequence[ScorePiece], nll: Sequence[npt.NDArray[np.float64]]) -> dict[str, Any]:
    whole = _likelihood(pieces, nll)
    styles = sorted({piece.style for piece in pieces})
    by_style = {}
    for style in styles:
        chosen = [index for index, piece in enumerate(pieces) if piece.style == style]
        by_style[style] = _likelihood([pieces[index] for index in chosen], [nll[index] for index in chosen])
    return {**whole, "styles": by_style}


def _likelihood(pieces: Sequence[ScorePiece], nll: Sequence[npt.NDArray[np.float64]]) -> dict[str, Any]:
    """Nats per frame; and per note, as a perplexity: how many notes the network hesitates between, on average."""
    nats = float(sum(each.sum() for each in nll))
    n_frames = sum(len(each) for each in nll)
    n_notes = sum(int((piece.frames > 0).sum()) for piece in pieces)
    return {
        "nll_per_frame": nats / n_frames,
        "log_likelihood_per_frame": -nats / n_frames,
        "note_perplexity": math.exp(nats / n_notes) if n_notes else None,
        "n_frames": n_frames,
        "n_notes": n_notes,
        "n": len(pieces),
    }
