"""Ranking of items that nobody has listened to: by their content where there is any."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritone_serving.recommender import Recommender, RecommendRequest, read_key
from tritone_training.data.interactions import ListeningFiles
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.ensemble.offline import open_recommender
from tritone_training.registry import get_kind

GENRES = ("jazz", "metal", "polka", "choral")
N_EACH = 20  # heard items of each genre
N_NEW = 4  # new ones
N_USERS = 120


def simulate(folder: Path, *, is_tagged: bool) -> ListeningFiles:
    """Simulated listeners of one genre each, who now and then hear another; new items have tags, but no listens."""
    rng = np.random.default_rng(4)
    fame = 1 / np.arange(1, N_EACH + 1) ** 0.7
    rows = []
    for user in range(N_USERS):
        own = GENRES[user % len(GENRES)]
        for genre in GENRES:
            n = 9 if genre == own else 1
            items = rng.choice(N_EACH, n, replace=False, p=fame / fame.sum())
            rows += [(f"user-{user}", f"{genre}-{item}", int(rng.integers(1, 20))) for item in items]
    tags = [
        (f"{kind}{genre}-{item}", tag)
        for genre in GENRES
        for kind, n in (("", N_EACH), ("new-", N_NEW))
        for item in range(n)
        for tag in (genre, f"{genre} dance", f"mood {rng.integers(6)}")
    ]
    _write(folder / "log.csv", ("user", "item", "plays"), rows)
    _write(folder / "tags.csv", ("item", "tag"), tags)
    _write(folder / "pieces.csv", ("item", "title"), [(f"new-{genre}-0", "") for genre in GENRES])
    more = {"item_tags": folder / "tags.csv"} if is_tagged else {"metadata": folder / "pieces.csv"}
    return ListeningFiles(interactions=folder / "log.csv", **more)


def _write(path: Path, header: tuple[str, ...], rows: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def train(folder: Path, *, is_tagged: bool) -> Path:
    listening = simulate(folder, is_tagged=is_tagged)
    get_kind("recommender").train(
        TrainRequest(out=folder / "run", preset="tiny", progress=False, data=listening, overrides={"taste_vae": 0})
    )
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("cold"), is_tagged=True)


@pytest.fixture(scope="module")
def recommender(run: Path) -> Recommender:
    return Recommender.open(run / "artifact", key=read_key(run / "recommender.key"))


def scores_of(recommender: Recommender, **given: Any) -> dict[str, float]:
    [answer] = recommender.recommend([RecommendRequest(k=len(recommender.item_ids), **given)])
    assert not isinstance(answer, Exception)
    return dict(zip(answer.items, answer.scores.tolist(), strict=True))


@pytest.mark.parametrize("n_history", [2, 8, 12])
@pytest.mark.parametrize("genre", GENRES)
def test_new_items_are_ranked_by_what_is_said_of_them(recommender: Recommender, genre: str, n_history: int) -> None:
    scores = scores_of(recommender, history=[f"{genre}-{item}" for item in range(n_history)])
    own = [score for item, score in scores.items() if item.startswith(f"new-{genre}")]
    others = [score for item, score in scores.items() if item.startswith("new-") and genre not in item]
    unrelated = [score for item, score in scores.items() if not item.startswith("new-") and genre not in item]
    assert len(own) == N_NEW
    assert len(set(own)) > 1
    assert max(own) > max(others)
    assert np.mean(own) > max(others)
    assert min(own) > np.median(unrelated)


def test_new_items_do_not_displace_all_others(recommender: Recommender) -> None:
    scores = scores_of(recommender, history=[f"jazz-{item}" for item in range(6)])
    first = list(scores)[:8]
    assert sum(item.startswith("new-") for item in first) < len(first)
    assert any(item.startswith("jazz-") for item in first)


def test_without_any_knowledge_new_items_come_last(recommender: Recommender) -> None:
    scores = scores_of(recommender)
    new = [score for item, score in scores.items() if item.startswith("new-")]
    others = [score for item, score in scores.items() if not item.startswith("new-")]
    assert max(new) <= min(others)


def test_the_reasons_for_a_new_item_are_its_tags(recommender: Recommender) -> None:
    [answer] = recommender.recommend([RecommendRequest(history=["polka-1", "polka-2"], k=60, explain=True)])
    assert not isinstance(answer, Exception)
    place = next(place for place, item in enumerate(answer.items) if item.startswith("new-polka"))
    tags = {reason.id: reason.amount for reason in answer.reasons[place] if reason.because == "tag"}
    assert tags["polka"] > 0
    assert sum(reason.amount for reason in answer.reasons[place]) == pytest.approx(answer.scores[place], abs=1e-3)


def test_the_checkpoint_says_what_the_weights_were_learned_from(run: Path) -> None:
    info = json.loads((run / "checkpoint.json").read_text())
    said = info["metrics"]["valid"]["cold_items"]
    assert set(said) == {"warm", "short", "cold"}
    assert said["warm"].endswith("held-out listens to items that were hidden")
    cold = info["ensembles"]["a"]["cold_items"]
    assert cold["warm"]["tags"] > 0
    assert cold["short"]["tags"] > 0


def test_without_content_nothing_changes(tmp_path: Path) -> None:
    run = train(tmp_path, is_tagged=False)
    recommender, networks = open_recommender(run)
    assert not networks
    scores = scores_of(recommender, history=["jazz-0", "jazz-1"])
    new = [score for item, score in scores.items() if item.startswith("new-")]
    assert len(new) == len(GENRES)
    assert len(set(new)) == 1
    info = json.loads((run / "checkpoint.json").read_text())
    assert all("hidden" not in said for said in info["metrics"]["valid"]["cold_items"].values())
