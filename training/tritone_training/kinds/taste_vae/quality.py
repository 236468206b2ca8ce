"""Quality of an exported `taste_vae`, by which reduced precisions are compared: ranking of held-out listens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import torch

from tritone_training.exceptions import DataError
from tritone_training.kind import EvaluateRequest
from tritone_training.kinds.taste_vae.build import load_network
from tritone_training.kinds.taste_vae.evaluate import evaluate_network, listening_of
from tritone_training.quality import Arrays, HeldOut, Metric, Quality, Run

TASTE_FOLDER: Final = "taste_vae"  # inside the checkpoint of a recommender
_SIMULATED: Final = "simulated"


class Served(torch.nn.Module):
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
    named = request.listening is not None and request.listening.interactions is not None
    if not named and not source.startswith(_SIMULATED):
        raise DataError(
            f"{request.checkpoint}: precisions are compared on the validation data; give the log used in training, "
            f"{source or 'which is not recorded in the checkpoint'}, by --interactions and its columns"
        )
    listening = listening_of(request, info)

    def measure(run: Run) -> Mapping[str, float]:
        metrics = evaluate_network(Served(run), listening, listening.part("valid"), info)
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
