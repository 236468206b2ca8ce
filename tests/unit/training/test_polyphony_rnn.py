from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.io import savemat
from tests.support import music_models
from tests.support.cache import copy_cached
from tests.unit.training.polyphony_pieces import piece_of

from tritone_export import check_repository, export_kind
from tritone_export.parity import open_session
from tritone_training import CheckpointError, DataError, TrainingError, checkpoint
from tritone_training.data.scores import ScorePiece, ScoreSet, load_scores
from tritone_training.generation import choose_each
from tritone_training.kind import EvaluateRequest, TrainRequest
from tritone_training.kinds.polyphony_rnn import KIND, dataset
from tritone_training.kinds.polyphony_rnn.config import PRESETS, PolyphonyConfig
from tritone_training.kinds.polyphony_rnn.declaration import SAMPLER
from tritone_training.kinds.polyphony_rnn.evaluate import evaluate_network
from tritone_training.kinds.polyphony_rnn.examples import example_sampler_inputs
from tritone_training.kinds.polyphony_rnn.export import exportable
from tritone_training.kinds.polyphony_rnn.features import (
    ECHOES,
    N_LAGS,
    N_PITCH_FEATURES,
    FeatureExtractor,
    FrameFeatures,
    FrameHistory,
)
from tritone_training.kinds.polyphony_rnn.network import (
    PieceScorer,
    PolyphonyNetwork,
    Sampler,
    build_network,
    frame_nll,
    load_network,
)

DATA = Path(__file__).parents[4] / "shared" / "data" / "polymusic"
SOUNDING, AGE, FIRST_ECHO = 0, 1, N_PITCH_FEATURES - len(ECHOES)


def chords(n_frames: int, seed: int, *, period: int = 6) -> npt.NDArray[np.uint8]:
    """(n_frames, 88): a round of `period` three-note chords, a frame each."""
    random = np.random.default_rng(seed)
    around = np.zeros((period, 88), np.uint8)
    for row in around:
        row[random.choice(np.arange(20, 60), 3, replace=False)] = 1
    return np.resize(around, (n_frames, 88))


def write_mat(path: Path, parts: Mapping[str, list[npt.NDArray[np.uint8]]]) -> Path:
    cells = {}
    for split, rolls in parts.items():
        cell = np.empty((1, len(rolls)), object)
        cell[0, :] = rolls
        cells[f"{split}data"] = cell
    savemat(path, cells)
    return path


def small_network(seed: int = 0) -> PolyphonyNetwork:
    """Random weights, and notes likely enough that something happens; without a decoder, as in earlier versions."""
    torch.manual_seed(seed)
    network = PolyphonyNetwork(units=6, hidden=5, reach=3, width=0).eval().requires_grad_(False)
    network.out.bias.fill_(-2.0)
    network.height.normal_()
    return network


