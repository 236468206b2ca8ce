"""Training and loading from Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.unit.training import sounds
from tests.unit.training.small_data import write_log, write_scores

import tritone_training
from tritone import (
    Classification,
    InferRequest,
    ModelNotFoundError,
    NothingKnownError,
    Piece,
    Prediction,
    Recommendations,
    RequestRejectedError,
)
from tritone_training import (
    CheckpointError,
    ListeningFiles,
    LocalModel,
    TrainedCheckpoint,
    TrainingError,
    UnknownKindError,
    load,
    train,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainedCheckpoint]:
    """One tiny checkpoint of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    music, scores, log = sounds.write_folders(folder / "music", n_each=6), write_scores(folder), write_log(folder)
    settings = {
        "music_gan": {"steps_per_epoch": 1, "pool_size": 64, "n_judged": 64},
        "music_vae": {"spans_per_epoch": 64},
    }
    return {
        kind: train(
            kind,
            data={"genre_cnn": music}.get(kind, None if kind == "recommender" else scores),
            interactions=log if kind == "recommender" else None,
            out=folder / kind,
            preset="tiny",
            max_epochs=1,
            settings=settings.get(kind),
            progress=False,
        )
        for kind in ("genre_cnn", "polyphony_rnn", "music_transformer", "music_vae", "music_gan", "recommender")
    }


def test_train_returns_what_was_trained(runs: dict[str, TrainedCheckpoint]) -> None:
    trained = runs["genre_cnn"]
    assert trained.n_epochs == 1
    assert set(trained.metrics) == {"valid", "test"}
    assert trained.data["n_used"] == 12
    assert json.loads(json.dumps(trained.to_dict()))["kind"] == "genre_cnn"
    assert isinstance(trained.load(), LocalModel)


def test_a_recording_is_classified_and_embedded(runs: dict[str, TrainedCheckpoint]) -> None:
    song = runs["genre_cnn"].folder.parent / "music" / "hum" / "0.wav"
    model = load(runs["genre_cnn"])
    result = model.classify(song)
    assert isinstance(result, Classification)
    assert set(result.probabilities) == {"hum", "hiss"}
    assert sum(result.probabilities.values()) == pytest.approx(1)
    assert model.predict(song).to_dict()["probabilities"] == result.to_dict()["probabilities"]
    assert np.linalg.norm(model.embed(song)) == pytest.approx(1, abs=1e-5)


def test_scores_are_composed_and_predicted(runs: dict[str, TrainedCheckpoint]) -> None:
    for kind in ("polyphony_rnn", "music_transformer"):
        model = load(runs[kind])
        piece = model.compose(bars=2, seed=7)
        assert isinstance(piece, Piece)
        assert np.array_equal(piece.grid.frames, model.compose(bars=2, seed=7).grid.frames)
        predicted = model.predict(piece)
        assert isinstance(predicted, Prediction)
        assert predicted.model == kind
        assert np.isfinite(predicted.nll_per_frame)
    transformer = load(runs["music_transformer"])
    assert isinstance(transformer.infill(transformer.compose(bars=4, seed=1), bars=(2, 3), seed=1), Piece)


def test_bars_are_reconstructed_varied_and_sampled(runs: dict[str, TrainedCheckpoint]) -> None:
    piece = load(runs["music_transformer"]).compose(bars=2, seed=7)
    model = load(runs["music_vae"])
    assert isinstance(model.reconstruct(piece, seed=1), Piece)
    assert all(isinstance(each, Piece) for each in model.interpolate(piece, piece, seed=1))
    assert all(isinstance(each, Piece) for each in load(runs["music_gan"]).sample(seed=1))


def test_tracks_are_recommended_by_the_code_of_the_backend(runs: dict[str, TrainedCheckpoint]) -> None:
    model = load(runs["recommender"])
    stored = model.recommend("u3", n=3, explain=True)
    assert isinstance(stored, Recommendations)
    assert len(stored) == 3
    assert stored[0].reasons
    assert len(model.recommend(history=["i1", "i2"], n=4)) == 4
    assert len(model.similar("i1", by="listening", n=2)) == 2
    with pytest.raises(NothingKnownError):
        model.recommend(history=["nobody knows this"])
    arrays = {"k": np.array([[3]], np.int32), "mood": np.array([[b"hunger"]], object)}
    refused = InferRequest("recommender", "1", arrays, ("item_ids",))  # the client lets no such mood through
    with pytest.raises(RequestRejectedError, match=r"unknown mood: .*hunger"):
        model._transport.handle(refused, timeout_s=1)


def test_calls_of_other_kinds_and_streams_say_what_is_missing(runs: dict[str, TrainedCheckpoint]) -> None:
    model = load(runs["genre_cnn"])
    with pytest.raises(ModelNotFoundError, match=r"such as music_transformer, .* serve genre_cnn"):
        model.compose(bars=1)
    with pytest.raises(ModelNotFoundError):
        load(runs["music_vae"]).classify(runs["genre_cnn"].folder.parent / "music" / "hum" / "0.wav")
    assert model.server_ready()
    assert not model.model_ready("music_gan")


def test_bad_arguments_are_refused(tmp_path: Path, runs: dict[str, TrainedCheckpoint]) -> None:
    with pytest.raises(UnknownKindError):
        train("genre_rnn", out=tmp_path / "run")
    with pytest.raises(TrainingError, match="both given"):
        train("recommender", interactions="a.csv", listening=ListeningFiles(interactions=Path("b.csv")))
    with pytest.raises(CheckpointError, match="expected a checkpoint folder"):
        load(tmp_path)
    (tmp_path / "checkpoint.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path)
    with pytest.raises(TrainingError, match=r"trained genre_cnn of .*--overwrite"):
        train("genre_cnn", data=tmp_path, out=runs["genre_cnn"].folder, progress=False)
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        tritone_training.fit  # noqa: B018


def test_tracks_are_found_in_a_checkpoint(runs: dict[str, TrainedCheckpoint]) -> None:
    page = load(runs["recommender"]).find_tracks("i1", by="id")
    assert page.total >= 1
    assert page[0].track_id == "i1"
    assert page[0].match == "exact"


def test_a_checkpoint_makes_playlists(runs: dict[str, TrainedCheckpoint]) -> None:
    model = load(runs["recommender"])
    (first, second) = [each.track_id for each in model.recommend(n=2)]
    assert model.playlist(first, second, n=4).track_ids[0] == first


def test_a_recommender_refuses_a_network_that_did_not_embed_its_items(
    runs: dict[str, TrainedCheckpoint], tmp_path: Path
) -> None:
    folder = tmp_path / "recommender"
    shutil.copytree(runs["recommender"].folder, folder)
    info = json.loads((folder / "checkpoint.json").read_text())
    genre = runs["genre_cnn"].folder
    own = json.loads((genre / "checkpoint.json").read_text())["weights_sha256"]
    for digest, fits in (("0" * 64, False), (own, True)):
        info["embedding_model"] = {"kind": "genre_cnn", "weights_sha256": digest}
        (folder / "checkpoint.json").write_text(json.dumps(info))
        if fits:
            assert load(folder, genre_checkpoint=genre).kind == "recommender"
        else:
            with pytest.raises(CheckpointError, match="embedded the items"):
                load(folder, genre_checkpoint=genre)
