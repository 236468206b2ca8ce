"""What a served `music_vae` is worth: what the decoder, as trained, makes of the points that it answers.

Shapes: S spans, N = 32 time steps, V = 4 lanes, Z latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import torch

from tritone.music.noise import uniform_noise
from tritone_training._exceptions import DataError
from tritone_training.data.scores import load_scores
from tritone_training.kind import EvaluateRequest
from tritone_training.kinds.music_vae.attributes import decode
from tritone_training.kinds.music_vae.build import load_network
from tritone_training.kinds.music_vae.spans import cut_spans
from tritone_training.quality import Arrays, HeldOut, Metric, Quality, Run, recorded_data

_BATCH: Final = 128


def held_out(request: EvaluateRequest) -> HeldOut:
    """The validation spans of a checkpoint's own data.

    Raises:
        DataError: they are not at hand, or are others than it was trained on.
    """
    network, info = load_network(request.checkpoint)
    scores = load_scores(recorded_data(request.data, info, request.checkpoint), progress=request.progress)
    if scores.fingerprint != info["data"].get("fingerprint"):
        raise DataError(
            f"{scores.source}: is not the data that {request.checkpoint} was trained on; give it with --data"
        )
    lanes = cut_spans(scores, "valid").lanes
    noise = uniform_noise(0, *lanes.shape)

    def measure(run: Run) -> Mapping[str, float]:
        equal = []
        for start in range(0, len(lanes), _BATCH):
            rows = slice(start, start + _BATCH)
            mean = torch.from_numpy(run({"lanes": lanes[rows]})["mean"])
            with torch.inference_mode():
                equal.append(decode(network, mean, noise[rows]) == lanes[rows])
        return {"reconstruction_accuracy": float(np.concatenate(equal).mean()), "n": len(lanes)}

    return HeldOut(scores.source, measure, _nothing)


def _nothing() -> Iterator[Arrays]:
    """Ranges come from each request."""
    return iter(())


QUALITY: Final = Quality((Metric("reconstruction_accuracy", max_loss=0.005),), held_out, int8="dynamic")
