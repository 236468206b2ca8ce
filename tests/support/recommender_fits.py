"""Small fits of the recommender in many parts, and the comparison of two checkpoints."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import recommender_models

from tritone_training.data.interactions import ListeningFiles
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.ensemble import model_selection, offline
from tritone_training.kinds.recommender.fitting import base_models, factorization, neighbourhoods, order, tables
from tritone_training.registry import get_kind

LOGS = ("tagged", "timed")
# Differ from one training to the next, or say how it was run.
_OWN = {"created_utc", "seconds", "engine", "fit", "command"}


def cut_small(patch: pytest.MonkeyPatch) -> None:
    """Cut small data into several parts."""
    patch.setattr(neighbourhoods, "_MOST_ENTRIES", 500)
    patch.setattr(neighbourhoods, "_SOLVED_BY_TASK", 16)
    patch.setattr(tables, "_BLOCK", 16)
    patch.setattr(tables, "_MOST_PRODUCTS", 4_000)
    patch.setattr(tables, "_MOST_USERS", 20)
    patch.setattr(factorization, "_MOST_ENTRIES", 600)
    patch.setattr(order, "_STEPS_OF_TASK", 2_000)
    patch.setattr(offline, "_RANKED_BY_TASK", 30)
    patch.setattr(model_selection, "AT_ONCE", 10)
    patch.setattr(model_selection, "_BATCHES_BY_TASK", 2)


def request(log: str, folder: Path, name: str, **changes: Any) -> TrainRequest:
    """Return the request of a fit: of a log with tags and friends among all items, or with times among neighbours."""
    key = folder / "users.key"
    if log == "tagged":
        data = replace(recommender_models.files(), key=key)
        overrides = {}
    else:
        data = ListeningFiles(interactions=_timed_log(folder), key=key)
        overrides = {"ease_most_items": 10}
    overrides |= {"taste_vae_epochs": 1, "taste_sequence_epochs": 1}
    return TrainRequest(out=folder / name, preset="tiny", progress=False, data=data, overrides=overrides, **changes)


def train(wanted: TrainRequest) -> Path:
    """Train in parts; return the checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        cut_small(patch)
        patch.setattr(base_models, "MOST_DUAL_USERS", 10)
        get_kind("recommender").train(wanted)
    return wanted.out


def engine_use(checkpoint: Path) -> dict[str, Any]:
    """Return the engine of a checkpoint and what it used."""
    used: dict[str, Any] = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))["engine"]
    return used


def assert_equal_checkpoints(expected: Path, found: Path) -> None:
    """Check that two checkpoints hold the same files: floats to 1e-9, all else exactly."""
    names = _files(expected)
    assert names == _files(found)
    assert {"artifact/ease.values.npy", "artifact/recommender.json", "checkpoint.json"} <= names
    for name in sorted(names):
        if name.endswith(".npy"):
            np.testing.assert_allclose(np.load(found / name), np.load(expected / name), rtol=1e-9, atol=0, err_msg=name)
        elif name.endswith(".json"):
            _assert_alike(_comparable(expected / name), _comparable(found / name), name)
        else:
            assert (found / name).read_bytes() == (expected / name).read_bytes(), name


def _files(checkpoint: Path) -> set[str]:
    """Return the files of a checkpoint without logs, which are named by the time."""
    paths = (path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())
    return {str(path) for path in paths if "logs" not in path.parts}


def _assert_alike(expected: Any, found: Any, where: str) -> None:
    if isinstance(expected, dict):
        assert expected.keys() == found.keys(), where
        for name, value in expected.items():
            _assert_alike(value, found[name], f"{where}: {name}")
    elif isinstance(expected, list):
        assert len(expected) == len(found), where
        for number, value in enumerate(expected):
            _assert_alike(value, found[number], f"{where}: {number}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=0), where
    else:
        assert found == expected, where


def _comparable(path: Path) -> Any:
    value = json.loads(path.read_text(encoding="utf-8"))
    return {name: each for name, each in value.items() if name not in _OWN} if isinstance(value, dict) else value


def _timed_log(folder: Path) -> Path:
    """Write the log of 70 users of two tastes, with the time of each listen."""
    path = folder / "timed.csv"
    if path.exists():
        return path
    random = np.random.default_rng(3)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time"])
        for user in range(70):
            first, half = 40 * (user % 2), 60
            for step, item in enumerate(random.integers(0, half, int(random.integers(8, 30))).tolist()):
                writer.writerow([f"u{user}", f"i{first + item}", 1_600_000_000 + 86_400 * user % 50 + 300 * step])
    return path
