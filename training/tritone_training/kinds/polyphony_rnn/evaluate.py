"""How good a checkpoint of `polyphony_rnn` is: on a data set, or one portion of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritone_training._exceptions import TrainingError
from tritone_training.data.scores import SPLITS, ScorePiece, ScoreSet, load_scores
from tritone_training.kind import EvaluateRequest, TrainRequest
from tritone_training.kinds.polyphony_rnn import report
from tritone_training.kinds.polyphony_rnn.build import load_network
from tritone_training.kinds.polyphony_rnn.dataset import frames_per_quarter_of, pieces_of
from tritone_training.kinds.polyphony_rnn.judge import Judgement, judge
from tritone_training.progress import progress_bar


def evaluate(request: EvaluateRequest) -> Mapping[str, Any]:
    """Measure a checkpoint on the portions of a data set, whole pieces from their first frame on.

    `split` narrows it to one portion; else the figures are over all there are, with those of each beside them.

    Raises:
        DataError: the data cannot be used, or have no such portion.
        TrainingError: a fold was asked for.
    """
    if request.fold is not None:
        raise TrainingError("scores have no folds; give --split train, valid or test instead of --fold")
    network, info = load_network(request.checkpoint)
    scores = load_scores(request.data, progress=request.progress)
    wanted = frames_per_quarter_of(scores, info["frames_per_quarter"])
    chosen = scores.split(request.split) if request.split is not None else scores.pieces
    pieces = pieces_of(chosen, own=scores.frames_per_quarter, wanted=wanted)
    with progress_bar("judging pieces", shown=request.progress) as on_progress:
        judgement = judge(network, pieces, on_progress=on_progress)
    metrics = {
        **judgement.metrics,
        "splits": _by_split(chosen, judgement),
        "checkpoint": str(request.checkpoint),
        "data": scores.source,
        "split": request.split,
        "frames_per_quarter": wanted or None,
        # Figures on pieces that the checkpoint was trained on say nothing about new ones.
        "n_seen_in_training": _n_of_split("train", scores, chosen, info),
        "n_early_stopping": _n_of_split("valid", scores, chosen, info),  # decided when training stopped
    }
    if request.report is not None:
        metrics["report"] = report.write(request.report, judgement)
    return metrics


def crossvalidate(request: TrainRequest) -> Mapping[str, Any]:
    """There are no folds of scores.

    Raises:
        TrainingError: always; it says what to use instead.
    """
    raise TrainingError(
        f"polyphony_rnn has no folds to cross-validate; train with several --seed and compare "
        f"`tritone evaluate polyphony_rnn --checkpoint {request.out} --split valid`"
    )


def _by_split(chosen: tuple[ScorePiece, ...], judgement: Judgement) -> dict[str, dict[str, float]]:
    """Nats and sizes of each portion."""
    found = {}
    for split in SPLITS:
        rows = [nll for piece, nll in zip(chosen, judgement.nll, strict=True) if piece.split == split]
        n_frames = sum(map(len, rows))
        if n_frames:
            nats = sum(float(row.sum()) for row in rows) / n_frames
            found[split] = {"nll_per_frame": nats, "n_frames": n_frames, "n_pieces": len(rows)}
    return found


def _n_of_split(split: str, scores: ScoreSet, chosen: tuple[ScorePiece, ...], info: Mapping[str, Any]) -> int | None:
    """Return how many pieces belong to a split of the training run; None for another data set."""
    if scores.fingerprint != info["data"]["fingerprint"]:
        return None
    return sum(piece.split == split for piece in chosen)
