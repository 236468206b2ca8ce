"""Little data of each kind, generated in an instant."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np


def write_scores(folder: Path) -> Path:
    """Write pieces of eight bars, a note that changes over a held fifth, as JSB-style JSON."""
    random = np.random.default_rng(0)

    def piece() -> list[list[int]]:
        root = int(random.integers(48, 60))
        return [[root, root + 7, root + 12 + int(random.integers(0, 8))] for _ in range(8 * 16)]

    path = folder / "Tiny16thSeparated.json"
    path.write_text(json.dumps({"train": [piece() for _ in range(8)], "valid": [piece() for _ in range(4)]}))
    return path


def write_log(folder: Path, *, n_items: int = 40) -> Path:
    """Write the log of 40 users in two groups with a taste each."""
    random = np.random.default_rng(0)
    path = folder / "plays.csv"
    half = n_items // 2
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "plays"])
        for user in range(40):
            for item in sorted(random.choice(half, 9, replace=False)):
                writer.writerow([f"u{user}", f"i{item + half * (user % 2)}", int(random.integers(1, 9))])
    return path


def write_sequences(folder: Path, *, n_items: int = 40) -> Path:
    """Write lines `user item item ...` of 40 users, whose items mostly follow one another in number."""
    random = np.random.default_rng(0)
    path = folder / "sequences.txt"
    lines = []
    for user in range(40):
        items = (int(random.integers(n_items)) + np.cumsum(random.choice([1, 1, 1, 2, 3], 8))) % n_items
        lines.append(f"u{user} " + " ".join(f"i{item}" for item in items.tolist()))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
