"""Data sets and one trained checkpoint that the tests of training, evaluation and the command line share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.training import sounds

from tritone_training.kind import ModelKind, TrainRequest
from tritone_training.registry import get_kind

N_EACH = 16


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose more by waiting for a second thread than it computes, above all on a busy host."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def kind() -> ModelKind:
    return get_kind("genre_cnn")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels, 16 recordings of 3.2 s each, nothing known but the label."""
    return sounds.write_folders(tmp_path_factory.mktemp("folders"), n_each=N_EACH)


@pytest.fixture(scope="session")
def manifest(folders: Path) -> Path:
    """The same with artists (two recordings each) and emotions; stands beside the folders under another name."""
    return sounds.write_manifest(folders / "full.csv", sounds.full_rows(folders, n_each=N_EACH))


@dataclass(frozen=True)
class Trained:
    folder: Path
    data: Path
    summary: dict[str, Any]


@pytest.fixture(scope="session")
def trained(kind: ModelKind, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A tiny network that learned genre and emotions, fold 0 held out."""
    out = tmp_path_factory.mktemp("trained") / "run"
    overrides = {"crops_per_recording": 3, "batch_size": 16, "learning_rate": 5e-3, "average_from": 0.0}
    request = TrainRequest(
        out=out,
        data=manifest,
        preset="tiny",
        max_epochs=8,
        overrides=overrides,
        progress=False,
        command="tritone train",
    )
    return Trained(out, manifest, kind.train(request).to_dict())
