"""A small simulated log, and one tiny recommender trained on it for all tests that ask for one."""

from __future__ import annotations

import atexit
import csv
import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tritone_export import ExportResult, export_kind
from tritone_training.artifact_export import ArtifactExport
from tritone_training.data.interactions import ListeningFiles, SimulatedSessions, simulate_sessions
from tritone_training.data.interactions.simulated import SimulatedItem, SimulatedWorld, simulate
from tritone_training.kind import Exportable, TrainRequest
from tritone_training.registry import get_kind

KINDS = ("recommender", "taste_vae", "taste_sequence")
N_USERS = 80
N_ITEMS = 90
N_ORDERED = 120  # pieces of the sessions


@dataclass(frozen=True)
class ServedRecommender:
    """What was exported of a checkpoint."""

    exportable: Exportable | ArtifactExport
    repository: Path
    results: tuple[ExportResult, ...]


@functools.cache
def folder() -> Path:
    """Where everything lies until the tests end."""
    path = Path(tempfile.mkdtemp(prefix="tritone-recommender-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def state_folder() -> Path:
    """Where the keys of what is exported lie."""
    return folder() / "state"


@functools.cache
def world() -> SimulatedWorld:
    """Listeners of invented pieces."""
    rng = np.random.default_rng(5)
    kinds, modes, paces = ("jig", "mass", "reel", "chorale"), ("major", "minor"), ("slow", "fast")
    items = []
    for number in range(N_ITEMS):
        words = tuple(str(rng.choice(each)) for each in (kinds, modes, paces))
        items.append(SimulatedItem(f"piece/{number}", words, {"title": f"{words[0]} no. {number}", "artist": words[1]}))
    return simulate(items, seed=3, n_listeners=N_USERS, mean_items=18)


@functools.cache
def files() -> ListeningFiles:
    """The world as tables with columns of their own names."""
    made, path = world(), folder()
    log = made.log
    pairs = zip(log.user.tolist(), log.item.tolist(), log.plays.tolist(), strict=True)
    _write(path / "plays.tsv", "\t", ("who", "what", "n"), [(log.users[u], log.items[i], int(p)) for u, i, p in pairs])
    _write(path / "friends.csv", ",", ("who", "whom"), made.friends)
    tags = list(zip(made.tags.users, made.tags.items, made.tags.tags, strict=True))
    _write(path / "tags.csv", ";", ("who", "what", "tag"), tags)
    rows = [(item, row["title"], row["artist"]) for item, row in made.metadata.items()]
    _write(path / "pieces.csv", ",", ("id", "title", "artist"), rows)
    return ListeningFiles(
        interactions=path / "plays.tsv",
        friends=path / "friends.csv",
        item_tags=path / "tags.csv",
        metadata=path / "pieces.csv",
        user_column="who",
        item_column="what",
        plays_column="n",
        friend_column="whom",
        tag_column="tag",
    )


@functools.cache
def checkpoint() -> Path:
    """A tiny recommender, trained once."""
    path = folder() / "run"
    get_kind("recommender").train(TrainRequest(out=path, preset="tiny", progress=False, data=files()))
    return path


@functools.cache
def sequences() -> Path:
    """A file with the items of 60 users in order: each item is mostly followed by the next number."""
    rng = np.random.default_rng(1)
    path = folder() / "sequences.txt"
    lines = []
    for user in range(60):
        steps = rng.choice([1, 1, 1, 2, 5], size=int(rng.integers(4, 16)))
        items = np.unique(np.cumsum(steps) + rng.integers(0, 20))
        lines.append(f"user-{user} " + " ".join(f"piece/{item}" for item in items.tolist()))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@functools.cache
def sequence_checkpoint() -> Path:
    """A tiny `taste_sequence`, trained once."""
    path = folder() / "run_sequence"
    request = TrainRequest(out=path, preset="tiny", progress=False, data=ListeningFiles(interactions=sequences()))
    get_kind("taste_sequence").train(request)
    return path


@functools.cache
def served(name: str) -> ServedRecommender:
    """A kind that learns from listening, exported: the recommender, or the network that is trained with it."""
    kind = get_kind(name)
    path = {"recommender": checkpoint, "taste_sequence": sequence_checkpoint}.get(name, lambda: checkpoint() / name)()
    exportable = kind.export(path)
    repository = folder() / f"models_{name}"
    with pytest.MonkeyPatch.context() as patch:  # export puts the users' key where this user's server looks
        patch.setenv("XDG_STATE_HOME", str(state_folder()))
        results = export_kind(exportable, kind, repository=repository)
    return ServedRecommender(exportable, repository, results)


@functools.cache
def sessions() -> SimulatedSessions:
    """Sessions of listeners of invented pieces."""
    rng = np.random.default_rng(5)
    words = (("jig", "mass", "reel", "chorale"), ("major", "minor"), ("slow", "fast"))
    items = [
        SimulatedItem(f"i{n}", tuple(str(rng.choice(each)) for each in words), {"title": f"No. {n}"})
        for n in range(N_ORDERED)
    ]
    return simulate_sessions(items, seed=1, n_listeners=90, mean_sessions=5)


@functools.cache
def sequence_files() -> tuple[Path, Path]:
    """A log with each listener's new items in order, one a line, and a file with the next one of most of them."""
    log = sessions().world.log
    assert log.sequences is not None
    lines, test = [], []
    for row, items in enumerate(log.sequences.items_of(len(log.users))):
        names = list(dict.fromkeys(log.items[item] for item in items.tolist()))
        lines.append(" ".join([log.users[row], *names[:-1]]))
        test.append(f"{log.users[row]} {names[-1]}")
    path = folder() / "sequences"
    path.mkdir(exist_ok=True)
    (path / "train.txt").write_text("\n".join(lines) + "\n")
    (path / "test.txt").write_text("\n".join([*test[:-2], "nobody i1", f"{log.users[-1]} unknown-item"]) + "\n")
    return path / "train.txt", path / "test.txt"


@functools.cache
def ordered_checkpoint() -> Path:
    """A tiny recommender with base models of the order of listening, trained once."""
    path = folder() / "ordered"
    data = ListeningFiles(interactions=sequence_files()[0])
    get_kind("recommender").train(TrainRequest(out=path, preset="tiny", progress=False, data=data))
    return path


def _write(
    path: Path, separator: str, header: tuple[str, ...], rows: list[tuple[object, ...]] | list[tuple[str, str]]
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(header)
        writer.writerows(rows)
