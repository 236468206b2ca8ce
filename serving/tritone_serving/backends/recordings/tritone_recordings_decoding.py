"""Windows of a recording that was sent as a file, within limits of size, length and processor time.

Recordings are decoded and cut by the client's own code, so that a file gets the same windows on the server as in a
client.

Shapes: N windows of W samples (66,150).
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tritone.audio import Window, iter_windows
from tritone.exceptions import InvalidAudioError

Array = np.ndarray[Any, Any]

N_BATCH = 16  # windows of one request to the classifier: 4 MB
CANARY_RATE_HZ = 22_050


class RecordingError(Exception):
    """Raised when a recording cannot be used; the message is sent to the caller."""


class ParameterError(Exception):
    """Raised when a parameter of config.pbtxt is invalid; the message is for the operator."""


@dataclass(frozen=True)
class Limits:
    """Limits of one recording.

    Attributes:
        max_bytes: size of the file.
        max_duration_s: length of the recording.
        max_decode_s: processor time of decoding; a small file may hold hours of silence in many channels, and a search
            for the audio in a large one may take minutes.
    """

    max_bytes: int
    max_duration_s: float
    max_decode_s: float


def read_limits(parameters: dict[str, str]) -> Limits:
    """Return the limits in the parameters of a configuration.

    Raises:
        ParameterError: one is missing or not a number above 0; of bytes, 1 or more.
    """
    values = {}
    for name in ("max_recording_bytes", "max_recording_s", "max_decode_s"):
        text = parameters.get(name, "")
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf") or (name == "max_recording_bytes" and value < 1):
            least = "of 1 or more" if name == "max_recording_bytes" else "above 0"
            raise ParameterError(f"invalid parameter {name}: expected a number {least}, got {text!r}")
        values[name] = value
    return Limits(int(values["max_recording_bytes"]), values["max_recording_s"], values["max_decode_s"])


@dataclass
class Decoding:
    """The decoding of one recording.

    Attributes:
        notes: remarks on the recording, complete after the last batch.
        starts_s: start of each window so far.
        duration_s: length of the recording so far.
    """

    limits: Limits
    notes: list[str] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    duration_s: float = 0.0

    def batches(self, content: bytes) -> Iterator[Array]:
        """Yield the windows of a file, (n, W) float32, up to 16 at a time.

        Raises:
            RecordingError: the recording cannot be used, or exceeds a limit.
        """
        if not content:
            raise _refused("empty", "no bytes were given")
        if len(content) > self.limits.max_bytes:
            raise _refused(
                "too_large", f"expected a file of at most {self.limits.max_bytes} bytes, got {len(content)} bytes"
            )
        batch: list[Window] = []
        for window in self._windows(content):
            batch.append(window)
            if len(batch) == N_BATCH:
                yield self._joined(batch)
                batch = []
        if batch:
            yield self._joined(batch)

    def _joined(self, batch: list[Window]) -> Array:
        self.starts_s += [window.start_s for window in batch]
        self.duration_s = batch[-1].start_s + batch[-1].covers_s
        return np.stack([window.samples for window in batch])

    def _windows(self, content: bytes) -> Iterator[Window]:
        """Yield the windows; the time that the consumer takes does not count."""
        file = _TimedFile(content)
        windows = iter_windows(file, on_note=self.notes.append, max_duration_s=self.limits.max_duration_s)
        left_s = self.limits.max_decode_s
        while True:
            began_s = time.thread_time()
            file.ends_s = began_s + left_s
            try:
                window = next(windows, None)
            except InvalidAudioError as error:
                if file.is_late:
                    raise self._too_costly() from error
                raise _refused(error.reason, str(error).removeprefix(f"{error.path}: ")) from error
            left_s -= time.thread_time() - began_s
            if window is None:
                return
            if left_s < 0:
                raise self._too_costly()
            yield window

    def _too_costly(self) -> RecordingError:
        return _refused(
            "too_costly",
            f"decoding takes longer than {self.limits.max_decode_s:g} s of processor time: expected a usual sample "
            f"rate and number of channels, and little else than audio; convert the recording, or send windows",
        )


class _TimedFile(io.BytesIO):
    """A file in memory that can be read up to a time.

    Files are searched for their streams before there is a window, and some are searched byte by byte. All of that reads
    the file in blocks.

    Attributes:
        ends_s: processor time of the thread after which reading fails.
        is_late: whether it has failed.
    """

    ends_s = float("inf")
    is_late = False

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self.ends_s:
            self.is_late = True
            raise OSError("no time is left")
        return super().read(size)


def canary_recording() -> bytes:
    """Return a second of a tone as a WAV file, which is classified for a canary."""
    import soundfile

    file = io.BytesIO()
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(CANARY_RATE_HZ) / CANARY_RATE_HZ)
    soundfile.write(file, tone.astype(np.float32), CANARY_RATE_HZ, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _refused(reason: str, what: str) -> RecordingError:
    """Return an error whose message begins as the client expects."""
    return RecordingError(f"invalid recording ({reason}): {what}")
