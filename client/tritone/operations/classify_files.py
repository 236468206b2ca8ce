"""Classification of recordings that are sent as files and decoded by the server.

Shapes: N windows, L labels.
"""

from __future__ import annotations

import io
import os
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from tritone.audio import Audio, describe
from tritone.constants import CLASSIFIER_VERSION
from tritone.exceptions import InvalidAudioError, ModelNotFoundError, RequestRejectedError
from tritone.messages import Flow, InferRequest, InferResponse, next_request_id
from tritone.model_cache import CachedModel, ModelCache, checked_output, infer

# How the backend `recordings` begins the refusal of a recording.
_REFUSAL: Final = re.compile(r"invalid recording \((\w+)\): (.*?)(; the request does not fit the model.*)?$", re.S)
# The client itself can classify such recordings, in parts.
_LIMITS: Final = frozenset({"too_large", "too_long", "too_costly"})


@dataclass(frozen=True)
class FileResponse:
    """The response for one recording, as of the classifier.

    Attributes:
        response: `probabilities`, `emotions` and `tags` of each window, and one `embedding`.
        starts_s: start of each window in the recording, in seconds.
        duration_s: length of the recording.
        notes: remarks on the recording.
        request_s: seconds spent on the request.
    """

    response: InferResponse
    starts_s: list[float]
    duration_s: float
    notes: list[str] = field(default_factory=list)
    request_s: float = 0.0


def file_content(audio: Audio, max_bytes: int) -> bytes | None:
    """Return the bytes of a file; None for samples, and for a file that cannot be read or exceeds `max_bytes`."""
    try:
        if isinstance(audio, bytes | bytearray | memoryview):
            return bytes(audio) if 0 < memoryview(audio).nbytes <= max_bytes else None
        if isinstance(audio, str | os.PathLike):
            path = Path(audio)
            return path.read_bytes() if path.is_file() and 0 < path.stat().st_size <= max_bytes else None
        if isinstance(audio, tuple) or not getattr(audio, "seekable", lambda: False)():
            return None
        size = audio.seek(0, io.SEEK_END)
        audio.seek(0)
        content = audio.read() if 0 < size <= max_bytes else None
        return content if isinstance(content, bytes) else None
    except (OSError, ValueError):
        return None  # decoding it in the client says what is wrong


def classify_file(
    cache: ModelCache, known: CachedModel, files: CachedModel, audio: Audio, outputs: tuple[str, ...]
) -> Flow[FileResponse | None]:
    """Classify a recording that is sent as a file.

    Args:
        known: the classifier.
        files: the model that decodes files and calls the classifier.
        outputs: of the classifier.

    Returns:
        None if the recording has to be decoded by the client: it is not a file, or beyond a limit of the server.

    Raises:
        InvalidAudioError: the server cannot use the recording.
    """
    content = file_content(audio, files.max_recording_bytes)
    if content is None or known.version is None or not set(outputs) <= files.info.outputs.keys():
        return None
    request = InferRequest(
        files.name,
        next_request_id("classify"),
        {"recording": np.array([[content]], np.object_)},
        (*outputs, "start_s", "duration_s", "notes"),
        parameters={CLASSIFIER_VERSION: known.version},
    )
    began_s = time.perf_counter()
    try:
        response = yield from infer(files, request)
    except ModelNotFoundError:  # it was unloaded
        cache.set_missing(files.name)
        return None
    except RequestRejectedError as error:
        refusal = _REFUSAL.search(str(error))
        if refusal is None:
            raise
        if refusal[1] in _LIMITS:
            return None
        name = describe(audio)
        raise InvalidAudioError(f"{name}: {refusal[2]}", path=name, reason=refusal[1]) from error
    request_s = time.perf_counter() - began_s
    starts_s = checked_output(response, "start_s", (1, None))[0]
    for output in outputs:
        checked_output(response, output, (1, None) if output == "embedding" else (1, len(starts_s), None))
    rows = {
        output: response.outputs[output] if output == "embedding" else response.outputs[output][0] for output in outputs
    }
    return FileResponse(
        replace(response, model=known.name, version=known.version, outputs=rows),
        starts_s.tolist(),
        float(checked_output(response, "duration_s", (1, 1))[0, 0]),
        [line for text in np.ravel(response.outputs.get("notes", "")) for line in str(text).splitlines()],
        request_s,
    )
