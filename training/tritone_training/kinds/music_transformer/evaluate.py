"""Evaluation of `music_transformer`: nats per frame, by the protocol of the field.

Every frame of a split counts once, the first of a piece included (with nothing before it), and pieces are never cut
(Boulanger-Lewandowski et al. 2012, arXiv:1206.6392).

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

from tritone_training.data.scores import ScorePiece, ScoreSet, load_scores
from tritone_training.evaluation import EvaluationResult, summarize
from tritone_training.exceptions import DataError, TrainingError
from tritone_training.kind import EvaluateRequest
from tritone_training.kinds.music_transformer import report
from tritone_training.kinds.music_transformer.dataset import WholePieces
from tritone_training.kinds.music_transformer.module import frame_nll
from tritone_training.kinds.music_transformer.network import MusicTransformer, load_network
from tritone_training.progress import progress_bar

_BATCH_FRAMES: Final = 4096


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of some pieces.

    Attributes:
        metrics: JSON-able.
        pieces: those evaluated, in the order of `nll`.
        nll: (T,) nats of each piece's frames.
    """

    metrics: dict[str, Any]
    pieces: tuple[ScorePiece, ...]
    nll: tuple[npt.NDArray[np.float64], ...]


def evaluate_network(
    network: MusicTransformer,
    pieces: Sequence[ScorePiece],
    styles: Sequence[str],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
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
        raise TrainingError("the network returns non-finite values: training diverged; lower the learning rate")
    return Evaluation(_metrics(ordered, answers), ordered, tuple(answers))


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


def evaluate(request: EvaluateRequest) -> EvaluationResult:
    """Evaluate a checkpoint on a split of a data set, or on all of it.

    Raises:
        DataError: there is no such split.
    """
    network, _, info = load_network(request.checkpoint)
    scores = load_scores(request.data, progress=request.progress)
    pieces = _selected(scores, request)
    with progress_bar("evaluating pieces", shown=request.progress) as on_progress:
        evaluation = evaluate_network(network, pieces, info["styles"], on_progress=on_progress)
    same_data = scores.fingerprint == info.get("data", {}).get("fingerprint")
    names = [piece.name for piece in pieces]
    n_of = {part: len(set(names) & set(info["splits"][part])) for part in ("train", "valid")}
    details = {
        "split": request.split,
        # Metrics on pieces that the checkpoint was trained on say nothing about new ones.
        "n_seen_in_training": n_of["train"] if same_data else None,
        "n_early_stopping": n_of["valid"] if same_data else None,  # decided when training stopped
        "trained_on": info.get("data", {}).get("source"),
        "likelihood": "joint over the notes of a frame, exact; one network, one pass, no adaptation to the piece",
    }
    return EvaluationResult(
        request.checkpoint,
        scores.source,
        metrics=evaluation.metrics,
        details=details,
        summary=summarize({**evaluation.metrics, **details}),
        report=None if request.report is None else report.write(request.report, evaluation, network, info),
    )


def _selected(scores: ScoreSet, request: EvaluateRequest) -> tuple[ScorePiece, ...]:
    if request.split is not None:
        return scores.split(request.split)
    if not scores.pieces:
        raise DataError(f"{scores.source}: holds no usable piece")
    return scores.pieces
