"""Training and evaluation of `taste_sequence`: protocols, baselines, and what the network learns from order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import recommender_models
from tests.unit.training.small_data import write_sequences

from tritone_training import (
    CheckpointError,
    DataError,
    EvaluateRequest,
    ListeningFiles,
    TrainRequest,
    checkpoint,
    train,
)
from tritone_training.kinds.taste_sequence.baselines import BASELINES, MOST_ITEMS, check_size
from tritone_training.kinds.taste_sequence.evaluate import SELECTION_FOLDER
from tritone_training.kinds.taste_sequence.export import load_network
from tritone_training.kinds.taste_sequence.loading import load_data
from tritone_training.kinds.taste_sequence.sequence_data import EventArrays
from tritone_training.registry import get_kind

KIND = get_kind("taste_sequence")


def evaluate(folder: Path, log: Path, test: Path | None = None, **options: Any) -> dict[str, Any]:
    files = ListeningFiles(interactions=log, test=test)
    return KIND.evaluate(EvaluateRequest(checkpoint=folder, data=files, progress=False, **options)).to_dict()


def events_of(tmp_path: Path, text: str) -> tuple[EventArrays, list[str]]:
    path = tmp_path / "log.txt"
    path.write_text(text, encoding="utf-8")
    data = load_data(TrainRequest(out=tmp_path / "run", data=path))
    return data.events, list(data.items)


def new_item(log: Path, user: str) -> str:
    """Return an item of the log that a user does not know."""
    lines = {line.split()[0]: line.split()[1:] for line in log.read_text().splitlines()}
    return min({item for items in lines.values() for item in items} - set(lines[user]))


@pytest.fixture(scope="module")
def log() -> Path:
    return recommender_models.sequences()


@pytest.fixture(scope="module")
def trained() -> Path:
    return recommender_models.sequence_checkpoint()


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network that had enough epochs for the order of its log, and that log."""
    folder = tmp_path_factory.mktemp("learned")
    log = write_sequences(folder)
    settings = {
        "size": 32,
        "n_layers": 1,
        "event_dropout": 0.2,
        "dropout": 0.1,
        "input_dropout": 0.1,
        "learning_rate": 0.02,
    }
    train(
        "taste_sequence",
        data=log,
        out=folder / "run",
        preset="tiny",
        settings={**settings, "max_epochs": 20, "patience": 20},
        progress=False,
    )
    return folder / "run", log


# --- protocols ------------------------------------------------------------------------------------------------


def test_the_result_has_the_documented_keys(trained: Path, log: Path) -> None:
    found = evaluate(trained, log)
    assert {"hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10"} <= found.keys()
    assert found["split"] == "valid"
    assert found["n"] == 60
    assert found["hr@5"] <= found["hr@10"] <= found["hr@20"]
    assert found["ndcg@5"] <= found["hr@5"]
    assert "baselines" not in found


def test_validation_is_by_the_network_that_was_not_trained_on_it(trained: Path, log: Path) -> None:
    info = checkpoint.read_info(trained)
    assert evaluate(trained, log)["ndcg@10"] == pytest.approx(info["metrics"]["valid"]["ndcg@10"], abs=1e-6)
    served, selection = load_network(trained)[0], load_network(trained / SELECTION_FOLDER)[0]
    first, second = (each.state_dict()["members.0.embedding.weight"] for each in (served, selection))
    assert not np.allclose(first.numpy(), second.numpy())
    assert info["refit_on_all"] is True


def test_without_a_final_training_there_is_one_network(tmp_path: Path, log: Path) -> None:
    request = TrainRequest(out=tmp_path / "run", data=log, preset="tiny", progress=False, refit_on_all=False)
    result = KIND.train(request)
    assert not (tmp_path / "run" / SELECTION_FOLDER).exists()
    assert evaluate(tmp_path / "run", log)["ndcg@10"] == pytest.approx(result.metrics["valid"]["ndcg@10"], abs=1e-6)


