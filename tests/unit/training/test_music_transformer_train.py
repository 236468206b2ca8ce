from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.training.music_transformer_pieces import chords

from tritone_training import checkpoint
from tritone_training.data.piece_conditions import unknown
from tritone_training.data.scores import ScorePiece, load_scores
from tritone_training.exceptions import CheckpointError, DataError, TrainingError
from tritone_training.kind import EvaluateRequest, TrainRequest
from tritone_training.kinds.music_transformer import KIND
from tritone_training.kinds.music_transformer.config import PRESETS, network_arguments
from tritone_training.kinds.music_transformer.dataset import TRANSPOSITIONS, PieceSegment, TrainingSegments, collate
from tritone_training.kinds.music_transformer.evaluate import evaluate_network
from tritone_training.kinds.music_transformer.network import MusicTransformer, build_network, load_network
from tritone_training.kinds.music_transformer.notes import N_TOKENS

OVERRIDES = {"learning_rate": 1e-2, "dropout": 0.0, "average_weight": 0.1, "weight_decay": 0.0}


def scale(start: int, n_steps: int) -> list[list[int]]:
    """Two voices, a tenth apart, up and down a scale: what comes next is plain."""
    steps = [0, 2, 4, 5, 7, 9, 11, 12, 11, 9, 7, 5, 4, 2]
    return [[start + 16 + steps[i % 14], start + steps[i % 14]] for i in range(n_steps)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scores") / "scales_quarter.json"
    splits = {"train": [scale(48 + i, 40) for i in range(12)], "valid": [scale(50, 20), scale(55, 33)], "test": []}
    path.write_text(json.dumps(splits))
    return path


@dataclasses.dataclass
class Trained:
    folder: Path
    summary: Any


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    out = tmp_path_factory.mktemp("run") / "run"
    request = TrainRequest(out=out, data=data, preset="tiny", max_epochs=5, overrides=OVERRIDES, progress=False)
    return Trained(out, KIND.train(request).to_dict())


# --- training and evaluation --------------------------------------------------------------------------------


def test_training_learns_and_returns_its_metrics(trained: Trained) -> None:
    metrics = trained.summary["metrics"]["valid"]
    assert (metrics["n_frames"], metrics["n"], metrics["n_in_split"]) == (53, 2, 2)
    # A new network of this size is at about 15 nats; one that knows no more than how often pitches come, at about 7.
    assert metrics["nll_per_frame"] < 5
    assert metrics["log_likelihood_per_frame"] == -metrics["nll_per_frame"]
    info = checkpoint.load(trained.folder, kind="music_transformer").info
    assert info["metrics"]["valid"] == metrics
    assert info["has_onsets"] is False
    assert info["styles"] == []


def test_less_can_be_looked_at(data: Path, tmp_path: Path) -> None:
    overrides = {**OVERRIDES, "valid_frames": 30}
    request = TrainRequest(out=tmp_path, data=data, preset="tiny", max_epochs=1, overrides=overrides, progress=False)
    metrics = KIND.train(request).to_dict()["metrics"]["valid"]
    assert (metrics["n_frames"], metrics["n"], metrics["n_in_split"]) == (20, 1, 2)


def test_evaluate_repeats_what_training_measured(trained: Trained, data: Path, tmp_path: Path) -> None:
    request = EvaluateRequest(trained.folder, data, split="valid", report=tmp_path / "report", progress=False)
    found = KIND.evaluate(request).to_dict()
    expected = trained.summary["metrics"]["valid"]
    assert found["nll_per_frame"] == pytest.approx(expected["nll_per_frame"], rel=1e-5)
    assert (found["n_seen_in_training"], found["n_early_stopping"]) == (0, 2)
    assert found["note_perplexity"] == pytest.approx(np.exp(found["nll_per_frame"] / 2), rel=1e-5)
    assert found["styles"]["scales_quarter"]["n"] == 2
    assert {Path(file).name for file in found["report"]} == {
        "nll_by_style.png", "nll_along_a_piece.png", "held_out_and_written.png", "pieces.csv",
    }  # fmt: skip
    assert all(Path(file).stat().st_size > 0 for file in found["report"])
    rows = (tmp_path / "report" / "pieces.csv").read_text().splitlines()
    nats = sum(int(row.split(",")[2]) * float(row.split(",")[3]) for row in rows[1:])
    assert nats / 53 == pytest.approx(found["nll_per_frame"], rel=1e-3)
    json.dumps(found)
    everything = KIND.evaluate(EvaluateRequest(trained.folder, data, progress=False)).to_dict()
    assert (everything["n"], everything["n_seen_in_training"]) == (14, 12)


def test_a_figure_does_not_depend_on_how_pieces_are_batched(trained: Trained, data: Path) -> None:
    network, _, info = load_network(trained.folder)
    pieces = load_scores(data, progress=False).split("valid")
    together = evaluate_network(network, pieces, info["styles"])
    alone = [evaluate_network(network, [piece], info["styles"]) for piece in pieces]
    nats = sum(each.metrics["nll_per_frame"] * each.metrics["n_frames"] for each in alone)
    assert nats / 53 == pytest.approx(together.metrics["nll_per_frame"], rel=1e-5)


def test_the_same_seed_trains_the_same_network(data: Path, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        request = TrainRequest(out=tmp_path / name, data=data, seed=seed, preset="tiny", max_epochs=1, progress=False)
        KIND.train(request)
        weights.append(checkpoint.load(tmp_path / name, kind="music_transformer").weights["frame.weight"])
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


def test_a_network_that_diverged_is_not_quoted(trained: Trained, data: Path) -> None:
    network, _, info = load_network(trained.folder)
    with torch.no_grad():
        network.frame.weight.fill_(float("nan"))
    with pytest.raises(TrainingError):
        evaluate_network(network, load_scores(data, progress=False).split("valid"), info["styles"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "huge"}, "there are: default"),
        ({"overrides": {"widht": 1}}, "no hyper-parameter widht"),
        ({"overrides": {"n_heads": 3}}, "multiple of n_heads"),
        ({"data": Path("nowhere.mat")}, "no such file"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    request = TrainRequest(out=tmp_path, data=data, preset="tiny", progress=False)
    with pytest.raises(TrainingError, match=message):
        KIND.train(dataclasses.replace(request, **changes))


def test_a_missing_split_is_refused(trained: Trained, data: Path) -> None:
    with pytest.raises(DataError):
        KIND.evaluate(EvaluateRequest(trained.folder, data, split="test", progress=False))


# --- checkpoints --------------------------------------------------------------------------------------------


def test_a_checkpoint_becomes_two_models(trained: Trained) -> None:
    whole = KIND.export(trained.folder)
    (composer,) = whole.companions
    assert (whole.declaration.name, composer.declaration.name) == ("music_transformer", "composer")
    for each in (whole, composer):
        assert each.declaration.parameters["frames_per_quarter"] == "1"
        assert json.loads(each.declaration.parameters["styles"]) == ["any"]
        assert not any(parameter.requires_grad for parameter in each.network.parameters())
        assert "splits" not in each.card
    assert whole.card["metrics"] == trained.summary["metrics"]


def test_what_cannot_be_exported_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        KIND.export(None)
    with pytest.raises(CheckpointError):
        KIND.export(trained.folder, "musicnn")
    saved = checkpoint.load(trained.folder, kind="music_transformer")
    for info, message in (
        ({"styles": None}, "expected a list"),
        ({"config": {"width": "wide"}}, "width: expected a valid integer"),
        ({"config": {**saved.info["config"], "width": 32}}, "do not fit"),
        ({"config": {"colour": 1}}, "invalid entry"),
        ({"frames_per_quarter": None}, "invalid entry"),
    ):
        checkpoint.save(tmp_path, kind="music_transformer", info={**saved.info, **info}, weights=saved.weights)
        checkpoint.update_info(tmp_path, {**checkpoint.load(tmp_path, kind="music_transformer").info, **info})
        with pytest.raises(TrainingError, match=message):
            KIND.export(tmp_path)


# --- configuration ------------------------------------------------------------------------------------------


def test_every_preset_builds_a_network() -> None:
    for config in PRESETS.values():
        network = build_network(config, n_styles=2, onsets=True)
        assert set(network_arguments(config)) == {*MusicTransformer.__init__.__annotations__.keys()} - {
            "n_styles",
            "onsets",
            "return",
        }
        assert sum(parameter.numel() for parameter in network.parameters()) > 0
    assert {"tiny", "default", "demo"} <= set(KIND.presets)


def test_small_sets_get_more_dropout_unless_it_is_said() -> None:
    config = PRESETS["default"]
    small, large = config.fitted_to(14_000).dropout, config.fitted_to(170_000).dropout
    assert small is not None
    assert large is not None
    assert small > large > 0
    assert config.changed(dropout=0.0).fitted_to(14_000).dropout == 0


# --- batches ------------------------------------------------------------------------------------------------


def segments(pieces: list[ScorePiece], **changes: Any) -> list[PieceSegment]:
    """All of one pass."""
    settings: dict[str, Any] = {
        "onsets": True, "n_frames": 64, "n_segments": 100, "batch_frames": 256, "epoch_frames": 1, "transpose": True,
        "given_share": 0.5, "unknown_share": 0.2, "seed": 0,
    }  # fmt: skip
    conditions = [unknown(len(piece.frames)) for piece in pieces]
    made = TrainingSegments(pieces, ("folk",), conditions, **{**settings, **changes})
    return [part for batch in made.batches for part in batch]


def pieces(*lengths: int) -> list[ScorePiece]:
    return [
        ScorePiece(f"{i}", chords(n, seed=i), "train", "folk" if i % 2 else "other", (4, 1))
        for i, n in enumerate(lengths)
    ]


def test_a_pass_covers_every_frame_once() -> None:
    parts = segments(pieces(10, 64, 65, 300, 1))
    assert sum(part.stop - part.start for part in parts) == 440
    assert max(part.stop - part.start for part in parts) <= 64 + 31
    assert all(part.stop > part.start for part in parts)


def test_long_pieces_do_not_outweigh_others() -> None:
    assert len(segments(pieces(10, 3000), n_segments=2)) == 3


def test_batches_are_no_larger_than_asked() -> None:
    all_pieces = pieces(*range(10, 60))
    conditions = [unknown(len(piece.frames)) for piece in all_pieces]
    made = TrainingSegments(
        all_pieces, (), conditions, onsets=True, n_frames=64, n_segments=1, batch_frames=256, epoch_frames=10_000,
        transpose=True, given_share=0.0, unknown_share=0.0, seed=0,
    )  # fmt: skip
    sizes = [made[0].counted.numel() for _ in range(len(made))]
    assert max(sizes) <= 256
    n_frames = sum(range(10, 60))
    assert len(made) * n_frames / sum(range(10, 60)) > 10_000 / 256  # an epoch is as long as asked, whatever the data
    total = sum(int(made[0].counted.sum()) for _ in range(len(made)))
    assert 0.8 * 10_000 < total < 1.2 * 10_000


def test_most_passes_use_a_part_instead_of_the_piece() -> None:
    part = ScorePiece("part", chords(12, seed=7), "train", "folk", (4, 0))
    asked = replace(unknown(12), end=12)
    used = segments(
        pieces(*[20] * 100), excerpt_of=lambda _, *, random: (part, asked), transpose=False, unknown_share=0.0
    )
    parts = [each for each in used if len(each.frames) == 12]
    assert 45 < len(parts) < 75
    assert all(each.conditions.end == 12 and each.meter == (4, 0) for each in parts)
    assert len(segments(pieces(20, 30), excerpt_of=lambda _, *, random: None)) == 2


def test_pieces_are_moved_to_every_key_that_has_room() -> None:
    low = np.zeros((5, 88), np.uint8)
    low[:, 2] = 2
    moved = set()
    for seed in range(60):
        (part,) = segments([ScorePiece("low", low, "train", "folk")], seed=seed)
        (pitch,) = set(np.nonzero(part.frames)[1])
        moved.add(pitch - 2)
    assert moved == {shift for shift in TRANSPOSITIONS if shift >= -2}
    assert {part.frames.tobytes() for part in segments(pieces(20), transpose=False)} == {chords(20, seed=0).tobytes()}


def test_tasks_come_in_their_shares() -> None:
    parts = [part for seed in range(20) for part in segments(pieces(*[80] * 10), seed=seed, n_frames=100)]
    kinds = {"compose": 0, "harmonise": 0, "infill": 0}
    for part in parts:
        modes = set(part.mode[part.start : part.stop])
        kinds["compose" if modes == {0} else "harmonise" if modes == {2} else "infill"] += 1
        assert 0 in modes or modes == {2}  # there is always something to write
    assert 0.4 < kinds["compose"] / len(parts) < 0.6
    assert 0.18 < kinds["harmonise"] / len(parts) < 0.32
    untold = [part.meter == (0, 0) for part in parts]
    assert 0.1 < sum(untold) / len(untold) < 0.3
    assert all(part.mode.max() == 0 for part in segments(pieces(80), given_share=0.0))


def test_what_is_given_of_a_stretch_goes_on_behind_it() -> None:
    frames = chords(60, seed=1)
    part = PieceSegment(frames, 10, 30, (4, 1), 0, np.full(60, 1, np.uint8), unknown(60))
    part.mode[15:25] = 0
    batch = collate([part])
    np.testing.assert_array_equal(batch.given[0, 15:50].numpy(), frames[25:60])
    assert not batch.given[0, 5:15].any()
    assert batch.mode[0, :52].tolist() == [1] * 5 + [0] * 10 + [1] * 35 + [0] * 2
    # The frames behind the gap are known, the ones before it are the past.
    assert batch.counted[0].tolist() == [True] * 15 + [False] * 5
    np.testing.assert_array_equal(batch.shown[0].numpy(), frames[8:30])
    assert int(batch.tokens.max()) < N_TOKENS
