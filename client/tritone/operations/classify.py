"""From a recording to requests, and from their responses to a result: the flows of `classify` and `embed`.

Shapes: N windows, W samples of a window, L labels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tritone.audio import Audio, FloatArray, Window, iter_windows
from tritone.constants import EMOTION_NOT_TRAINED
from tritone.exceptions import RequestTimeoutError, ServerError, VersionChangedError
from tritone.messages import Array, InferRequest, InferResponse
from tritone.model_cache import (
    AUDIO_INPUT,
    LABELLED,
    Catalogue,
    Flow,
    Remembered,
    check_version,
    next_request_id,
    on_live_versions,
)
from tritone.operations.whole_answers import whole_answer
from tritone.results.classification import Classification, TimelineWindow


@dataclass
class _Heard:
    """What the requests for one recording have brought so far."""

    starts_s: list[float] = field(default_factory=list)
    duration_s: float = 0.0
    answers: list[InferResponse] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    decode_s: float = 0.0
    request_s: float = 0.0

    def output(self, name: str) -> FloatArray:
        """(N, ...) of one output, all windows in order."""
        return np.concatenate([answer.outputs[name] for answer in self.answers])


def classify_flow(catalogue: Catalogue, audio: Audio, *, model: str, top: int | None) -> Flow[Classification]:
    """The flow of `MusicClient.classify`."""

    def attempt() -> Flow[Classification]:
        known = yield from catalogue.look_up(model, labels=True)
        heard = yield from _listen(known, audio, _outputs(known))
        return _classification(known, heard, top)

    return (yield from on_live_versions(lambda: catalogue.forget(model), attempt))


def embed_flow(catalogue: Catalogue, audio: Audio, *, model: str) -> Flow[FloatArray]:
    """The flow of `MusicClient.embed`."""

    def attempt() -> Flow[FloatArray]:
        known = yield from catalogue.look_up(model, labels=False)
        heard = yield from _listen(known, audio, _outputs(known))
        return _mean_direction(heard.output("embedding"))

    return (yield from on_live_versions(lambda: catalogue.forget(model), attempt))


def _outputs(known: Remembered) -> tuple[str, ...]:
    """What every question about a recording asks for.

    Triton's response cache knows answers by the inputs alone: after a question for the embedding only, it would give
    `classify` an answer without probabilities, and the question would have to be put twice (`whole_answer`).
    """
    return tuple(name for name in known.info.outputs if name in (*LABELLED, "embedding"))


def _listen(known: Remembered, audio: Audio, outputs: tuple[str, ...]) -> Flow[_Heard]:
    heard = _Heard()
    chunks = _chunks(audio, known, heard.notes)
    while True:
        began_s = time.perf_counter()
        chunk = next(chunks, None)
        heard.decode_s += time.perf_counter() - began_s
        if chunk is None:
            return heard
        windows, batch = chunk
        inputs = {AUDIO_INPUT: batch}
        request = InferRequest(known.info.model, next_request_id("listen"), inputs, outputs, version=known.version)
        began_s = time.perf_counter()
        try:
            response = yield from whole_answer(request, known.info.max_batch_size)
        except RequestTimeoutError as error:
            if heard.duration_s:
                error.add_note(f"{heard.duration_s:.0f} s of the recording had been answered")
            raise
        heard.request_s += time.perf_counter() - began_s
        check_version(known.version, response)
        _check_numbers(response, outputs, len(windows))
        heard.answers.append(response)
        heard.starts_s += [window.start_s for window in windows]
        heard.duration_s = windows[-1].start_s + windows[-1].covers_s


def _chunks(audio: Audio, known: Remembered, notes: list[str]) -> Iterator[tuple[list[Window], FloatArray]]:
    """Windows by the requestful, with the (N, W) array to send; at most one such array is alive here."""
    windows: list[Window] = []
    for window in iter_windows(audio, on_note=notes.append):
        if window.samples.size != known.window_samples:
            raise ServerError(
                f"model {known.info.model!r} wants windows of {known.window_samples} samples, this client "
                f"cuts {window.samples.size}; client and model are of different releases",
                model=known.info.model,
            )
        windows.append(window)
        if len(windows) == known.n_windows_max:
            yield windows, np.stack([window.samples for window in windows])
            windows = []
    if windows:
        yield windows, np.stack([window.samples for window in windows])


def _check_numbers(response: InferResponse, outputs: tuple[str, ...], n_windows: int) -> None:
    for name in outputs:
        array = response.outputs[name]
        finite = bool(np.isfinite(array).all())
        if array.ndim != 2 or len(array) != n_windows or not finite:
            raise ServerError(
                f"model {response.model!r} version {response.version} answered {name!r} of shape "
                f"{array.shape}{'' if finite else ' with values that are not finite'}; "
                f"expected ({n_windows}, ...) finite numbers",
                model=response.model,
                request_id=response.request_id,
            )


def _classification(known: Remembered, heard: _Heard, top: int | None) -> Classification:
    labels = known.labels or {}
    for name, names in labels.items():
        if heard.output(name).shape[1] != len(names):
            # The same version number, loaded again with other contents.
            n_values = heard.output(name).shape[1]
            raise VersionChangedError(
                f"model {known.info.model!r} answers {n_values} {name} but names {len(names)}",
                model=known.info.model,
            )
    probabilities = heard.output("probabilities")
    emotions = heard.output("emotions")
    by_label = _ranked(labels["probabilities"], probabilities)
    return Classification(
        label=next(iter(by_label)),
        probabilities=dict(list(by_label.items())[:top]),
        emotions=None if np.all(emotions <= EMOTION_NOT_TRAINED) else _ranked(labels["emotions"], emotions),
        tags=_ranked(labels["tags"], heard.output("tags")) if "tags" in labels else None,
        timeline=tuple(
            TimelineWindow(start_s, dict(zip(labels["probabilities"], row, strict=True)))
            for start_s, row in zip(heard.starts_s, probabilities.tolist(), strict=True)
        ),
        embedding=_mean_direction(heard.output("embedding")),
        model=known.info.model,
        model_version=heard.answers[-1].version,
        duration_s=heard.duration_s,
        request_ids=tuple(answer.request_id for answer in heard.answers),
        decode_s=heard.decode_s,
        request_s=heard.request_s,
        notes=tuple(heard.notes),
    )


def _ranked(names: tuple[str, ...], values: Array) -> dict[str, float]:
    """(N, L) -> means over the windows by name, the largest first."""
    means: npt.NDArray[np.float64] = values.mean(axis=0, dtype=np.float64)
    return {names[index]: float(means[index]) for index in np.argsort(-means, kind="stable")}


def _mean_direction(embeddings: Array) -> FloatArray:
    """(N, E) unit vectors -> (E,), the unit vector of their mean."""
    mean = embeddings.mean(axis=0, dtype=np.float64)
    length = float(np.linalg.norm(mean))
    direction: FloatArray = (mean / length if length > 0 else mean).astype(np.float32)
    return direction
