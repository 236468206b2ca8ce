"""Training in two real processes: equal weights in both, those of one process with twice the batch."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.torchrun import ROOT, run_on_two_hosts, torchrun
from tests.unit.training import sounds
from tests.unit.training.conftest import N_EACH
from tests.unit.training.small_data import write_log, write_scores, write_sequences

from tritone_training import checkpoint

pytestmark = pytest.mark.slow

WORKER = ROOT / "tests" / "support" / "process_training.py"
# Without dropout, noise and augmentation, and a last batch that cannot be divided evenly where the kind has one.
SETTINGS: dict[str, dict[str, Any]] = {
    "genre_cnn": {"dropout": 0.0, "mixup_alpha": 0.0, "mask_fraction": 0.0, "batch_size": 4, "average_from": 0.0},
    "polyphony_rnn": {"hidden_conditions": 0.0, "batch_size": 3},
    "music_transformer": {"dropout": 0.0, "batch_frames": 200, "epoch_frames": 1000},
    "music_vae": {"word_dropout": 0.0, "edit_share": 0.0, "free_nats": 1.6, "batch_size": 8},
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
# The latents of the GAN are those of a music_vae that differs by rounding.
TOLERANCE = {"music_gan": 2e-3}
KINDS = tuple(SETTINGS)


def train_all(folder: Path, n_processes: int, data: dict[str, Path], *, factors: Sequence[int]) -> Path:
    """Train every kind in so many processes, once for each factor of the batch, into the folder FACTOR/KIND."""
    trainings = {}
    for kind in KINDS:
        name = BATCH.get(kind, "batch_size")
        for factor in factors:
            out = folder / str(factor) / kind  # where `music_gan` finds the `music_vae` of the same factor
            settings = {**SETTINGS[kind], name: SETTINGS[kind][name] * factor}
            trainings[f"{kind} {factor}"] = {
                "kind": kind,
                "factor": factor,
                "arguments": {
                    "data": str(data[kind]), "out": str(out), "preset": "tiny", "settings": settings, "seed": 3,
                },
            }  # fmt: skip
    folder.mkdir()
    specification = {"trainings": trainings, "folder": str(folder)}
    (folder / "specification.json").write_text(json.dumps(specification))
    with torchrun(n_processes, str(WORKER), str(folder / "specification.json")) as process:
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return folder


def uneven(log: Path) -> Path:
    """Leave the last user out, and the last items of every third line, so that the shares of a batch differ in size."""
    lines = [line for line in log.read_text().splitlines() if not line.startswith("u39")]
    if log.suffix == ".txt":
        lines = [line.rsplit(" ", 3)[0] if number % 3 else line for number, line in enumerate(lines)]
    log.write_text("\n".join(lines) + "\n")
    return log


@pytest.fixture(scope="module")
def data(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    scores = write_scores(folder)
    rows = sounds.full_rows(folders, n_each=N_EACH)
    for row in rows[::3]:  # so that processes have different numbers of recordings with emotions
        row.update({name: "" for name in row if name.startswith("emotion_")})
    found = dict.fromkeys(KINDS, scores)
    return {
        **found,
        "genre_cnn": sounds.write_manifest(folders / "partly.csv", rows),
        "taste_vae": uneven(write_log(folder)),
        "taste_sequence": uneven(write_sequences(folder)),
    }


@pytest.fixture(scope="module")
def together(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_all(tmp_path_factory.mktemp("together") / "runs", 2, data, factors=[1])


@pytest.fixture(scope="module")
def alone(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_all(tmp_path_factory.mktemp("alone") / "runs", 1, data, factors=[1, 2])


def epochs(folder: Path) -> Sequence[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_equal_weights(kind: str, first: Path, second: Path) -> None:
    ours, theirs = (checkpoint.load(folder, kind=kind).weights for folder in (first, second))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_both_processes_have_equal_weights_after_each_epoch(kind: str, together: Path) -> None:
    first, second = (json.loads((together / f"digests-{rank}.json").read_text())[f"{kind} 1"] for rank in (0, 1))
    assert first
    assert first == second


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_losses_are_those_of_one_process_with_twice_the_batch(
    kind: str, together: Path, alone: Path
) -> None:
    folders = (together / "1" / kind, alone / "2" / kind)
    assert_equal_weights(kind, *folders)
    losses, expected = map(epochs, folders)
    assert len(losses) == len(expected)
    for row, other in zip(losses, expected, strict=True):
        assert {k: float(v) for k, v in row.items()} == pytest.approx(
            {k: float(v) for k, v in other.items()}, rel=TOLERANCE.get(kind, 1e-4)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_one_process_with_the_same_batch_differ(kind: str, together: Path, alone: Path) -> None:
    """The tolerance of the comparison above is so small that it shows whether the batches of both processes count."""
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        assert_equal_weights(kind, together / "1" / kind, alone / "1" / kind)


def test_two_hosts_with_a_process_each(data: dict[str, Path], tmp_path: Path) -> None:
    training = ("-m", "tritone_training", "train", "taste_vae", "--interactions", str(data["taste_vae"]))
    training = (*training, "--preset", "tiny", "--out", str(tmp_path / "run"))
    ended = run_on_two_hosts(training, training)
    assert [status for status, _ in ended] == [0, 0], ended
    assert ["next: tritone export taste_vae --checkpoint" in output for _, output in ended] == [True, False]
    assert checkpoint.read_info(tmp_path / "run")["n_epochs"] == 2


def test_the_command_of_the_guide(data: dict[str, Path], tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "how-to" / "multi-node.md").read_text()
    (command,) = re.findall(r"```sh\n(.*?)\n```", guide, flags=re.DOTALL)
    name, count, n_processes, *words = shlex.split(command)
    assert (name, count) == ("torchrun", "--nproc-per-node")
    shutil.copy(data["taste_vae"], tmp_path / "plays.csv")
    with torchrun(int(n_processes), *words, "--preset", "tiny", cwd=tmp_path) as launcher:
        output, errors = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, errors
    assert (output + errors).count("checkpoint: runs/taste") == 1
    assert checkpoint.read_info(tmp_path / "runs" / "taste")["command"].startswith("tritone train taste_vae")
