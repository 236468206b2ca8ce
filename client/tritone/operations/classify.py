"""Classification and embedding of recordings.

Shapes: N windows, W samples of a window, L labels, E embedding size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tritone.arguments import check_model_name, is_whole
from tritone.audio import Audio, FloatArray, Window, iter_windows, to_pcm16
from tritone.constants import EMOTION_NOT_TRAINED, AudioFormat
from tritone.exceptions import (
    InvalidAudioError,
    InvalidInputError,
    ModelNotFoundError,
    RequestTimeoutError,
    ServerError,
)
from tritone.messages import (
    Array,
    Flow,
    InferRequest,
    InferResponse,
    next_request_id,
)
from tritone.model_cache import CLASSIFIER, FILE_CLASSIFIER, CachedModel, ModelCache, checked_output, infer
from tritone.operations.classify_files import classify_file
from tritone.pooling import mean_direction
from tritone.results.classification import Classification, TimelineWindow
from tritone.retry import on_live_versions


@dataclass
class WindowResponses:
    """The responses for the windows of one recording.

    Attributes:
        starts_s: start of each window in the recording, in seconds.
        duration_s: length of the recording.
        parts: the responses, each with the rows of this recording.
        notes: remarks on the recording.
        decode_s: seconds spent on decoding.
        request_s: seconds spent on requests; of a request for several recordings, the share of this one.
        error: why the recording cannot be used; None if it can.
    """

    starts_s: list[float] = field(default_factory=list)
    duration_s: float = 0.0
    parts: list[tuple[InferResponse, slice]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    decode_s: float = 0.0
    request_s: float = 0.0
    error: InvalidAudioError | None = None

    def output(self, name: str) -> FloatArray:
        """Return one output for all windows, (N, ...)."""
        return np.concatenate([response.outputs[name][rows] for response, rows in self.parts])

    def add(self, windows: Sequence[Window], response: InferResponse, first_row: int, request_s: float) -> None:
        """Add the rows of a response from `first_row` on, which are for these windows."""
        self.parts.append((response, slice(first_row, first_row + len(windows))))
        self.starts_s += [window.start_s for window in windows]
        self.duration_s = windows[-1].start_s + windows[-1].covers_s
        self.request_s += request_s


# The windows of one request: those of each recording, in order.
_Batch: TypeAlias = "list[tuple[WindowResponses, list[Window]]]"


def classify_flow(
    cache: ModelCache, audio: Audio, *, model: str, top: int | None, audio_format: AudioFormat
) -> Flow[Classification]:
    """Classify a recording; see `MusicClient.classify`."""
    (result,) = yield from classify_group_flow(cache, (audio,), model=model, top=top, audio_format=audio_format)
    if isinstance(result, InvalidAudioError):
        raise result
    return result


def classify_group_flow(
    cache: ModelCache,
    audios: Sequence[Audio],
    *,
    model: str,
    top: int | None,
    audio_format: AudioFormat,
    max_duration_s: float | None = None,
) -> Flow[list[Classification | InvalidAudioError]]:
    """Classify recordings with shared requests; see `MusicClient.classify_group`."""
    check_model_name(model)
    if top is not None and (not is_whole(top) or top < 1):
        raise InvalidInputError(
            f"invalid top: expected a whole number, 1 or more, or None for all labels, got {top!r}", argument="top"
        )

    used = [model]

    def start() -> Flow[list[Classification | InvalidAudioError]]:
        classifier = yield from _look_up(cache, used, audio_format)
        known = classifier.known
        outputs = tuple(
            name for name in ("probabilities", "emotions", "tags", "embedding") if name in known.info.outputs
        )
        recordings = yield from _infer(classifier, audios, outputs, max_duration_s)
        return [each.error or classification_of(known, each, top) for each in recordings]

    return (yield from on_live_versions(cache, used, start))


def embed_flow(cache: ModelCache, audio: Audio, *, model: str, audio_format: AudioFormat) -> Flow[FloatArray]:
    """Embed a recording; see `MusicClient.embed`."""
    check_model_name(model)
    used = [model]

    def start() -> Flow[FloatArray]:
        classifier = yield from _look_up(cache, used, audio_format)
        (recording,) = yield from _infer(classifier, (audio,), ("embedding",))
        if recording.error is not None:
            raise recording.error
        return mean_direction(recording.output("embedding"))

    return (yield from on_live_versions(cache, used, start))


@dataclass
class _Classifier:
    """A classifier, and the model with the same network that takes windows as 16-bit integers.

    Attributes:
        pcm16: None if the server has no such model, or the caller does not want it.
        files: decodes files and calls the classifier; None as `pcm16`.
    """

    cache: ModelCache
    known: CachedModel
    pcm16: CachedModel | None = None
    files: CachedModel | None = None

    def infer(self, windows: Sequence[FloatArray], outputs: tuple[str, ...]) -> Flow[InferResponse]:
        """Return the outputs for windows, as a response of the classifier.

        Windows with samples beyond full scale, which 16-bit integers cannot hold, are sent as floats.
        """
        pcm16 = self.pcm16
        if pcm16 is not None and (whole := to_pcm16(windows)) is not None:
            try:
                response = yield from infer(pcm16, _request(pcm16, whole, outputs))
            except ModelNotFoundError:  # it was unloaded
                self.cache.set_missing(pcm16.name)
                self.pcm16 = None
            else:
                return replace(response, model=self.known.name, version=self.known.version or "")
        return (yield from infer(self.known, _request(self.known, np.stack(windows), outputs)))


def _request(known: CachedModel, samples: Array, outputs: tuple[str, ...]) -> InferRequest:
    return InferRequest(known.name, next_request_id("classify"), {"audio": samples}, outputs)


def _look_up(cache: ModelCache, used: list[str], audio_format: AudioFormat) -> Flow[_Classifier]:
    """Return a classifier.

    Args:
        used: the name of the model; the name of the one for 16-bit integers is added.
    """
    known = yield from cache.look_up(used[0], CLASSIFIER)
    if known.takes_pcm16:
        raise ServerError(
            f"model {known.name!r} takes 16-bit samples: expected the model of the same network that takes floats; "
            f"name that one, and the client will use {known.name!r} for audio_format='int16'",
            model=known.name,
            reason="unsuitable_model",
        )
    del used[1:]
    classifier = _Classifier(cache, known)
    if audio_format == "float32":
        return classifier
    if known.pcm16_model is not None:
        used.append(known.pcm16_model)
        pcm16 = yield from cache.find(known.pcm16_model, CLASSIFIER)
        # During a roll-out, one of the two may already have another network.
        if pcm16 is not None and pcm16.takes_pcm16 and pcm16.is_same_network(known):
            classifier.pcm16 = pcm16
    if audio_format == "file" and known.file_model is not None:
        used.append(known.file_model)
        files = yield from cache.find(known.file_model, FILE_CLASSIFIER)
        if files is not None and files.classifier_model == known.name:
            classifier.files = files
    return classifier


def _infer(
    classifier: _Classifier, audios: Sequence[Audio], outputs: tuple[str, ...], max_duration_s: float | None = None
) -> Flow[list[WindowResponses]]:
    """Run the model on recordings, as files where the server can decode them, and else as windows."""
    if classifier.files is None or max_duration_s is not None:  # the server has a limit of its own
        return (yield from _infer_windows(classifier, audios, outputs, max_duration_s))
    recordings = []
    for audio in audios:
        found = None
        try:
            found = yield from classify_file(classifier.cache, classifier.known, classifier.files, audio, outputs)
        except InvalidAudioError as error:
            recordings.append(WindowResponses(error=error))
            continue
        if found is None:
            recordings += yield from _infer_windows(classifier, (audio,), outputs)
        else:
            recordings.append(
                WindowResponses(
                    starts_s=found.starts_s,
                    duration_s=found.duration_s,
                    parts=[(found.response, slice(None))],
                    notes=found.notes,
                    request_s=found.request_s,
                )
            )
    return recordings


def _infer_windows(
    classifier: _Classifier, audios: Sequence[Audio], outputs: tuple[str, ...], max_duration_s: float | None = None
) -> Flow[list[WindowResponses]]:
    """Run the model on the windows of recordings; a request may have those of several, and a recording several."""
    recordings = [WindowResponses() for _ in audios]
    for batch in _batches(classifier.known, audios, recordings, max_duration_s):
        samples = [window.samples for _, windows in batch for window in windows]
        began_s = time.perf_counter()
        try:
            response = yield from classifier.infer(samples, outputs)
        except RequestTimeoutError as error:
            if recordings[0].duration_s:
                lasts_s = sum(each.duration_s for each in recordings)
                error.add_note(f"responses for the first {lasts_s:.0f} s of audio had arrived")
            raise
        request_s = time.perf_counter() - began_s
        for name in outputs:
            checked_output(response, name, (len(samples), None))
        row = 0
        for recording, windows in batch:
            recording.add(windows, response, row, request_s * len(windows) / len(samples))
            row += len(windows)
    return recordings


def _batches(
    known: CachedModel, audios: Sequence[Audio], recordings: Sequence[WindowResponses], max_duration_s: float | None
) -> Iterator[_Batch]:
    """Yield the windows of each request, and record in `recordings` which of the recordings cannot be used."""
    batch: _Batch = []
    n_windows = 0
    for audio, recording in zip(audios, recordings, strict=True):
        windows: list[Window] = []
        batch.append((recording, windows))
        decoded = iter_windows(audio, on_note=recording.notes.append, max_duration_s=max_duration_s)
        while (window := _next_window(decoded, known, recording)) is not None:
            windows.append(window)
            n_windows += 1
            if n_windows == known.n_windows_max:
                yield batch
                windows, n_windows = [], 0
                batch = [(recording, windows)]
        if recording.error is not None:
            n_windows -= len(windows)
            windows.clear()
        if not windows:
            batch.pop()
    if batch:
        yield batch


def _next_window(decoded: Iterator[Window], known: CachedModel, recording: WindowResponses) -> Window | None:
    """Return the next window; None if there is none, or if the recording cannot be used."""
    began_s = time.perf_counter()
    try:
        window = next(decoded, None)
    except InvalidAudioError as error:
        recording.error = error
        return None
    finally:
        recording.decode_s += time.perf_counter() - began_s
    if window is not None and window.samples.size != known.window_samples:
        raise ServerError(
            f"model {known.name!r} is of another release than this client: expected windows of "
            f"{window.samples.size} samples, got {known.window_samples}",
            model=known.name,
            reason="unsuitable_model",
        )
    return window


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
    if all("tags" in response.outputs for response, _ in collected.parts):
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
        embedding=mean_direction(collected.output("embedding")),
        model=known.name,
        model_version=collected.parts[-1][0].version if version is None else version,
        duration_s=collected.duration_s,
        request_ids=tuple(response.request_id for response, _ in collected.parts),
        decode_s=collected.decode_s,
        request_s=collected.request_s,
        notes=tuple(collected.notes),
    )


def _ranked(names: tuple[str, ...], values: Array) -> dict[str, float]:
    """(N, L) -> means over the windows by name, largest first."""
    means: npt.NDArray[np.float64] = values.mean(axis=0, dtype=np.float64)
    return {names[index]: float(means[index]) for index in np.argsort(-means, kind="stable")}
