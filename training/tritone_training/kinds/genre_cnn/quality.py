"""What a served `genre_cnn` is worth: its accuracy and its feeling for emotions on the checkpoint's validation data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

import numpy as np
import torch

from tritone.exceptions import InvalidAudioError
from tritone_training.data.recordings import Recording
from tritone_training.kind import EvaluateRequest
from tritone_training.kinds.genre_cnn.build import load_network
from tritone_training.kinds.genre_cnn.evaluate import recordings_of
from tritone_training.kinds.genre_cnn.judge import judge
from tritone_training.progress import progress_bar
from tritone_training.quality import Arrays, HeldOut, Metric, Quality, Run, recorded_data, spread

_METRICS: Final = (Metric("accuracy", max_loss=0.01), Metric("emotion_correlation_mean", max_loss=0.02))
_N_CALIBRATION: Final = 64  # recordings
_N_WINDOWS: Final = 4  # of each


class Served(torch.nn.Module):
    """A graph in the place of the network, so that one judge judges both."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def forward(self, audio: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, W) -> probabilities, emotions, embedding."""
        answer = self._run({"audio": audio.numpy()})
        return tuple(torch.from_numpy(answer[name]) for name in ("probabilities", "emotions", "embedding"))


def held_out(request: EvaluateRequest) -> HeldOut:
    """The validation part of a checkpoint's own data.

    Raises:
        DataError: they are not at hand, or are others than it was trained on.
    """
    _, info = load_network(request.checkpoint)
    request = replace(request, data=recorded_data(request.data, info, request.checkpoint))
    labels = list(info["labels"])
    valid = recordings_of(replace(request, split="valid"), info)
    train = recordings_of(replace(request, split="train"), info)

    def measure(run: Run) -> Mapping[str, float]:
        with progress_bar("judging recordings", shown=request.progress) as on_progress:
            metrics = judge(Served(run), valid.recordings, labels, on_progress=on_progress).metrics
        found = {name: metrics[name] for name in ("accuracy", "n")}
        if info["emotions_trained"] and metrics.get("emotion_correlation_mean") is not None:
            found["emotion_correlation_mean"] = metrics["emotion_correlation_mean"]
        return found

    return HeldOut(valid.source, measure, lambda: _windows(train.recordings))


def _windows(recordings: Sequence[Recording]) -> Iterator[Arrays]:
    """The first windows of recordings from all over the data set."""
    for place in spread(len(recordings), _N_CALIBRATION):
        try:
            found = [window.samples for window in islice(recordings[place].windows(), _N_WINDOWS)]
        except InvalidAudioError:
            continue  # training has reported it
        yield {"audio": np.stack(found)}


QUALITY: Final = Quality(_METRICS, held_out, int8="static")
