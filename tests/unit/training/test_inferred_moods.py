"""The strength of inferred moods: chosen where moods explain what is played next, 0 where they do not."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tritone_serving.recommender import Recommender, write_artifact
from tritone_serving.recommender.artifact import INFERRED_MOOD
from tritone_serving.recommender.moods import MoodInference
from tritone_training import train
from tritone_training.data.interactions import ListeningData, SimulatedSessions, simulate_sessions
from tritone_training.data.interactions.listening import of_world
from tritone_training.data.interactions.simulated import SimulatedItem
from tritone_training.hyperparameters import from_preset
from tritone_training.kinds.recommender.config import PRESETS
from tritone_training.kinds.recommender.ensemble.inferred_moods import (
    STRENGTHS,
    best_strength,
    inference_of_strength_1,
    mood_queries,
    select_mood_inference,
)
from tritone_training.kinds.recommender.fitting.base_models import fit_base_models, manifest_of
from tritone_training.kinds.recommender.fitting.interaction_dataset import build_dataset
from tritone_training.kinds.recommender.fitting.recording_embeddings import RecordingEmbeddings

KEY = b"a key for simulated listeners"


@functools.cache
def sessions() -> SimulatedSessions:
    rng = np.random.default_rng(5)
    words = (("jig", "mass", "reel", "chorale"), ("major", "minor"), ("slow", "walking", "fast"))
    items = [
        SimulatedItem(str(n), tuple(str(rng.choice(each)) for each in words), {"title": str(n)}) for n in range(160)
    ]
    return simulate_sessions(items, seed=1, n_listeners=150, mood_share=0.7)


@functools.cache
def listening() -> ListeningData:
    return of_world(sessions().world, seed=1)


def fitted(folder: Path, *, shuffled: bool = False, moods: bool = True) -> Recommender:
    """A recommender of item-item models, popularity and moods; the moods of items may be those of others."""
    config = from_preset(PRESETS, "tiny", {"taste_vae": False})
    dataset = build_dataset(listening(), config, KEY)
    parts = fit_base_models(dataset, config, metadata={}, on_step=lambda step: lambda done, total: None)
    weights = {"popularity": 0.2, "item_knn": 1.0}
    if moods:
        truth = sessions().item_moods
        fits = ((truth - truth.mean(0)) / truth.std(0)).astype(np.float32)
        order = [sessions().world.log.items.index(name) for name in dataset.items]
        parts.arrays["items.moods"] = np.random.default_rng(0).permutation(fits) if shuffled else fits[order]
        parts.base_models["mood"] = {"kind": "mood", "scale": 0.1}
    parts.base_models["item_knn"]["scale"] = 0.01
    ensemble = {
        "warm_from": 10,
        "weights": dict.fromkeys(("cold", "short", "warm"), weights),
        "minimum_weights": {key: {"mood": 0.5} for key in ("cold", "short", "warm")},
    }
    manifest = manifest_of(parts, dataset, config, KEY)
    inferring = {INFERRED_MOOD: inference_of_strength_1()}
    write_artifact(folder, {**manifest, "ensembles": {"a": ensemble}, **inferring}, parts.arrays)
    return Recommender.open(folder, key=KEY)


def test_a_strength_is_chosen_where_listeners_follow_moods(tmp_path: Path) -> None:
    chosen = select_mood_inference(fitted(tmp_path), {}, listening().train, listening().valid, seed=0)
    assert chosen is not None
    assert chosen["strength"] in STRENGTHS[1:]
    metrics = chosen["ndcg@10"]
    assert metrics[f"{chosen['strength']:g}"] > metrics["0"]
    assert chosen["n_queries"] > 100
    assert MoodInference.from_manifest(chosen).strength == chosen["strength"]


def test_moods_that_explain_nothing_are_not_inferred(tmp_path: Path) -> None:
    chosen = select_mood_inference(fitted(tmp_path, shuffled=True), {}, listening().train, listening().valid, seed=0)
    assert chosen is not None
    assert chosen["strength"] == 0


def test_nothing_is_chosen_without_moods_or_times(tmp_path: Path) -> None:
    train, valid = listening().train, listening().valid
    recommender = fitted(tmp_path / "with")
    assert select_mood_inference(recommender, {}, replace(train, sequences=None), valid, seed=0) is None
    assert valid.sequences is not None
    timeless = replace(valid, sequences=replace(valid.sequences, time=None))
    assert select_mood_inference(recommender, {}, train, timeless, seed=0) is None
    assert select_mood_inference(fitted(tmp_path / "no", moods=False), {}, train, valid, seed=0) is None


def test_queries_know_only_what_was_played_shortly_before(tmp_path: Path) -> None:
    train, valid = listening().train, listening().valid
    queries = mood_queries(fitted(tmp_path), train, valid, 3_600)
    assert len(queries)
    assert train.sequences is not None
    assert valid.sequences is not None
    names = fitted(tmp_path).item_ids
    heard = {
        (train.users[user], train.items[item])
        for user, item in zip(train.user.tolist(), train.item.tolist(), strict=True)
    }
    for request, target in zip(queries.requests, queries.targets.tolist(), strict=True):
        assert request.at_s is not None
        assert request.times is not None
        assert len(request.history) == len(request.times) > 0
        assert all(request.at_s - 3_600 <= each < request.at_s for each in request.times)
        assert (request.user, names[target]) not in heard
        assert names[target] not in request.history
    assert not len(mood_queries(fitted(tmp_path), train, valid, 0.0))


@pytest.mark.parametrize(("gain", "spread", "expected"), [(0.1, 0.01, 4.0), (0.01, 0.5, 0.0), (-0.1, 0.01, 0.0)])
def test_a_gain_has_to_be_larger_than_its_error(gain: float, spread: float, expected: float) -> None:
    rng = np.random.default_rng(0)
    gains = np.full((60, len(STRENGTHS)), 0.3)
    gains[:, STRENGTHS.index(4.0)] += gain + np.tile([spread, -spread], 30) + rng.normal(0, 1e-3, 60)
    assert best_strength(gains, np.arange(60)) == expected
    assert best_strength(gains, np.arange(60) % 3) == 0  # three listeners are no evidence


def test_the_first_listeners_have_moods() -> None:
    made = sessions()
    assert made.has_moods.sum() == 105
    assert made.has_moods[:105].all()
    events = made.world.log.sequences
    assert events is not None
    fits = (made.item_moods - made.item_moods.mean(0)) / made.item_moods.std(0)
    fit = fits[events.item, made.mood]
    followed = made.has_moods[events.user] & ~events.skipped
    others = ~made.has_moods[events.user] & ~events.skipped
    assert fit[followed].mean() > fit[others].mean() + 0.3


@pytest.mark.slow
def test_training_with_recordings_and_times_chooses_how_moods_are_inferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sessions()
    log, events = made.world.log, made.world.log.sequences
    assert events is not None
    assert events.time is not None
    rows = zip(events.user.tolist(), events.item.tolist(), events.time.tolist(), events.skipped.tolist(), strict=True)
    lines = [f"{log.users[u]},{log.items[i]},{int(t)}" for u, i, t, skipped in rows if not skipped]
    (tmp_path / "plays.csv").write_text("\n".join(["user,item,timestamp", *lines]))
    heard = RecordingEmbeddings(
        items=tuple(log.items),
        embeddings=np.random.default_rng(0).standard_normal((len(log.items), 256)).astype(np.float32),
        emotions=made.item_moods.astype(np.float32),
        problems=(),
        embedding_model={"kind": "genre_cnn", "weights_sha256": "ab" * 32},
    )
    monkeypatch.setattr("tritone_training.kinds.recommender.training_data.embed_recordings", lambda request: heard)
    train(
        "recommender",
        out=tmp_path / "out",
        interactions=tmp_path / "plays.csv",
        preset="tiny",
        settings={"taste_vae": False},
        progress=False,
    )
    manifest = json.loads((tmp_path / "out" / "artifact" / "recommender.json").read_text())
    chosen = manifest[INFERRED_MOOD]
    assert chosen["strength"] in STRENGTHS
    assert chosen["n_queries"] > 100
    assert chosen["ndcg@10"].keys() == {f"{each:g}" for each in STRENGTHS}
