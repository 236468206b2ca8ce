"""What a served `taste_vae` is worth: how well it ranks what validation holds out."""

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


class ServedNetwork(torch.nn.Module):
    """A graph in the place of the network, so that both are evaluated by the same code."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def forward(self, items: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor]:
        """(B, L), (B, L) -> scores (B, T)."""
        return (torch.from_numpy(self._run({"items": items.numpy(), "weights": weights.numpy()})["scores"]),)


def held_out(request: EvaluateRequest) -> HeldOut:
    """The validation part of the log: simulated listening, or the one that the request names.

    Raises:
        DataError: the checkpoint learnt from a log that is not named.
    """
    _, info = load_network(request.checkpoint)
    source = str((info.get("data") or {}).get("source") or "")
    named = request.listening is not None and request.listening.interactions is not None
    if not named and not source.startswith(_SIMULATED):
        raise DataError(
            f"{request.checkpoint}: what a precision costs is measured on the validation data; name the log that was "
            f"learnt from, {source or 'which training did not write down'}, with --interactions and its columns"
        )
    listening = listening_of(request, info)

    def measure(run: Run) -> Mapping[str, float]:
        metrics = evaluate_network(ServedNetwork(run), listening, listening.part("valid"), info)
        return {name: metrics[name] for name in ("ndcg@10", "n")}

    return HeldOut(listening.train.source, measure, _nothing)


def held_out_of_recommender(request: EvaluateRequest) -> HeldOut:
    """The same for the one that a recommender's checkpoint holds."""
    return held_out(replace(request, checkpoint=request.checkpoint / TASTE_FOLDER))


def _nothing() -> Iterator[Arrays]:
    """Ranges come from each request."""
    return iter(())


_METRICS: Final = (Metric("ndcg@10", max_loss=0.002),)
QUALITY: Final = Quality(_METRICS, held_out, int8="dynamic")
QUALITY_IN_RECOMMENDER: Final = Quality(_METRICS, held_out_of_recommender, int8="dynamic")
