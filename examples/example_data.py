"""Write small example data for the tutorials: recordings, MIDI files and a listening log.

python examples/example_data.py data
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import soundfile

from tritone import Grid, Piece

RATE_HZ = 22_050
SCALE = (0, 2, 4, 5, 7, 9, 11)


def write_recordings(folder: Path) -> None:
    """Write `music/<label>/<number>.wav`: tones, noise and clicks, ten of each; and `song.wav`."""
    random = np.random.default_rng(0)
    times_s = np.arange(int(3.5 * RATE_HZ)) / RATE_HZ
    for number in range(10):
        clicks = (times_s * (2 + number) % 1 < 0.01) * random.uniform(0.4, 0.8)
        sounds = {
            "tone": 0.3 * np.sin(2 * np.pi * (220 + 40 * number) * times_s),
            "noise": 0.1 * random.standard_normal(len(times_s)),
            "clicks": clicks + 0.001 * random.standard_normal(len(times_s)),
        }
        for label, samples in sounds.items():
            (folder / "music" / label).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / "music" / label / f"{number}.wav", samples, RATE_HZ)
    song = 0.3 * np.sin(2 * np.pi * 330 * np.arange(7 * RATE_HZ) / RATE_HZ)
    soundfile.write(folder / "song.wav", song, RATE_HZ)


def write_scores(folder: Path) -> None:
    """Write `midi/<number>.mid`: pieces of four bars of 4/4 for four voices."""
    random = np.random.default_rng(0)
    (folder / "midi").mkdir(parents=True, exist_ok=True)
    for number in range(12):
        frames = np.zeros((64, 88), np.uint8)  # a row for each sixteenth, a column for each key of a piano
        for voice in range(4):
            degree = 7 * (voice + 2)
            for start in range(0, 64, 4):
                degree += int(random.integers(-1, 2))
                key = 12 * (degree // 7) + SCALE[degree % 7]
                frames[start : start + 4, key] = 1  # held
                frames[start, key] = 2  # struck
        Piece(Grid(frames, meter=(16, 0))).save(folder / "midi" / f"{number}.mid")


def write_log(folder: Path) -> None:
    """Write `plays.csv` and `songs.csv`: 40 users, half of whom like reels, half masses."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "plays.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "plays"])
        for user in range(40):
            style = ("reel", "mass")[user % 2]
            for item in sorted(random.choice(20, 9, replace=False)):
                writer.writerow([f"u{user}", f"{style}-{item}", int(random.integers(1, 9))])
    with (folder / "songs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "title", "artist"])
        for style in ("reel", "mass"):
            for item in range(20):
                writer.writerow([f"{style}-{item}", f"{style.title()} no. {item}", f"Composer {item % 5}"])


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "data")
    write_recordings(target)
    write_scores(target)
    write_log(target)
    print(f"wrote {target}/music, {target}/song.wav, {target}/midi, {target}/plays.csv, {target}/songs.csv")
