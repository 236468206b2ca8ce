"""Whether lyrics and covers help to recommend tracks without listeners, on simulated data.

Each simulated track has one of three lyrical themes and one of three cover colours; each user prefers one of each. A
fifth of the tracks has no listens in training. The recommender is trained four times: with titles only, with lyrics,
with covers, and with both. The table shows how well it ranks the tracks without listeners that each user listens to
later. As the simulation depends on lyrics and covers, this shows that they are used, not how much they matter.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.arguments import count
from tritone_training import ListeningFiles, load, train

_COLOURS: Final = ((200, 30, 30), (30, 180, 50), (40, 60, 210))
_N_THEMES: Final = 3
_N_TITLES: Final = 300
_N_COLD: Final = 60
_N_TRAIN: Final = 15
_N_HELD_OUT: Final = 3
_PREFERENCE: Final = 2.0  # logarithm of the odds of a track with the preferred theme or colour
COLUMNS: Final = {"titles only": (), "lyrics": ("lyrics",), "covers": ("cover",), "both": ("lyrics", "cover")}


def simulate(folder: Path, *, n_users: int, seed: int) -> list[tuple[str, set[str]]]:
    """Write logs, lyrics and covers; return each user's test tracks, none of which has listeners in training."""
    rng = np.random.default_rng(seed)
    themes, colours = rng.integers(0, _N_THEMES, _N_TITLES), rng.integers(0, len(_COLOURS), _N_TITLES)
    vocabulary = [
        ["".join(chr(97 + c) for c in rng.integers(0, 26, 7)) for _ in range(40)] for _ in range(_N_THEMES + 1)
    ]
    for track in range(_N_TITLES):
        own, common = vocabulary[themes[track]], vocabulary[_N_THEMES]
        lyrics = rng.permutation([*rng.choice(own, 20), *rng.choice(common, 20)])
        (folder / f"{track}.txt").write_text(" ".join(lyrics))
        pixels = np.clip(np.array(_COLOURS[colours[track]]) + rng.normal(0, 30, (32, 32, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{track}.png")
    logs: dict[str, list[tuple[str, str]]] = {"train": [], "valid": []}
    test = []
    for user in range(n_users):
        odds = np.exp(
            _PREFERENCE * ((themes == rng.integers(_N_THEMES)) + 1.0 * (colours == rng.integers(len(_COLOURS))))
        )
        warm, cold = odds[_N_COLD:] / odds[_N_COLD:].sum(), odds[:_N_COLD] / odds[:_N_COLD].sum()
        name = f"user-{user}"
        listened = _N_COLD + rng.choice(_N_TITLES - _N_COLD, _N_TRAIN + _N_HELD_OUT, replace=False, p=warm)
        unheard = rng.choice(_N_COLD, 2 * _N_HELD_OUT, replace=False, p=cold)
        logs["train"] += [(name, f"t{each}") for each in listened[:_N_TRAIN]]
        logs["valid"] += [(name, f"t{each}") for each in (*listened[_N_TRAIN:], *unheard[:_N_HELD_OUT])]
        test.append((name, {f"t{each}" for each in unheard[_N_HELD_OUT:]}))
    for split, rows in logs.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("user", "item"), *rows])
    return test


def measure(folder: Path, test: Sequence[tuple[str, set[str]]], columns: Sequence[str], seed: int) -> dict[str, float]:
    """Train with some columns of the metadata; return NDCG@10 and recall@10 among the tracks without listeners."""
    endings = {"lyrics": "txt", "cover": "png"}
    metadata = folder / f"songs-{'-'.join(columns)}.csv"
    with metadata.open("w", newline="") as file:
        rows = [(f"t{n}", f"{n}", *(f"{n}.{endings[each]}" for each in columns)) for n in range(_N_TITLES)]
        csv.writer(file).writerows([("item", "title", *columns), *rows])
    out = folder / f"run-{'-'.join(columns)}"
    train(
        "recommender",
        out=out,
        preset="tiny",
        interactions=folder / "train.csv",
        listening=ListeningFiles(valid=folder / "valid.csv", metadata=metadata),
        settings={"taste_vae": False, "n_listed": 0},
        seed=seed,
        progress=False,
    )
    unheard = {f"t{n}" for n in range(_N_COLD)}
    discounts = 1 / np.log2(np.arange(2, 12))
    found: list[tuple[float, float]] = []
    with load(out) as music:
        for user, relevant in test:
            ranked = [track for track in music.recommend(user, n=_N_TITLES).track_ids if track in unheard][:10]
            hits: npt.NDArray[np.bool_] = np.array([track in relevant for track in ranked])
            ndcg = float(discounts[: len(hits)] @ hits / discounts[: len(relevant)].sum())
            found.append((ndcg, float(hits.sum()) / len(relevant)))
    ndcg, recall = np.mean(found, axis=0).tolist()
    return {"ndcg@10": ndcg, "recall@10": recall}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=count, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the measurements to a file")
    given = parser.parse_args(arguments)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        test = simulate(Path(name), n_users=given.users, seed=given.seed)
        for what, columns in COLUMNS.items():
            report[what] = measure(Path(name), test, columns, given.seed)
            print(f"{what:12} " + "  ".join(f"{key} {value:.3f}" for key, value in report[what].items()), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
