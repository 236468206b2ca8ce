"""How likely a checkpoint of `music_transformer` finds music: nats per frame, by the protocol of the field.

Every frame of a portion counts once, the first of a piece included (with nothing before it), and pieces are never
cut (Boulanger-Lewandowski et al. 2012, arXiv:1206.6392).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritone_training._exceptions import DataError, TrainingError
from tritone_training.data.scores import ScorePiece, ScoreSet, load_scores
from tritone_training.kind import EvaluateRequest
from tritone_training.kinds.music_transformer import report
from tritone_training.kinds.music_transformer.build import load_network
from tritone_training.kinds.music_transformer.judge import judge
from tritone_training.progress import progress_bar


def evaluate(request: EvaluateRequest) -> Mapping[str, Any]:
    """Measure a checkpoint on a portion of a data set, or on all of it.

    Raises:
        DataError: there is no such portion.
    """
    if request.fold is not None:
        raise TrainingError("music_transformer is judged on portions, not on folds; give --split valid")
    network, _, info = load_network(request.checkpoint)
    scores = load_scores(request.data, progress=request.progress)
    pieces = _selected(scores, request)
    with progress_bar("judging pieces", shown=request.progress) as on_progress:
        judgement = judge(network, pieces, info["styles"], on_progress=on_progress)
    same_data = scores.fingerprint == info.get("data", {}).get("fingerprint")
    names = [piece.name for piece in pieces]
    n_of = {part: len(set(names) & set(info["splits"][part])) for part in ("train", "valid")}
    metrics = {
        **judgement.metrics,
        "checkpoint": str(request.checkpoint),
        "data": scores.source,
        "split": request.split,
        # Figures on pieces that the checkpoint was trained on say nothing about new ones.
        "n_seen_in_training": n_of["train"] if same_data else None,
        "n_early_stopping": n_of["valid"] if same_data else None,  # decided when training stopped
        "trained_on": info.get("data", {}).get("source"),
        "likelihood": "joint over the notes of a frame, exact; one network, one pass, no adaptation to the piece",
    }
    if request.report is not None:
        metrics["report"] = report.write(request.report, judgement, network, info)
    return metrics


def _selected(scores: ScoreSet, request: EvaluateRequest) -> tuple[ScorePiece, ...]:
    if request.split is not None:
        return scores.split(request.split)
    if not scores.pieces:
        raise DataError(f"{scores.source}: holds no usable piece")
    return scores.pieces
