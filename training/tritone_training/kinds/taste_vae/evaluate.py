"""Evaluation of `taste_vae` alone on held-out listens, also of its exports in reduced precisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from scipy import sparse

from tritone_training.data.interactions import ListeningData, Log, files_of, held_out_counts, load_listening
from tritone_training.evaluation import EvaluationResult, SummaryTable
from tritone_training.exceptions import DataError
from tritone_training.kind import EvaluateRequest, TrainRequest
from tritone_training.kinds.taste_vae.dataset import Histories, collate
from tritone_training.kinds.taste_vae.export import load_network
from tritone_training.kinds.taste_vae.train import weigh_rows
from tritone_training.quality import Arrays, HeldOut, Metric, Quality, Run
from tritone_training.ranking_metrics import MAIN_METRICS, hits_of, means, per_user, top_items

_AT_ONCE = 256
TASTE_FOLDER: Final = "taste_vae"  # inside the checkpoint of a recommender
_SIMULATED: Final = "simulated"


def evaluate(request: EvaluateRequest) -> EvaluationResult:
    """Evaluate full rankings for all users with held-out listens, on the split `valid` or `test`.

    Raises:
        DataError: the log shares no item with the checkpoint.
    """
    network, info = load_network(request.checkpoint)
    listening = listening_of(request, info)
    part = request.split or ("test" if listening.test is not None else "valid")
    metrics = evaluate_network(network, listening, listening.part(part), info)
    table = SummaryTable("held-out listens", [{name: metrics[name] for name in MAIN_METRICS}])
    return EvaluationResult(request.checkpoint, listening.train.source, metrics=metrics, summary=[table])


def listening_of(request: EvaluateRequest, info: Mapping[str, Any]) -> ListeningData:
    """Return the log of a request, split as in training."""
    return load_listening(TrainRequest(out=request.checkpoint, data=request.data, seed=info["seed"]))


def evaluate_network(
    network: torch.nn.Module, listening: ListeningData, held_out: Log, info: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ranking metrics over all items known to the network.

    Args:
        network: maps items (B, L) and weights (B, L) to a tuple that begins with scores (B, T).
        listening: its training split provides the histories.
        held_out: the held-out listens.
        info: content of checkpoint.json.

    Raises:
        DataError: the log shares no item with the checkpoint.
    """
    indices = {name: index for index, name in enumerate(info["items"])}
    users = {name: index for index, name in enumerate(listening.train.users)}
    plays, wanted = listening.train.matrix(users, indices), held_out.matrix(users, indices)
    if not plays.nnz or not wanted.nnz:
        raise DataError(f"{listening.train.source}: has no items in common with the checkpoint's training data")
    weights = weigh_rows(plays, float(info["config"]["power"]))
    n_held_out = held_out_counts(held_out, listening.train.users)
    found = []
    for start in range(0, plays.shape[0], _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        scores = _score(network, sparse.csr_matrix(weights[rows]))
        found.append(hits_of(top_items(scores, sparse.csr_matrix(plays[rows])), sparse.csr_matrix(wanted[rows])))
    evaluated = n_held_out > 0
    return {**means(per_user(np.concatenate(found)[evaluated], n_held_out[evaluated])), "n": int(evaluated.sum())}


def _score(network: torch.nn.Module, weights: sparse.csr_matrix) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return scores (B, T) for histories (B, T); 0 for empty histories."""
    scores = np.zeros(weights.shape, np.float32)
    consumed = np.flatnonzero(np.diff(weights.indptr))
    histories = Histories(weights)
    if len(consumed):
        batch = collate([histories[i] for i in range(len(histories))])
        with torch.inference_mode():
            scores[consumed] = network(batch.items, batch.weights)[0].numpy()
    return scores


class ServedNetwork(torch.nn.Module):
    """Wraps an ONNX graph as a module, so that it is evaluated by the same code as the network."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def forward(self, items: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor]:
        """Return scores (B, T) for items (B, L) and weights (B, L)."""
        return (torch.from_numpy(self._run({"items": items.numpy(), "weights": weights.numpy()})["scores"]),)


def held_out(request: EvaluateRequest) -> HeldOut:
    """Return the evaluation on the validation split of the log in the request, or of the simulated log.

    Raises:
        DataError: the checkpoint was trained on a log that is not given.
    """
    _, info = load_network(request.checkpoint)
    source = str((info.get("data") or {}).get("source") or "")
    if files_of(request.data).interactions is None and not source.startswith(_SIMULATED):
        raise DataError(
            f"{request.checkpoint}: precisions are compared on the validation data; give the log used in training, "
            f"{source or 'which is not recorded in the checkpoint'}, by --interactions and its columns"
        )
    listening = listening_of(request, info)

    def measure(run: Run) -> Mapping[str, float]:
        metrics = evaluate_network(ServedNetwork(run), listening, listening.part("valid"), info)
        return {name: metrics[name] for name in ("ndcg@10", "n")}

    return HeldOut(listening.train.source, measure, _nothing)


def held_out_of_recommender(request: EvaluateRequest) -> HeldOut:
    """As `held_out`, for the network in a checkpoint of `recommender`."""
    return held_out(replace(request, checkpoint=request.checkpoint / TASTE_FOLDER))


def _nothing() -> Iterator[Arrays]:
    """Return no calibration data, since dynamic quantisation takes ranges from each request."""
    return iter(())


_METRICS: Final = (Metric("ndcg@10", max_loss=0.002),)
QUALITY: Final = Quality(_METRICS, held_out, int8="dynamic")
QUALITY_IN_RECOMMENDER: Final = Quality(_METRICS, held_out_of_recommender, int8="dynamic")