def test_with_a_test_file_the_history_is_the_whole_log(tmp_path: Path, trained: Path) -> None:
    log, test, whole = (tmp_path / name for name in ("log.txt", "test.txt", "whole.txt"))
    lines = [line.split() for line in recommender_models.sequences().read_text().splitlines()]
    log.write_text("\n".join(" ".join(each[:-1]) for each in lines) + "\n")
    test.write_text("\n".join(f"{each[0]} {each[-1]}" for each in lines) + "\n")
    whole.write_text("\n".join(" ".join(each) for each in lines) + "\n")
    by_file = evaluate(trained, log, test)
    assert by_file["split"] == "test"
    assert by_file["n"] == 60
    selection = trained / SELECTION_FOLDER  # as a checkpoint of its own, it has no other network
    by_file, by_log = evaluate(selection, log, test), evaluate(selection, whole)
    assert {name: by_file[name] for name in by_file if "@" in name} == {
        name: by_log[name] for name in by_log if "@" in name
    }


def test_unknown_items_and_users_of_a_test_count_as_missed(tmp_path: Path, trained: Path, log: Path) -> None:
    test = tmp_path / "test.txt"
    test.write_text(f"user-0 piece/nowhere\nnobody piece/3\nuser-1 {new_item(log, 'user-1')}\n")
    found = evaluate(trained, log, test)
    assert (found["n"], found["n_unknown_items"]) == (3, 2)
    assert found["hr@20"] in (0, pytest.approx(1 / 3))
    test.write_text("nobody piece/3\n")
    with pytest.raises(DataError, match="next item of at least one user"):
        evaluate(trained, log, test)


def test_an_item_that_the_user_knows_is_no_target_of_a_test(tmp_path: Path, trained: Path, log: Path) -> None:
    first = log.read_text().splitlines()[0].split()
    test = tmp_path / "test.txt"
    test.write_text(f"user-0 {first[1]}\nuser-0 {new_item(log, 'user-0')}\n")
    found = evaluate(trained, log, test)
    assert (found["n"], found["n_unknown_items"]) == (1, 0)


