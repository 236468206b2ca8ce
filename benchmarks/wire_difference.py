"""Measure how 16-bit samples change the outputs of `genre_cnn` on recordings, in process.

    python -m benchmarks.wire_difference --data FOLDER [--repository DIR] [--recordings N] [--json]

Windows of the folder's recordings are rounded to 16 bits, at full level and attenuated, and classified by the model of
the repository; windows with samples beyond full scale are left out, because clients send them as floats.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from benchmarks.arguments import count
from tritone.audio import iter_windows, to_pcm16
from tritone.constants import GENRE_MODEL, PCM16_FULL_SCALE
from tritone_serving.repository import newest_version

SUFFIXES = (".ogg", ".mp3", ".wav", ".flac")
LEVELS = (1.0, 0.1, 0.01, 0.001)
OUTPUTS = ("probabilities", "emotions", "embedding")
N_WINDOWS = 4  # of each recording
N_BATCH = 16


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of recordings")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--recordings", type=count, default=40)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    version = newest_version(arguments.repository / GENRE_MODEL)
    if version is None:
        sys.exit(
            f"{arguments.repository / GENRE_MODEL}: expected a version, got none; run `tritone export {GENRE_MODEL}`"
        )
    files = sorted(path for path in arguments.data.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        sys.exit(f"{arguments.data}: expected recordings ({', '.join(SUFFIXES)}), got none")
    chosen = files[:: max(1, len(files) // arguments.recordings)][: arguments.recordings]
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    windows = np.stack(
        [window.samples for file in chosen for window in itertools.islice(iter_windows(file), N_WINDOWS)]
    )
    usable = windows[np.abs(windows).max(axis=1) <= 1]
    rows = [{"level": level, **differences(session, usable * np.float32(level))} for level in LEVELS]
    if arguments.json:
        sys.stdout.write(json.dumps({"n_windows": len(usable), "n_beyond": len(windows) - len(usable), "rows": rows}))
        return
    print(f"{len(usable)} windows of {len(chosen)} recordings; {len(windows) - len(usable)} are beyond full scale")
    print(f"{'level':>8}" + "".join(f"{name:>16}" for name in OUTPUTS) + f"{'other label':>14}")
    for row in rows:
        print(f"{row['level']:8g}" + "".join(f"{row[name]:16.1e}" for name in OUTPUTS) + f"{row['n_other_labels']:14}")


def differences(session: onnxruntime.InferenceSession, windows: npt.NDArray[np.float32]) -> dict[str, float | int]:
    """Return the largest difference of each output, and the number of windows that get another label."""
    rounded = to_pcm16(list(windows))
    if rounded is None:
        sys.exit("expected samples within full scale")
    before, after = (run(session, each) for each in (windows, rounded.astype(np.float32) / PCM16_FULL_SCALE))
    labels = (each["probabilities"].argmax(axis=1) for each in (before, after))
    return {
        **{name: float(np.abs(before[name] - after[name]).max()) for name in OUTPUTS},
        "n_other_labels": int(np.not_equal(*labels).sum()),
    }


def run(session: onnxruntime.InferenceSession, windows: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the outputs by name, computed in batches."""
    parts = [session.run(OUTPUTS, {"audio": windows[i : i + N_BATCH]}) for i in range(0, len(windows), N_BATCH)]
    return {name: np.concatenate(each) for name, each in zip(OUTPUTS, zip(*parts, strict=True), strict=True)}


if __name__ == "__main__":
    main()
