"""Asks a network about recordings: on windows, as it answers them, and on whole tracks, as the SDK does.

Shapes: N tracks or windows, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone.constants import EMOTIONS
from tritone.exceptions import InvalidAudioError
from tritone_training._exceptions import DataError, TrainingError
from tritone_training.data.recordings import Problem, Recording, Remark, printable
from tritone_training.kinds.genre_cnn.metrics import FloatMatrix, emotion_metrics, genre_metrics

_BATCH: Final = 32


@dataclass(frozen=True)
class Judgement:
    """Predictions and what they are worth.

    Attributes:
        metrics: JSON-able; the track level at the top, `window` beside it.
        names: recording of each track, in order.
        probabilities: (N, L) of the tracks.
        truth: (N,) index of the right label.
        emotions: (N, 9) predicted.
        wanted_emotions: (N, 9), NaN where unknown.
    """

    metrics: dict[str, Any]
    names: tuple[str, ...]
    probabilities: FloatMatrix
    truth: npt.NDArray[np.int64]
    emotions: FloatMatrix
    wanted_emotions: FloatMatrix


def judge(
    network: torch.nn.Module,
    recordings: Sequence[Recording],
    labels: Sequence[str],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Judgement:
    """Ask the network about every recording, window by window as the SDK cuts them.

    Args:
        network: in eval mode, (B, W) -> probabilities, emotions, embedding.

    Raises:
        DataError: not one recording can be used.
        TrainingError: the network diverged in training.
    """
    windows: list[FloatMatrix] = []
    felt: list[FloatMatrix] = []
    used: list[Recording] = []
    problems: list[Problem] = []
    remarks: list[Remark] = []
    for index, recording in enumerate(recordings):
        try:
            probabilities, emotions, notes = _ask(network, recording)
        except InvalidAudioError as error:
            problems.append(Problem.of_audio(recording, error))
        else:
            windows.append(probabilities)
            felt.append(emotions)
            used.append(recording)
            remarks += (Remark(recording.name, printable(note)) for note in notes)
        on_progress(index + 1, len(recordings))
    if not used:
        raise DataError(f"no recording can be judged; the first problem: {problems[0].message if problems else 'none'}")
    if not all(np.isfinite(window).all() for window in windows):
        raise TrainingError("the network answers numbers that are not finite: it diverged; lower the learning rate")
    truth = np.array([labels.index(recording.label) for recording in used])
    track = np.stack([window.mean(0) for window in windows])
    felt_track = np.stack([window.mean(0) for window in felt])
    unknown = (np.nan,) * len(EMOTIONS)
    wanted = np.array([recording.emotions or unknown for recording in used])
    per_window = np.concatenate(windows)
    window_truth = np.repeat(truth, [len(window) for window in windows])
    metrics = {
        **genre_metrics(track, truth, labels),
        **emotion_metrics(felt_track, wanted),
        "window": genre_metrics(per_window, window_truth, labels),
        "n_problems": len(problems),
        "problems": [{"path": p.name, "reason": p.reason, "message": p.message} for p in problems],
        "remarks": [{"path": remark.name, "message": remark.message} for remark in remarks],
    }
    return Judgement(metrics, tuple(r.name for r in used), track, truth, felt_track, wanted)


def _ask(network: torch.nn.Module, recording: Recording) -> tuple[FloatMatrix, FloatMatrix, Sequence[str]]:
    """Return (windows, L) probabilities, (windows, 9) emotions and remarks of one recording, read in bounded memory."""
    parts = []
    notes: list[str] = []
    windows = recording.windows(on_note=notes.append)
    with torch.inference_mode():
        while batch := [window.samples for window in islice(windows, _BATCH)]:
            probabilities, emotions, *_ = network(torch.from_numpy(np.stack(batch)))
            parts.append((probabilities.double().numpy(), emotions.double().numpy()))
    return np.concatenate([p for p, _ in parts]), np.concatenate([e for _, e in parts]), notes
