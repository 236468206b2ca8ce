"""Time, CPU time and peak memory of `tritone train` with the default presets, on the data of the benchmarks page.

    python -m benchmarks.train_presets --data ../shared/data                  (hours)
    python -m benchmarks.train_presets --data ../shared/data --kinds genre_cnn taste_sequence
    python -m benchmarks.train_presets --data ../shared/data --epochs 2 --json

Kinds are trained one after another, each by the command that the table shows. `--epochs` shortens all trainings, which
then measure the cost of an epoch and of what comes before the first. The data sets are not part of the repository;
docs/benchmarks/index.md describes their folders. Peak memory is that of the training process, without processes that it
starts.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.arguments import count

_LISTENS = (
    "--interactions {data}/lastfm/user_artists_train.dat --user-column userID --item-column artistID "
    "--plays-column weight"
)
# Options of `tritone train`; {data} is the folder of the data sets.
RUNS = {
    "genre_cnn": "--data {data}/emotify --fold 0",
    "taste_sequence": "--data {data}/lastfm_sequences/train.txt",
    "taste_vae": _LISTENS,
    "recommender": f"{_LISTENS} "
    "--valid {data}/lastfm/user_artists_valid.dat --friends {data}/lastfm/user_friends.dat --friend-column friendID "
    "--item-tags {data}/lastfm/user_taggedartists.dat --tag-column tagID",
    "polyphony_rnn": "--data {data}/polymusic/JSB_Chorales.mat",
    "music_transformer": "--data {data}/polymusic/JSB_Chorales.mat",
    "music_vae": "",
    "music_gan": "",
}
NO_EPOCHS = ("recommender",)  # has no single number of epochs to limit


@dataclass(frozen=True)
class Training:
    """One training that was measured.

    Attributes:
        arguments: of `tritone`, with the folder of the data as `{data}`.
        n_epochs: of the weights that are kept; None where the kind does not count them.
        cpu_s: user and system time.
        peak_bytes: largest resident memory.
    """

    kind: str
    arguments: str
    n_epochs: int | None
    wall_s: float
    cpu_s: float
    peak_bytes: int


def train(kind: str, data: Path, n_epochs: int | None) -> Training:
    """Train a kind's default preset, for all its epochs or for some.

    Raises:
        SystemExit: the command failed.
    """
    arguments = f"train {kind} {RUNS[kind]}".strip()
    if n_epochs is not None and kind not in NO_EPOCHS:
        arguments += f" --max-epochs {n_epochs}"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        out = Path(folder) / kind
        words = [word.format(data=data) for word in shlex.split(arguments)]
        began_s = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "tritone_cli", *words, "--out", str(out)], stdout=log, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(f"tritone {arguments} failed:\n{log.read()[-3000:].decode(errors='replace')}")
        info = json.loads((out / "checkpoint.json").read_text())
    return Training(
        kind, arguments, info.get("n_epochs"), wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    )


def row_of(training: Training) -> str:
    """Return the training as a row of a Markdown table."""
    epochs = "-" if training.n_epochs is None else str(training.n_epochs)
    peak_gb = training.peak_bytes / 1e9
    minutes = f"{training.wall_s / 60:.1f} min | {training.cpu_s / 60:.1f} min"
    return f"| `{training.kind}` | {epochs} | {minutes} | {peak_gb:.2f} GB | `tritone {training.arguments}` |"


def main() -> None:
    """Train the kinds, and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--kinds", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--epochs", type=count, help="instead of the preset's")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.json:
        print("| kind | epochs | time | CPU time | peak memory | command |\n|---|---|---|---|---|---|", flush=True)
    trainings: list[dict[str, Any]] = []
    for kind in arguments.kinds:
        training = train(kind, arguments.data, arguments.epochs)
        trainings.append(asdict(training))
        if not arguments.json:
            print(row_of(training), flush=True)
    if arguments.json:
        json.dump({"n_cores": len(os.sched_getaffinity(0)), "trainings": trainings}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