def heard_of(notes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """FrameFeatures before each frame of (B, T, 88): (B, T, C, 88) and (B, T, G)."""
    extractor = FeatureExtractor()
    history, features = extractor.silence(notes[:, 0])
    pitch, frame = [], []
    for each in notes.unbind(1):
        pitch.append(features.pitch)
        frame.append(features.frame)
        history, features = extractor(history, each)
    return torch.stack(pitch, 1), torch.stack(frame, 1)


# --- what is history -------------------------------------------------------------------------------------------------


def after(frames: npt.NDArray[np.uint8]) -> tuple[FrameHistory, FrameFeatures]:
    extractor = FeatureExtractor()
    notes = torch.from_numpy(frames).float()
    history, features = extractor.silence(notes[:1])
    for each in notes:
        history, features = extractor(history, each[None])
    return history, features


def test_age_and_sounding_follow_each_pitch() -> None:
    frames = np.zeros((5, 88), np.uint8)
    frames[1:5, 40] = 1
    frames[3, 50] = 1
    history, features = after(frames)
    assert history.age[0, [40, 50, 60]].tolist() == [4, 0, 0]
    assert features.pitch[0, SOUNDING, [40, 50]].tolist() == [1, 0]
    assert features.pitch[0, AGE, 40].item() == pytest.approx(0.7 * math.log(5))


def test_the_echo_expects_what_followed_a_like_passage() -> None:
    frames = chords(40, seed=1, period=7)
    _, features = after(frames[:30])
    following = torch.from_numpy(frames[30]) > 0
    for echo in features.pitch[0, FIRST_ECHO:]:
        assert (echo[following] > 0.9).all()
        assert (echo[~following] < 0.1).all()
    never = np.eye(88, dtype=np.uint8)[20:50]  # a scale: no frame is like another
    _, features = after(never)
    assert features.pitch[0, FIRST_ECHO:].max() < 0.1


def test_nothing_beyond_the_lags_has_an_effect() -> None:
    late = chords(N_LAGS + 40, seed=2)
    other = late.copy()
    other[0] = chords(1, seed=3)
    for a, b in zip(after(late)[0], after(other)[0], strict=True):
        torch.testing.assert_close(a, b, atol=1e-2, rtol=0)  # traces fade, they do not end
    assert torch.equal(after(late)[0].past, after(other)[0].past)


def test_transposing_a_piece_transposes_its_features() -> None:
    notes = torch.from_numpy(chords(30, seed=4)).float()[None]
    pitch, frame = heard_of(notes)
    shifted_pitch, shifted_frame = heard_of(dataset.transposed(notes, 5))
    torch.testing.assert_close(shifted_pitch, dataset.transposed(pitch, 5))
    torch.testing.assert_close(shifted_frame, frame)


# --- the network ---------------------------------------------------------------------------------------------------


def test_config_and_constructor_have_the_same_defaults() -> None:
    torch.manual_seed(0)
    ours = build_network(PolyphonyConfig())
    torch.manual_seed(0)
    theirs = PolyphonyNetwork()
    assert ours.dropout.p == theirs.dropout.p
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_and_serving_compute_the_same() -> None:
    network = small_network()
    frames = torch.from_numpy(np.stack([chords(25, seed=5), chords(25, seed=6)]))
    logits = network(*heard_of(frames.float()))
    nll, probabilities = PieceScorer(network)(frames)
    torch.testing.assert_close(nll, frame_nll(logits, frames.float()), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(probabilities[:, :-1], torch.sigmoid(logits[:, 1:]))
    # Whether struck or held does not matter, and the future is not history.
    again, _ = PieceScorer(network)(torch.cat([frames[:, :20] * 2, frames[:, 20:].flip(2)], 1))
    torch.testing.assert_close(again[:, :20], nll[:, :20])
    assert not torch.allclose(again[:, 20:], nll[:, 20:])


def test_frame_nll_is_that_of_independent_notes() -> None:
    logits = torch.tensor([[0.0, math.log(3.0), -60.0, 200.0]])
    notes = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert frame_nll(logits, notes).item() == pytest.approx(math.log(2) + math.log(4) + 0 + 200, rel=1e-6)


def settings(n_batch: int, **changed: float) -> dict[str, torch.Tensor]:
    values = {"temperature": 1.0, "top_k": 88, "top_p": 1.0, **changed}
    return {
        "temperature": torch.full((n_batch,), values["temperature"]),
        "top_k": torch.full((n_batch,), int(values["top_k"])),
        "top_p": torch.full((n_batch,), values["top_p"]),
    }


def test_the_sampler_hears_the_prompt_and_answers_only_what_it_wrote() -> None:
    network = small_network()
    sampler = Sampler(network)
    prompt = torch.from_numpy(chords(9, seed=7))[None]
    noise = torch.rand(1, 12, 88)
    (written,) = sampler(prompt, noise, **settings(1))
    assert written.shape == (1, 12, 88)
    assert written.dtype == torch.uint8
    assert set(written.unique().tolist()) == {0, 1}
    # By hand: each frame is chosen from what the scorer expects after all before it.
    history = prompt.clone()
    for n in range(12):
        _, probabilities = PieceScorer(network)(history)
        chosen = choose_each(torch.logit(probabilities[:, -1]), noise[:, n], **settings(1))
        assert torch.equal(written[:, n], chosen.to(torch.uint8))
        history = torch.cat([history, written[:, n : n + 1]], 1)
    # Going on from what was written is the same as having been asked for more.
    (rest,) = sampler(torch.cat([prompt, written[:, :5]], 1), noise[:, 5:], **settings(1))
    assert torch.equal(rest, written[:, 5:])
    (other,) = sampler(torch.from_numpy(chords(9, seed=8))[None], noise, **settings(1))
    assert not torch.equal(other, written)


def test_what_the_sampler_may_write() -> None:
    sampler = Sampler(small_network())
    prompt = torch.from_numpy(chords(4, seed=7))[None]
    noise = torch.rand(1, 40, 88)
    (free,) = sampler(prompt, noise, **settings(1))
    (few,) = sampler(prompt, noise, **settings(1, top_k=3))
    assert few.sum(2).max() <= 3 < free.sum(2).max()
    (sure,) = sampler(prompt, noise, **settings(1, top_p=0.5))  # only what is likelier than not
    assert sure.sum() < free.sum()
    (cold,) = sampler(prompt, noise, **settings(1, temperature=0.0))  # warm-up's zeros must not be divided by
    (again,) = sampler(prompt, torch.rand(1, 40, 88) * 0.5 + 0.25, **settings(1, temperature=0.0))
    assert torch.equal(cold, again)


# --- data ----------------------------------------------------------------------------------------------------------


def score_set(frames_per_quarter: int, pieces: list[ScorePiece]) -> ScoreSet:
    return ScoreSet("a test", tuple(pieces), has_onsets=True, frames_per_quarter=frames_per_quarter)


def test_a_fine_grid_is_learnt_in_eighths_that_fall_on_the_beat() -> None:
    frames = np.zeros((10, 88), np.uint8)
    frames[np.arange(10), 30 + np.arange(10)] = 2
    on_beat = ScorePiece("on", frames, "train", "x", meter=(16, 0))
    upbeat = ScorePiece("up", frames, "train", "x", meter=(16, 15))
    one = ScorePiece("one", frames[:1], "train", "x", meter=(16, 15))
    scores = score_set(4, [on_beat, upbeat, one])
    assert dataset.frames_per_quarter_of(scores) == 2
    taken = [
        piece.notes.nonzero()[:, 1].tolist()
        for piece in map(dataset.PieceNotes.of, dataset.reduced(scores.pieces, own=4, wanted=2))
    ]
    assert taken == [[30, 32, 34, 36, 38], [31, 33, 35, 37, 39], [30]]


def test_a_grid_of_its_own_is_kept_and_another_is_refused() -> None:
    piece = ScorePiece("a", chords(8, seed=0), "train", "x")
    for own, wanted in ((0, 0), (1, 1), (2, 2), (3, 3), (24, 2)):
        assert dataset.frames_per_quarter_of(score_set(own, [piece])) == wanted
    assert dataset.frames_per_quarter_of(score_set(4, [piece]), trained=4) == 4
    assert dataset.frames_per_quarter_of(score_set(0, [piece]), trained=2) == 0
    with pytest.raises(DataError):
        dataset.frames_per_quarter_of(score_set(3, [piece]), trained=2)


def excerpts(lengths: list[int], **changed: Any) -> dataset.Excerpts:
    pieces = [
        piece_of(str(index), torch.from_numpy(chords(length, seed=index)) > 0) for index, length in enumerate(lengths)
    ]
    return dataset.Excerpts(dataset.extract_features(pieces), PRESETS["tiny"].changed(**changed))


def test_excerpts_cover_a_piece_and_bring_the_features_of_its_whole_past() -> None:
    torch.manual_seed(0)
    found = excerpts([20, 100], crop_frames=48, warmup_frames=8, transpose_down=0, transpose_up=0)
    assert [found.n_frames(item) for item in range(len(found))] == [20, 34, 34, 34]
    assert found[0].counts.tolist() == [1] * 20
    whole = torch.from_numpy(chords(100, seed=1)).float()[None]
    pitch, frame = heard_of(whole)
    starts = set()
    for _ in range(20):
        for item in (1, 2, 3):
            excerpt = found[item]
            matches = [t for t in range(67) if torch.equal(frame[0, t : t + 34], excerpt.frame)]
            assert len(matches) == 1
            start = matches[0]
            starts.add(start)
            torch.testing.assert_close(excerpt.pitch, pitch[0, start : start + 34], atol=1e-3, rtol=0)  # half precision
            assert torch.equal(excerpt.notes, whole[0, start : start + 34])
            assert excerpt.counts.tolist() == ([1] * 34 if start == 0 else [0] * 8 + [1] * 26)
    assert min(starts) == 0
    assert max(starts) == 66
    assert len(starts) > 20


def test_excerpts_are_transposed_within_the_keyboard() -> None:
    torch.manual_seed(0)
    notes = torch.zeros(6, 88, dtype=torch.bool)
    notes[:, [2, 80]] = True
    history = dataset.extract_features([piece_of("a", notes), piece_of("silent", torch.zeros_like(notes))])
    found = dataset.Excerpts(history, PRESETS["tiny"].changed(transpose_down=5, transpose_up=6))
    seen = {tuple(found[0].notes[0].nonzero()[:, 0].tolist()) for _ in range(200)}
    assert seen == {(2 + shift, 80 + shift) for shift in range(-2, 7)}
    assert not found[1].notes.any()


def test_batches_hold_every_excerpt_once_and_little_padding() -> None:
    torch.manual_seed(0)
    lengths = torch.randint(5, 40, (50,)).tolist()
    found = excerpts(lengths)
    sampler = dataset.LengthBatches(torch.utils.data.RandomSampler(found), 4, False, found.n_frames)
    batches = list(sampler)
    assert sorted(index for batch in batches for index in batch) == list(range(50))
    assert len(batches) == len(sampler) == 13
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
    assert np.mean(spread) < 6
    assert batches != list(sampler)
    batch = dataset.padded([found[index] for index in batches[0]])
    longest = max(lengths[index] for index in batches[0])
    assert batch.pitch.shape == (4, longest, N_PITCH_FEATURES, 88)
    assert batch.counts.sum(1).tolist() == [lengths[index] for index in batches[0]]


# --- figures -------------------------------------------------------------------------------------------------------


def constant_network(probability: float) -> PolyphonyNetwork:
    """Expects every pitch with the same probability, whatever it history."""
    network = PolyphonyNetwork(units=2, hidden=2, reach=0, width=0).eval().requires_grad_(False)
    network.out.weight.zero_()
    network.out.bias.fill_(math.log(probability / (1 - probability)))
    return network


def test_metrics_are_means_over_all_frames_of_all_pieces() -> None:
    pieces = [
        piece_of("long", torch.from_numpy(chords(41, seed=0)) > 0),  # three notes a frame
        piece_of("short", torch.zeros(3, 88, dtype=torch.bool)),
    ]
    evaluation = evaluate_network(constant_network(0.1), pieces)
    sounding = 3 * -math.log(0.1) + 85 * -math.log(0.9)
    silent = 88 * -math.log(0.9)
    metrics = evaluation.metrics
    assert metrics["n_frames"] == 44
    assert metrics["nll_per_frame"] == pytest.approx((41 * sounding + 3 * silent) / 44, rel=1e-5)
    assert metrics["log_likelihood_per_frame"] == -metrics["nll_per_frame"]
    assert evaluation.nll[0].tolist() == pytest.approx([sounding] * 41, rel=1e-5)  # the first frame is like the others
    assert metrics["accuracy"] == 0  # nothing was expected
    assert metrics["calibration_error"] == pytest.approx(abs(0.1 - 3 * 41 / (88 * 44)), rel=1e-4)
    everything = evaluate_network(constant_network(0.9), pieces).metrics
    assert everything["accuracy"] == pytest.approx(3 * 41 / (88 * 44))


def test_pieces_of_a_batch_are_evaluated_independently() -> None:
    network = small_network()
    pieces = [piece_of(str(n), torch.from_numpy(chords(n, seed=n)) > 0) for n in (30, 4, 17)]
    together = evaluate_network(network, pieces)
    assert together.names == ("30", "4", "17")
    for piece, nll in zip(pieces, together.nll, strict=True):
        alone, _ = PieceScorer(network)(piece.notes[None].to(torch.uint8))
        np.testing.assert_allclose(nll, alone[0].numpy(), atol=1e-4)


def test_a_network_that_diverged_is_not_measured() -> None:
    with pytest.raises(TrainingError):
        evaluate_network(constant_network(math.nan), [piece_of("a", torch.ones(2, 88) > 0)])


# --- the whole way -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rounds of chords; who remembers the last round knows the next."""
    parts = {"train": 24, "valid": 6, "test": 4}
    rolls = {
        split: [chords(30 + 5 * (n % 4), seed=100 * place + n) for n in range(count)]
        for place, (split, count) in enumerate(parts.items())
    }
    return write_mat(tmp_path_factory.mktemp("mat") / "rounds.mat", rolls)


@pytest.fixture(scope="module")
def run(mat: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("polyphony") / "run"
    overrides = {"batch_size": 4, "learning_rate": 2e-2, "average_keeps": 0.9, "max_frames": 100_000}
    request = TrainRequest(
        out=out, data=mat, preset="tiny", max_epochs=12, overrides=overrides, progress=False, command="tritone train"
    )
    return out, KIND.train(request).to_dict()


def test_it_learns_that_rounds_come_round(run: tuple[Path, dict[str, Any]]) -> None:
    out, summary = run
    # Knowing only that 3 of 88 sound costs 13 nats a frame, that they lie within 40 pitches 10.6.
    assert summary["metrics"]["valid"]["nll_per_frame"] < 8
    assert json.dumps(summary)
    info = checkpoint.load(out, kind="polyphony_rnn").info
    assert info["frames_per_quarter"] == 0
    assert info["metrics"]["valid"] == summary["metrics"]["valid"]
    assert info["data"]["n_frames"]["valid"] == sum(30 + 5 * (n % 4) for n in range(6))


def test_less_can_be_learnt_and_looked_at(mat: Path, tmp_path: Path) -> None:
    request = TrainRequest(
        out=tmp_path, data=mat, preset="tiny", progress=False, overrides={"piece_frames": 20, "valid_frames": 80}
    )
    config = KIND.configure(request)
    prepared = KIND.reader(request, config)
    assert {len(piece.notes) for piece in prepared.pieces["train"]} == {20}
    assert [len(piece.notes) for piece in prepared.pieces["valid"]] == [30, 35]  # whole, the first and the last
    valid = KIND.trainer(request, config, prepared)["metrics"]["valid"]
    assert (valid["n_pieces"], valid["n_frames"], valid["n_pieces_in_split"]) == (2, 65, 6)


def test_an_epoch_can_have_fewer_excerpts_than_the_split(mat: Path, tmp_path: Path) -> None:
    request = TrainRequest(
        out=tmp_path, data=mat, preset="tiny", progress=False, overrides={"max_frames": 900, "epoch_frames": 300}
    )
    summary = KIND.train(request).to_dict()
    assert summary["n_train"] == 24
    assert summary["n_epochs"] == 2  # of at most two in this preset


def test_evaluation_is_reproducible_and_by_split(run: tuple[Path, dict[str, Any]], mat: Path, tmp_path: Path) -> None:
    out, summary = run
    ask = EvaluateRequest(checkpoint=out, data=mat, split="valid", progress=False)
    valid = KIND.evaluate(ask).to_dict()
    assert valid["nll_per_frame"] == pytest.approx(summary["metrics"]["valid"]["nll_per_frame"], abs=1e-9)
    assert (valid["n_pieces"], list(valid["splits"])) == (6, ["valid"])
    assert (valid["n_seen_in_training"], valid["n_early_stopping"]) == (0, 6)
    whole = KIND.evaluate(replace(ask, split=None, report=tmp_path / "report")).to_dict()
    assert list(whole["splits"]) == ["train", "valid", "test"]
    assert whole["splits"]["valid"]["nll_per_frame"] == pytest.approx(valid["nll_per_frame"], abs=1e-6)
    total = sum(part["nll_per_frame"] * part["n_frames"] for part in whole["splits"].values())
    assert whole["nll_per_frame"] == pytest.approx(total / whole["n_frames"])
    assert (whole["n_seen_in_training"], whole["n_early_stopping"]) == (24, 6)
    by_split = {part: KIND.evaluate(replace(ask, split=part)).to_dict() for part in ("train", "test")}
    assert {part: found["n_seen_in_training"] for part, found in by_split.items()} == {"train": 24, "test": 0}
    assert json.dumps(whole)
    files = [Path(file) for file in whole["report"]]
    assert [file.name for file in files] == ["nll_over_time.png", "reliability.png", "pieces.csv"]
    assert all(file.stat().st_size > 0 for file in files)
    rows = list(csv.DictReader(files[-1].read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 34
    assert sum(float(row["nll_per_frame"]) * int(row["n_frames"]) for row in rows) == pytest.approx(total, rel=1e-3)


def test_training_again_from_the_same_seed_gives_the_same_weights(mat: Path, tmp_path: Path) -> None:
    request = TrainRequest(out=tmp_path / "a", data=mat, preset="tiny", max_epochs=1, progress=False)
    KIND.train(request)
    KIND.train(replace(request, out=tmp_path / "b"))
    first, again = (checkpoint.load(tmp_path / name, kind="polyphony_rnn").info for name in "ab")
    assert first["weights_sha256"] == again["weights_sha256"]


def test_unusable_splits_are_refused(mat: Path, run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = run
    request = TrainRequest(out=tmp_path / "run", data=mat, preset="tiny", progress=False)
    with pytest.raises(DataError):
        KIND.evaluate(EvaluateRequest(checkpoint=out, data=mat, split="dev", progress=False))
    silent = write_mat(tmp_path / "silent.mat", {"train": [np.zeros((5, 88), np.uint8)], "valid": [chords(5, seed=0)]})
    with pytest.raises(DataError):
        KIND.train(replace(request, data=silent))
    no_valid = write_mat(tmp_path / "train_only.mat", {"train": [chords(5, seed=0)]})
    with pytest.raises(DataError):
        KIND.train(replace(request, data=no_valid))


def test_large_data_sets_are_not_learnt_for_longer() -> None:
    config = PolyphonyConfig(max_epochs=40, max_frames=800_000)
    assert [config.n_epochs(n) for n in (1, 13_807, 176_561, 10**8)] == [40, 40, 5, 1]
    assert [config.n_excerpts(7, n) for n in (1, 10**9)] == [7, 7]
    smaller = config.changed(epoch_frames=100_000)
    assert [smaller.n_epochs(n) for n in (50_000, 100_000, 10**8)] == [16, 8, 8]
    assert [smaller.n_excerpts(400, n) for n in (50_000, 100_000, 200_000, 10**8)] == [400, 400, 200, 1]


def test_damaged_checkpoints_are_refused(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = run
    saved = checkpoint.load(out, kind="polyphony_rnn")
    for name, change, message in (
        ("grid", {"frames_per_quarter": "two"}, "frames_per_quarter 'two'; expected a whole number"),
        ("size", {"config": {**saved.info["config"], "hidden": 7}}, "do not fit"),
        ("field", {"config": {**saved.info["config"], "depth": 7}}, "invalid entry"),
        ("data", {"data": {}}, "fingerprint"),
    ):
        folder = tmp_path / name
        checkpoint.save(folder, kind="polyphony_rnn", info=saved.info, weights=saved.weights)
        info = checkpoint.load(folder, kind="polyphony_rnn").info
        checkpoint.update_info(folder, {**info, **change})
        with pytest.raises(CheckpointError, match=message):
            KIND.export(folder)
    with pytest.raises(CheckpointError):
        KIND.export(None)
    with pytest.raises(CheckpointError):
        KIND.export(out, "musicnn-mtt")


# --- served --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repository(run: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    def export(made: Path) -> None:
        results = export_kind(KIND.export(run[0]), KIND, repository=made / "model_repository")
        assert [result.model for result in results] == ["polyphony_rnn", "polyphony_rnn_sampler"]

    folder = tmp_path_factory.mktemp("served")
    weights = checkpoint.load(run[0], kind="polyphony_rnn").info["weights_sha256"]
    copy_cached("export-polyphony_rnn-frames", export, folder, sources=music_models.EXPORT, key=weights)
    return folder / "model_repository"


def session_of(repository: Path, model: str) -> Any:
    return open_session(repository / model / "1" / "model.onnx")


@pytest.mark.slow
def test_the_repository_is_clean_and_states_the_grid(repository: Path) -> None:
    report = check_repository(repository)
    assert [str(finding) for finding in report.findings] == []
    for model in ("polyphony_rnn", "polyphony_rnn_sampler"):
        card = json.loads((repository / model / "1" / "model_card.json").read_text(encoding="utf-8"))
        assert card["frames_per_quarter"] == 0
        config = (repository / model / "config.pbtxt").read_text(encoding="utf-8")
        assert 'key: "frames_per_quarter"\n  value {\n    string_value: "0"' in config
        assert session_of(repository, model).get_modelmeta().custom_metadata_map["frames_per_quarter"] == "0"


@pytest.mark.slow
def test_pieces_of_any_length_are_scored(repository: Path, run: tuple[Path, dict[str, Any]]) -> None:
    network, _ = load_network(run[0])
    session = session_of(repository, "polyphony_rnn")
    for n_batch, n_frames in ((1, 1), (1, 3), (5, 2), (2, 300)):
        frames = np.stack([chords(n_frames, seed=n) * 2 for n in range(n_batch)])
        expected = PieceScorer(network)(torch.from_numpy(frames))
        nll, probabilities = session.run(["nll", "probabilities"], {"frames": frames})
        assert probabilities.shape == (n_batch, n_frames, 88)
        np.testing.assert_allclose(nll, expected[0].detach().numpy(), atol=1e-3)
        np.testing.assert_allclose(probabilities, expected[1].detach().numpy(), atol=1e-5)


def asked(n_batch: int, n_frames: int, *, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Conditions that differ between rows, for so many new frames; every fifth row ends with them."""
    inputs = example_sampler_inputs(n_batch, seed)
    random = np.random.default_rng(seed)
    return inputs | {
        "end": np.where(np.arange(n_batch) % 5, 0, 4 + n_frames),
        "repeats": random.integers(-1, n_frames, (n_batch, n_frames)),
    }


@pytest.mark.slow
def test_a_seed_gives_the_same_notes_everywhere(repository: Path, run: tuple[Path, dict[str, Any]]) -> None:
    """200 seeds: in PyTorch and ONNX Runtime, alone and in a batch of strangers."""
    sampler = exportable(run[0]).companions[0].network
    session = session_of(repository, "polyphony_rnn_sampler")
    n_seeds, n_frames = 200, 6
    random = np.random.default_rng(0)
    inputs = {
        **asked(n_seeds, n_frames, seed=1),
        "prompt": np.stack([chords(4, seed=seed) * (seed % 3 > 0) for seed in range(n_seeds)]),
        "noise": random.random((n_seeds, n_frames, 88), np.float32),
        "temperature": random.uniform(0.5, 2.0, n_seeds).astype(np.float32),
        "top_k": random.integers(1, 89, n_seeds),
        "top_p": random.uniform(0.5, 1.0, n_seeds).astype(np.float32),
    }
    with torch.inference_mode():
        (expected,) = sampler(*(torch.from_numpy(inputs[tensor.name]) for tensor in SAMPLER.inputs))
    assert expected.any(dim=(1, 2)).sum() > n_seeds / 2  # where top_p allows it, something is written
    assert len({row.numpy().tobytes() for row in expected}) > n_seeds / 2  # and they differ
    (together,) = session.run(["frames"], inputs)
    np.testing.assert_array_equal(together, expected.numpy())
    for seed in range(n_seeds):
        alone = {name: value[seed : seed + 1] for name, value in inputs.items()}
        np.testing.assert_array_equal(session.run(["frames"], alone)[0][0], together[seed], f"seed {seed}")
    some = random.permutation(n_seeds)[:16]
    np.testing.assert_array_equal(
        session.run(["frames"], {name: value[some] for name, value in inputs.items()})[0], together[some]
    )


@pytest.mark.slow
def test_prompts_and_answers_of_any_length_and_the_zeros_of_a_warm_up(repository: Path) -> None:
    session = session_of(repository, "polyphony_rnn_sampler")
    for n_prompt, n_frames in ((1, 1), (1, 40), (30, 1), (140, 3)):
        inputs = {
            **asked(1, n_frames, seed=n_frames),
            "prompt": chords(n_prompt, seed=0)[None],
            "noise": np.random.default_rng(0).random((1, n_frames, 88), np.float32),
            "temperature": np.ones(1, np.float32),
            "top_k": np.full(1, 88),
            "top_p": np.ones(1, np.float32),
        }
        assert session.run(None, inputs)[0].shape == (1, n_frames, 88)
    zeros = {name: np.zeros_like(value) for name, value in inputs.items()}
    assert session.run(None, zeros)[0].max() <= 2


# --- published data ------------------------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "JSB_Chorales.mat").is_file(), reason="../shared/data/polymusic is not here")
def test_the_protocol_counts_every_frame_of_the_published_split() -> None:
    scores = load_scores(DATA / "JSB_Chorales.mat")
    frames_per_quarter = dataset.frames_per_quarter_of(scores)
    reduced = dataset.reduced(scores.split("valid"), own=scores.frames_per_quarter, wanted=frames_per_quarter)
    pieces = tuple(map(dataset.PieceNotes.of, reduced))
    evaluation = evaluate_network(constant_network(0.05), pieces)
    assert (evaluation.metrics["n_pieces"], evaluation.n_frames) == (76, 4602)
    n_notes = sum(int(piece.notes.sum()) for piece in pieces)
    expected = -(n_notes * math.log(0.05) + (4602 * 88 - n_notes) * math.log(0.95)) / 4602
    assert evaluation.metrics["nll_per_frame"] == pytest.approx(expected, rel=1e-5)
