"""Training in two real processes: equal weights in both, those of one process with twice the batch."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.training.small_data import write_log, write_scores, write_sequences

from tritone_training import checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
WORKER = ROOT / "tests" / "support" / "process_training.py"
# Without dropout, noise and augmentation, and a last batch that cannot be divided evenly where the kind has one.
SETTINGS: dict[str, dict[str, Any]] = {
    "genre_cnn": {"dropout": 0.0, "mixup_alpha": 0.0, "mask_fraction": 0.0, "batch_size": 4, "average_from": 0.0},
    "polyphony_rnn": {"hidden_conditions": 0.0, "batch_size": 3},
    "music_transformer": {"dropout": 0.0, "batch_frames": 200, "epoch_frames": 1000},
    "music_vae": {"word_dropout": 0.0, "edit_share": 0.0, "free_nats": 0.05, "batch_size": 8},
    "music_gan": {"batch_size": 8, "critic_steps": 2, "steps_per_epoch": 3, "n_judged": 64},
    "taste_vae": {"batch_size": 7},
    "taste_sequence": {
        "dropout": 0.0,
        "input_dropout": 0.0,
        "event_dropout": 0.0,
        "item_dropout": 0.0,
        "batch_size": 7,
    },
}
BATCH = {"music_transformer": "batch_frames"}
KINDS = tuple(SETTINGS)


def environment(**more: str) -> dict[str, str]:
    paths = [str(ROOT / each) for each in ("cli", "client", "export", "serving", "training", "gateway")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TRITONE_PROCESSES_TIMEOUT_S": "60",
        **more,
    }


def torchrun(n_processes: int, *command: str, **more: str) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
    return subprocess.Popen(
        [*launcher, *command], env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def train_all(folder: Path, n_processes: int, data: dict[str, Path], *, share: int) -> Path:
    """Train every kind with `share` of the batch in each of so many processes."""
    trainings = {}
    for kind in KINDS:
        name = BATCH.get(kind, "batch_size")
        settings = {**SETTINGS[kind], name: SETTINGS[kind][name] * share}
        trainings[kind] = {
            "data": str(data[kind]), "out": str(folder / kind), "preset": "tiny", "settings": settings, "seed": 3,
        }  # fmt: skip
    folder.mkdir()
    specification = {"trainings": trainings, "folder": str(folder), "share": share}
    (folder / "specification.json").write_text(json.dumps(specification))
    process = torchrun(n_processes, str(WORKER), str(folder / "specification.json"))
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return folder


@pytest.fixture(scope="module")
def data(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    scores = write_scores(folder)
    found = dict.fromkeys(KINDS, scores)
    return {
        **found,
        "genre_cnn": folders,
        "taste_vae": write_log(folder),
        "taste_sequence": write_sequences(folder),
    }


@pytest.fixture(scope="module")
def together(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_all(tmp_path_factory.mktemp("together") / "runs", 2, data, share=1)


@pytest.fixture(scope="module")
def alone(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_all(tmp_path_factory.mktemp("alone") / "runs", 1, data, share=2)


def rows(folder: Path) -> Sequence[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", KINDS)
def test_both_processes_have_equal_weights_after_each_epoch(kind: str, together: Path) -> None:
    first, second = (json.loads((together / f"digests-{rank}.json").read_text())[kind] for rank in (0, 1))
    assert first
    assert first == second


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_losses_are_those_of_one_process_with_twice_the_batch(
    kind: str, together: Path, alone: Path
) -> None:
    ours, theirs = (checkpoint.load(folder / kind, kind=kind).weights for folder in (together, alone))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)
    losses, expected = rows(together / kind), rows(alone / kind)
    assert len(losses) == len(expected)
    for row, other in zip(losses, expected, strict=True):
        assert {k: float(v) for k, v in row.items()} == pytest.approx({k: float(v) for k, v in other.items()}, rel=1e-4)
