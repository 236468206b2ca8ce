"""Synthetic recordings that even a tiny network can tell apart, and data sets made of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from tritone.constants import EMOTIONS, SAMPLE_RATE_HZ

Samples = npt.NDArray[np.float32]
Array = npt.NDArray[Any]


def hum(seed: int, *, duration_s: float = 3.2, rate_hz: int = SAMPLE_RATE_HZ) -> Samples:
    """A low chord that swells: (S,) float32."""
    random = np.random.default_rng(seed)
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    pitches_hz = random.uniform(60, 240, 3)[:, None]
    chord = np.sin(2 * np.pi * pitches_hz * time_s).sum(0) / 3
    samples: Samples = (0.4 * chord * (0.6 + 0.4 * np.sin(2 * np.pi * random.uniform(0.3, 1) * time_s))).astype(
        np.float32
    )
    return samples


def hiss(seed: int, *, duration_s: float = 3.2, rate_hz: int = SAMPLE_RATE_HZ) -> Samples:
    """Bursts of noise: (S,) float32."""
    random = np.random.default_rng(1_000_000 + seed)
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    bursts = (np.sin(2 * np.pi * random.uniform(2, 5) * time_s) > 0).astype(np.float64)
    samples: Samples = (0.15 * random.standard_normal(time_s.size) * (0.05 + bursts)).clip(-1, 1).astype(np.float32)
    return samples


SOUNDS = {"hum": hum, "hiss": hiss}


def write(path: Path, samples: Samples, rate_hz: int = SAMPLE_RATE_HZ, **how: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, **how)
    return path


def write_folders(root: Path, *, n_each: int, duration_s: float = 3.2) -> Path:
    """`hum/0.wav`, ..., `hiss/0.wav`, ..."""
    for label, sound in SOUNDS.items():
        for index in range(n_each):
            write(root / label / f"{index}.wav", sound(index, duration_s=duration_s))
    return root


def write_manifest(path: Path, rows: Sequence[Mapping[str, object]], *, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def full_rows(root: Path, *, n_each: int) -> list[dict[str, object]]:
    """Rows with artist and emotions for the files of `write_folders`; hums are calm, hisses are tense."""
    random = np.random.default_rng(0)
    rows = []
    for label in SOUNDS:
        for index in range(n_each):
            felt = {f"emotion_{name}": round(random.uniform(0.1, 0.3), 3) for name in EMOTIONS}
            felt["emotion_calmness" if label == "hum" else "emotion_tension"] = 0.9
            assert (root / label / f"{index}.wav").is_file()
            rows.append(
                {"path": f"{label}/{index}.wav", "label": label, "artist": f"{label} {index // 2}", **felt},
            )
    return rows