def test_logs_without_order_or_common_items_are_refused(tmp_path: Path, trained: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item\nu,piece/1\nu,piece/2\nv,piece/1\n")
    with pytest.raises(DataError, match="neither times nor an order"):
        evaluate(trained, path)
    path = tmp_path / "log.txt"
    path.write_text("u x y z\nv x y\n")
    with pytest.raises(DataError, match="no items in common"):
        evaluate(trained, path)
    with pytest.raises(DataError, match="got train"):
        evaluate(trained, recommender_models.sequences(), split="train")
    with pytest.raises(CheckpointError):
        evaluate(tmp_path / "gone", path)


def test_the_command_prints_the_table_and_json(run_tritone: Callable[..., Any], trained: Path, log: Path) -> None:
    ended = run_tritone("evaluate", "taste_sequence", "--checkpoint", trained, "--data", log, "--baselines")
    assert ended.status == 0
    assert all(name in ended.stdout + ended.stderr for name in ("taste_sequence", *BASELINES))
    ended = run_tritone("evaluate", "taste_sequence", "--checkpoint", trained, "--data", log, "--baselines", "--json")
    found = json.loads(ended.stdout)
    assert found["baselines"].keys() == BASELINES.keys()
    assert found["baselines"]["markov"].keys() == {key for key in found if "@" in key}
    ended = run_tritone("evaluate", "taste_vae", "--checkpoint", trained, "--baselines")
    assert ended.status == 2


# --- what is learned ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_order_of_a_log_is_learned(learned: tuple[Path, Path]) -> None:
    folder, log = learned
    found = evaluate(folder, log, baselines=True)
    assert found["hr@5"] > 0.4
    assert found["ndcg@10"] > 2 * found["baselines"]["popularity"]["ndcg@10"]
    assert found["ndcg@10"] > found["baselines"]["ease"]["ndcg@10"]


@pytest.mark.slow
def test_equal_seeds_give_equal_networks(tmp_path: Path, log: Path) -> None:
    runs = [
        train("taste_sequence", data=log, out=tmp_path / name, preset="tiny", seed=seed, progress=False)
        for name, seed in (("a", 4), ("b", 4), ("c", 5))
    ]
    weights = [checkpoint.load(each.folder, kind="taste_sequence").weights for each in runs]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(np.array_equal(weights[0][name], weights[2][name]) for name in weights[0])


@pytest.mark.slow
def test_items_that_only_metadata_know_are_in_the_network(tmp_path: Path) -> None:
    log, songs = tmp_path / "log.csv", tmp_path / "songs.csv"
    rng = np.random.default_rng(0)
    rows = [
        f"u{user},{'jazz' if user % 2 else 'rock'}-{item},{1000 * place},{int(rng.random() < 0.1)}"
        for user in range(30)
        for place, item in enumerate(rng.permutation(12)[:6])
    ]
    log.write_text("user,item,time,skipped\n" + "\n".join(rows) + "\n")
    names = [f"{genre}-{number}" for genre in ("jazz", "rock") for number in range(15)]
    songs.write_text("id,genre\n" + "\n".join(f"{name},{name.split('-')[0]}" for name in names) + "\n")
    files = ListeningFiles(metadata=songs)
    settings = {"size": 16, "max_epochs": 15, "item_dropout": 0.3, "learning_rate": 0.02}
    result = train(
        "taste_sequence", interactions=log, listening=files, out=tmp_path / "run", preset="tiny", settings=settings,
        progress=False,
    )  # fmt: skip
    network, info = load_network(result.folder)
    items = list(info["items"])
    assert {"jazz-14", "rock-14"} <= set(items)
    assert info["data"]["n_items_without_listeners"] == 6
    import torch

    history = torch.tensor([[items.index("jazz-1"), items.index("jazz-2")]])
    with torch.no_grad():
        scores = network(history, torch.full((1, 2), -1.0), torch.zeros(1, 2))[0][0]
    assert scores[items.index("jazz-14")] > scores[items.index("rock-14")]


def test_without_a_log_sessions_are_simulated(tmp_path: Path) -> None:
    data = load_data(TrainRequest(out=tmp_path, progress=False))
    assert data.report["source"].startswith("simulated sessions")
    assert data.report["n_skips"] > 0
    assert np.isfinite(data.events.time).all()
    assert data.words.shape[1] > 0


# --- baselines ------------------------------------------------------------------------------------------------


def test_baselines_rank_as_they_are_defined(tmp_path: Path) -> None:
    events, items = events_of(tmp_path, "u1 a b c\nu2 a b d\nu3 x a b c\nu4 b a\nu5 z a\n")
    users, index = np.array([3, 4]), {name: number for number, name in enumerate(items)}
    scores = {name: score(events, users, len(items)) for name, score in BASELINES.items()}
    assert all(each.shape == (2, len(items)) for each in scores.values())
    counts = {"a": 5, "b": 4, "c": 2, "d": 1, "x": 1, "z": 1}
    assert scores["popularity"][0].tolist() == [counts[name] for name in items]
    assert scores["markov"][0].argmax() == index["b"], "b mostly follows a, the last item"
    assert scores["markov"].sum(1) == pytest.approx([1, 1], abs=1e-5)
    cosine = scores["item_knn"][0]
    assert cosine[index["b"]] == pytest.approx(4 / np.sqrt(5 * 4), abs=1e-4)
    assert cosine[index["c"]] == pytest.approx(2 / np.sqrt(5 * 2), abs=1e-4)
    played = scores["most_played"][0]
    assert np.isfinite(played).sum() == 2
    binary = (events.listened(len(items)).toarray() > 0).astype(float)
    inverse = np.linalg.inv(binary.T @ binary + 100 * np.eye(len(items)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    np.testing.assert_allclose(scores["ease"], binary[users] @ weights, atol=1e-4)


def test_baselines_of_a_large_catalogue_are_refused() -> None:
    check_size(MOST_ITEMS)
    with pytest.raises(DataError, match="--baselines"):
        check_size(MOST_ITEMS + 1)
