"""`--refit-on-all`: what is served is fitted on all listens, and is never evaluated on listens that it has seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tests.support import recommender_models

from tritone_export import forget_in_checkpoint
from tritone_serving.recommender import read_key
from tritone_serving.recommender.artifact import open_artifact
from tritone_serving.recommender.resolving import Resolver
from tritone_training import EvaluateRequest, TrainingError, TrainRequest, UnsupportedOptionError, get_kind
from tritone_training.data.interactions import Log
from tritone_training.data.interactions.log import merge_logs
from tritone_training.kinds.recommender import checkpoint_writing, train
from tritone_training.kinds.recommender.fitting import taste_network

pytestmark = pytest.mark.slow
KIND = get_kind("recommender")


def request(out: Path, **changes: Any) -> TrainRequest:
    return TrainRequest(
        out=out, preset="tiny", progress=False, data=recommender_models.files(), refit_on_all=True, **changes
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refit") / "run"
    KIND.train(request(folder))
    return folder


def info(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "checkpoint.json").read_text())
    return found


def test_all_listens_are_served(run: Path) -> None:
    served, selection = open_artifact(run / "artifact"), open_artifact(run / "selection" / "artifact")
    log = recommender_models.world().log
    assert len(served.arrays["history.columns"]) == len(log)
    assert len(selection.arrays["history.columns"]) == pytest.approx(0.8 * len(log), rel=0.05)
    assert info(run)["refit"]["n_listens"] == info(run)["data"]["n_train"] == len(log)
    users = Resolver(served, read_key(run / "recommender.key"))
    for user in np.unique(log.user)[:20].tolist():
        row = users.user(log.users[user])
        assert served.rows("history").counts[row] == (log.user == user).sum()


def test_the_held_out_tags_come_back_too(run: Path) -> None:
    assert len(open_artifact(run / "artifact").arrays["tags.by_item.columns"]) >= len(
        open_artifact(run / "selection" / "artifact").arrays["tags.by_item.columns"]
    )


def test_metrics_and_weights_are_those_of_the_selection_and_say_so(run: Path) -> None:
    served, selection = info(run), info(run / "selection")
    assert served["metrics"]["valid"] == selection["metrics"]["valid"]
    assert "was fitted on too" in served["metrics"]["how"]
    assert "was fitted on too" not in selection["metrics"]["how"]
    assert served["ensembles"]["a"]["weights"] == selection["ensembles"]["a"]["weights"]
    assert "refit" in served
    assert "refit" not in selection
    card = KIND.export(run).card
    assert card["refit"] == served["refit"]
    assert "was fitted on too" in card["metrics"]["how"]


def test_taste_vae_is_trained_for_the_selected_number_of_epochs(run: Path) -> None:
    served, selection = info(run / "taste_vae"), info(run / "selection" / "taste_vae")
    assert served["n_epochs"] == selection["best_epoch"]
    assert served["metrics"] == selection["metrics"]
    assert "was fitted on too" in served["metrics_of"]
    assert served["weights_sha256"] != selection["weights_sha256"]


def test_evaluation_on_held_out_listens_uses_the_fit_without_them(run: Path) -> None:
    result = KIND.evaluate(EvaluateRequest(checkpoint=run, data=recommender_models.files(), progress=False))
    assert "without the held-out listens" in result.details["fit"]
    assert any("without the held-out listens" in str(line) for line in result.summary)
    data = replace(recommender_models.files(), key=run / "recommender.key")
    alone = KIND.evaluate(EvaluateRequest(checkpoint=run / "selection", data=data, progress=False))
    assert alone.metrics["ensemble"] == result.metrics["ensemble"]


def write_test(path: Path, pairs: list[tuple[str, str]]) -> Path:
    path.write_text("who\twhat\tn\n" + "".join(f"{user}\t{item}\t1\n" for user, item in pairs))
    return path


def unseen_pairs() -> list[tuple[str, str]]:
    log = recommender_models.world().log
    known = set(zip(log.user.tolist(), log.item.tolist(), strict=True))
    every = ((u, i) for u in np.unique(log.user).tolist() for i in np.unique(log.item).tolist())
    return [(log.users[u], log.items[i]) for u, i in every if (u, i) not in known][:200:7]


def test_evaluation_on_other_listens_uses_what_is_served(run: Path, tmp_path: Path) -> None:
    files = replace(recommender_models.files(), test=write_test(tmp_path / "test.tsv", unseen_pairs()))
    result = KIND.evaluate(EvaluateRequest(checkpoint=run, data=files, progress=False))
    assert "fit" not in result.details
    assert result.metrics["n_held_out"] == len(unseen_pairs())


def test_evaluation_on_listens_of_the_fit_is_refused(run: Path, tmp_path: Path) -> None:
    log = recommender_models.world().log
    seen = (log.users[log.user[0]], log.items[log.item[0]])
    files = replace(recommender_models.files(), test=write_test(tmp_path / "test.tsv", [*unseen_pairs(), seen]))
    with pytest.raises(TrainingError, match=r"fitted on 1 of the .* held-out listens"):
        KIND.evaluate(EvaluateRequest(checkpoint=run, data=files, progress=False))


def test_a_user_is_forgotten_in_both_fits(run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    user = recommender_models.world().log.users[3]
    forget_in_checkpoint(user, copied)
    key = read_key(copied / "recommender.key")
    for folder in (copied, copied / "selection"):
        assert Resolver(open_artifact(folder / "artifact"), key).user(user) == -1
    KIND.evaluate(EvaluateRequest(checkpoint=copied, data=recommender_models.files(), progress=False))


def interrupted_call(function: Callable[..., Any], number: int) -> Callable[..., Any]:
    """Return a function that is interrupted at its call of this number."""
    calls = 0

    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return run


@pytest.mark.parametrize(
    ("module", "step", "number"),
    [(train, "select_ensemble", 1), (taste_network, "train_taste", 2), (checkpoint_writing, "write_artifact", 2)],
)
def test_an_interrupted_training_resumes_to_the_same_result(
    run: Path, *, module: ModuleType, step: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, key = tmp_path / "run", run / "recommender.key"
    data = replace(recommender_models.files(), key=key)
    with monkeypatch.context() as patch:
        patch.setattr(module, step, interrupted_call(getattr(module, step), number))
        with pytest.raises(KeyboardInterrupt):
            KIND.train(replace(request(out), data=data))
    KIND.train(replace(request(out), data=data, resume=True))
    assert info(out / "taste_vae")["weights_sha256"] == info(run / "taste_vae")["weights_sha256"]
    assert info(out)["metrics"] == info(run)["metrics"]
    assert not (out / "unfinished").exists()


def test_a_training_without_it_removes_the_second_fit(run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    KIND.train(replace(request(copied, overwrite=True), refit_on_all=False, overrides={"taste_vae": False}))
    assert not (copied / "selection").exists()
    assert "refit" not in info(copied)


def test_other_kinds_refuse_it(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOptionError, match="refit_on_all"):
        get_kind("taste_vae").train(TrainRequest(out=tmp_path / "run", refit_on_all=True))


def test_merged_logs_add_plays_and_keep_the_first_time() -> None:
    def log(pairs: list[tuple[int, int]], times: list[float] | None) -> Log:
        user, item = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
        time = None if times is None else np.array(times)
        return Log("log", ["a", "b"], ["x", "y"], user, item, np.ones(len(pairs), np.float32), time)

    merged = merge_logs([log([(0, 0), (1, 1)], [5.0, 6.0]), log([(0, 0)], [3.0])])
    assert merged.matrix().toarray().tolist() == [[2, 0], [0, 1]]
    assert merged.time is not None
    assert merged.time.tolist() == [3.0, 6.0]
    without_times = merge_logs([log([(1, 0)], [5.0]), log([(1, 0)], None)])
    assert (without_times.users, without_times.items, without_times.time) == (["b"], ["x"], None)
