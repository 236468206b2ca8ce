"""Measure the CPU time of an epoch of `taste_vae` by the number of users, on simulated listening, for the cost model.

    python -m benchmarks.train_taste [--sizes 2k,8k,50k] [--out docs/benchmarks] [--json]

The listening is that of `benchmarks.scale_recommender`. The network has the preset `default`: the 20,000 most popular
items, batches of 512 users. An epoch trains on all users and is validated on 4,000 of them. Its time is half of the
difference between a training of three epochs and one of a single epoch, so that starting is not counted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks.scale_recommender import SIZES, peak_mb, simulate

RESULT = "taste-epochs.json"
DEFAULT_SIZES = ("2k", "8k", "50k")
N_VALIDATION = 4_000


def measure(name: str) -> dict[str, Any]:
    """Train for one and for three epochs; return the CPU time of an epoch and the peak memory of this process."""
    n_users, n_items, n_plays = SIZES[name]
    plays = simulate(n_users, n_items, n_plays)
    cpu_s = {n_epochs: _train(plays, n_epochs) for n_epochs in (1, 3)}
    return {
        "size": name,
        "n_users": n_users,
        "n_items": n_items,
        "n_plays": n_plays,
        "epoch_cpu_s": round((cpu_s[3] - cpu_s[1]) / 2, 2),
        "peak_mb": round(peak_mb()),
    }


def _train(plays: sparse.csr_matrix, n_epochs: int) -> float:
    """Return the CPU time of a training."""
    from tritone_training.hyperparameters import from_preset
    from tritone_training.kind import TrainRequest
    from tritone_training.kinds.taste_vae.config import PRESETS
    from tritone_training.kinds.taste_vae.train import TasteData, train_taste

    config = from_preset(PRESETS, "default", {"max_epochs": n_epochs})
    items = [f"item-{number}" for number in range(plays.shape[1])]
    data = TasteData(plays, _held_out(plays), items, sparse.csr_matrix((len(items), 0), dtype=np.float32))
    with tempfile.TemporaryDirectory() as folder:
        request = TrainRequest(out=Path(folder), seed=0, progress=False)
        began_s = time.process_time()
        train_taste(data, config, out=Path(folder), request=request, report={})
        return time.process_time() - began_s


def _held_out(plays: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return (U, I) one item each of `N_VALIDATION` users, drawn by popularity."""
    rng = np.random.default_rng(0)
    users = rng.choice(plays.shape[0], min(N_VALIDATION, plays.shape[0]), replace=False)
    items = rng.choice(plays.indices, len(users))
    return sparse.csr_matrix((np.ones(len(users), np.float32), (users, items)), shape=plays.shape)


def main() -> None:
    """Measure each size in a process of its own, and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(DEFAULT_SIZES), help=f"some of {', '.join(SIZES)}")
    parser.add_argument("--out", type=Path, help=f"folder for {RESULT}")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.sizes.split(",")
    if unknown := sorted(set(names) - set(SIZES)):
        parser.error(f"--sizes: expected some of {', '.join(SIZES)}, got {', '.join(unknown)}")
    rows = []
    for name in names:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (name,)))
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / RESULT).write_text(json.dumps(rows, indent=2) + "\n")
        if not options.json:
            row = rows[-1]
            print(
                f"{row['n_users']:,} users: {row['epoch_cpu_s']} s of CPU an epoch, {row['peak_mb']:,} MB", flush=True
            )
    if options.json:
        sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
