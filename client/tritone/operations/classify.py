"""Classification and embedding of recordings.

Shapes: N windows, W samples of a window, L labels, E embedding size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tritone.arguments import check_model_name, is_whole
from tritone.audio import Audio, FloatArray, Window, iter_windows
from tritone.constants import EMOTION_NOT_TRAINED
from tritone.exceptions import InvalidInputError, RequestTimeoutError, ServerError
from tritone.messages import (
    Array,
    Flow,
    InferRequest,
    InferResponse,
    next_request_id,
)
from tritone.model_cache import CLASSIFIER, CachedModel, ModelCache, checked_output, infer
from tritone.results.classification import Classification, TimelineWindow
from tritone.retry import on_live_versions


@dataclass
class WindowResponses:
    """The responses for the windows of one recording.

    Attributes:
        starts_s: start of each window in the recording, in seconds.
        duration_s: length of the recording.
        notes: remarks on the recording.
        decode_s: seconds spent on decoding.
        request_s: seconds spent on requests.
    """

    starts_s: list[float] = field(default_factory=list)
    duration_s: float = 0.0
    responses: list[InferResponse] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    decode_s: float = 0.0
    request_s: float = 0.0

    def output(self, name: str) -> FloatArray:
        """Return one output for all windows, (N, ...)."""
        return np.concatenate([response.outputs[name] for response in self.responses])


def classify_flow(cache: ModelCache, audio: Audio, *, model: str, top: int | None) -> Flow[Classification]:
    """Classify a recording; see `MusicClient.classify`."""
    check_model_name(model)
    if top is not None and (not is_whole(top) or top < 1):
        raise InvalidInputError(
            f"invalid top: expected a whole number, 1 or more, or None for all labels, got {top!r}", argument="top"
        )

    def start() -> Flow[Classification]:
        known = yield from cache.look_up(model, CLASSIFIER)
        outputs = tuple(
            name for name in ("probabilities", "emotions", "tags", "embedding") if name in known.info.outputs
        )
        collected = yield from _infer_windows(known, audio, outputs)
        return classification_of(known, collected, top)

    return (yield from on_live_versions(cache, (model,), start))


def embed_flow(cache: ModelCache, audio: Audio, *, model: str) -> Flow[FloatArray]:
    """Embed a recording; see `MusicClient.embed`."""
    check_model_name(model)

    def start() -> Flow[FloatArray]:
        known = yield from cache.look_up(model, CLASSIFIER)
        collected = yield from _infer_windows(known, audio, ("embedding",))
        return _mean_direction(collected.output("embedding"))

    return (yield from on_live_versions(cache, (model,), start))


def _infer_windows(known: CachedModel, audio: Audio, outputs: tuple[str, ...]) -> Flow[WindowResponses]:
    collected = WindowResponses()
    batches = _batches(audio, known, collected.notes)
    while True:
        began_s = time.perf_counter()
        batch = next(batches, None)
        collected.decode_s += time.perf_counter() - began_s
        if batch is None:
            return collected
        windows, samples = batch
        request = InferRequest(known.name, next_request_id("classify"), {"audio": samples}, outputs)
        began_s = time.perf_counter()
        try:
            response = yield from infer(known, request)
        except RequestTimeoutError as error:
            if collected.duration_s:
                error.add_note(f"responses for the first {collected.duration_s:.0f} s of the recording had arrived")
            raise
        collected.request_s += time.perf_counter() - began_s
        for name in outputs:
            checked_output(response, name, (len(windows), None))
        collected.responses.append(response)
        collected.starts_s += [window.start_s for window in windows]
        collected.duration_s = windows[-1].start_s + windows[-1].covers_s


def _batches(audio: Audio, known: CachedModel, notes: list[str]) -> Iterator[tuple[list[Window], FloatArray]]:
    """Yield the windows of each request and the (N, W) array to send; holds one such array at a time."""
    windows: list[Window] = []
    for window in iter_windows(audio, on_note=notes.append):
        if window.samples.size != known.window_samples:
            raise ServerError(
                f"model {known.name!r} is of another release than this client: expected windows of "
                f"{window.samples.size} samples, got {known.window_samples}",
                model=known.name,
                reason="unsuitable_model",
            )
        windows.append(window)
        if len(windows) == known.n_windows_max:
            yield windows, np.stack([window.samples for window in windows])
            windows = []
    if windows:
        yield windows, np.stack([window.samples for window in windows])


def classification_of(
    known: CachedModel, collected: WindowResponses, top: int | None, *, version: str | None = None
) -> Classification:
    """Return the result for a recording.

    Args:
        known: the classifier.
        top: number of labels in `probabilities`; all if None.
        version: of the classifier, if another model responded for it.
    """
    probabilities = collected.output("probabilities")
    emotions = collected.output("emotions")
    labels = known.labels("probabilities", probabilities.shape[1])
    emotion_names = known.labels("emotions", emotions.shape[1])
    tags = None
    if all("tags" in response.outputs for response in collected.responses):
        activations = collected.output("tags")
        tags = _ranked(known.labels("tags", activations.shape[1]), activations)
    by_label = _ranked(labels, probabilities)
    has_emotions = not np.all(emotions <= EMOTION_NOT_TRAINED)
    return Classification(
        label=next(iter(by_label)),
        probabilities=dict(list(by_label.items())[:top]),
        emotions=_ranked(emotion_names, emotions) if has_emotions else None,
        tags=tags,
        timeline=tuple(
            TimelineWindow(
                start_s,
                dict(zip(labels, row, strict=True)),
                dict(zip(emotion_names, felt, strict=True)) if has_emotions else None,
            )
            for start_s, row, felt in zip(collected.starts_s, probabilities.tolist(), emotions.tolist(), strict=True)
        ),
        embedding=_mean_direction(collected.output("embedding")),
        model=known.name,
        model_version=collected.responses[-1].version if version is None else version,
        duration_s=collected.duration_s,
        request_ids=tuple(response.request_id for response in collected.responses),
        decode_s=collected.decode_s,
        request_s=collected.request_s,
        notes=tuple(collected.notes),
    )


def _ranked(names: tuple[str, ...], values: Array) -> dict[str, float]:
    """(N, L) -> means over the windows by name, largest first."""
    means: npt.NDArray[np.float64] = values.mean(axis=0, dtype=np.float64)
    return {names[index]: float(means[index]) for index in np.argsort(-means, kind="stable")}


def _mean_direction(embeddings: Array) -> FloatArray:
    """(N, E) unit vectors -> (E,), the unit vector in the direction of their mean."""
    mean = embeddings.mean(axis=0, dtype=np.float64)
    length = float(np.linalg.norm(mean))
    direction: FloatArray = (mean / length if length > 0 else mean).astype(np.float32)
    return direction
