"""Recordings of a tone as audio files."""

from __future__ import annotations

import io

import numpy as np
import soundfile

RATE_HZ = 22_050


def tone_file(duration_s: float = 5.0, file_format: str = "OGG") -> bytes:
    """Return a tone of 175 Hz as the content of an audio file."""
    file = io.BytesIO()
    samples = 0.5 * np.sin(np.arange(int(duration_s * RATE_HZ)) / 20)
    soundfile.write(file, samples, RATE_HZ, format=file_format)
    return file.getvalue()
