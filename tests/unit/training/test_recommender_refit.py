"""`tritone refit`: events become part of the fit, forgotten users stay away, and interruptions are continued."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from filelock import FileLock
from tests.support import recommender_models

from tritone_export import forget_in_checkpoint
from tritone_serving.events import EventStoreError, checked_event, event_id, open_store
from tritone_serving.recommender import Artifact, read_key
from tritone_serving.recommender.artifact import open_artifact
from tritone_serving.recommender.artifact_writing import write_artifact
from tritone_serving.recommender.new_items import NewItem, with_items
from tritone_serving.recommender.pseudonyms import Pseudonym, pseudonym
from tritone_serving.recommender.resolving import Resolver
from tritone_training import TrainingError
from tritone_training.data.interactions import Log
from tritone_training.kinds.recommender.checkpoint_writing import write_fit
from tritone_training.kinds.recommender.refit import pipeline
from tritone_training.kinds.recommender.refit.comparison import Comparison
from tritone_training.kinds.recommender.refit.pipeline import STAGES, run_refit
from tritone_training.kinds.recommender.refit.state import RefitRefusedError, RefitRequest
from tritone_training.kinds.recommender.refit.stored_events import (
    StoredEvents,
    known_events,
    merged_log,
    new_listens,
    user_names,
    without_forgotten,
)

KEY = b"k" * 32
NOW = 1_700_000_000.0
KINDS = ("play", "skip", "like", "dislike")


# --- events and the log ------------------------------------------------------------------------------------------


def log_of(pairs: list[tuple[str, str, float]]) -> Log:
    users, items = sorted({u for u, _, _ in pairs}), sorted({i for _, i, _ in pairs})
    return Log(
        "log",
        users,
        items,
        np.array([users.index(u) for u, _, _ in pairs]),
        np.array([items.index(i) for _, i, _ in pairs]),
        np.array([n for _, _, n in pairs], np.float32),
    )


def events_of(rows: list[tuple[str, str, str]], start: float = NOW) -> StoredEvents:
    """Return events (raw user, track, kind), a second apart."""
    return StoredEvents(
        np.array([pseudonym(KEY, user).hex() for user, _, _ in rows], object),
        np.array([track for _, track, _ in rows], object),
        np.array([KINDS.index(kind) for _, _, kind in rows], np.int8),
        start + np.arange(len(rows), dtype=np.float64),
        np.full(len(rows), start),
    )


def plays_of(log: Log) -> dict[tuple[str, str], float]:
    return {
        (log.users[u], log.items[i]): float(n)
        for u, i, n in zip(log.user.tolist(), log.item.tolist(), log.plays.tolist(), strict=True)
    }


def merged(log: Log, rows: list[tuple[str, str, str]]) -> dict[tuple[str, str], float]:
    return plays_of(merged_log(log, events_of(rows), user_names(log, KEY)))


def test_plays_and_likes_are_added_to_the_log_of_the_same_user() -> None:
    log = log_of([("ann", "x", 2.0), ("bob", "x", 1.0)])
    found = merged(log, [("ann", "x", "play"), ("ann", "y", "like"), ("new", "x", "play")])
    stranger = pseudonym(KEY, "new").hex()
    assert found == {("ann", "x"): 3.0, ("ann", "y"): 3.0, ("bob", "x"): 1.0, (stranger, "x"): 1.0}


def test_skips_take_plays_away_and_a_dislike_removes_the_pair() -> None:
    log = log_of([("ann", "x", 2.0), ("ann", "y", 5.0), ("ann", "z", 1.0), ("bob", "y", 1.0)])
    rows = [("ann", "x", "skip"), ("ann", "z", "skip"), ("ann", "y", "dislike"), ("ann", "w", "skip")]
    assert merged(log, rows) == {("ann", "x"): 1.0, ("bob", "y"): 1.0}
    assert merged(log, [*rows, ("ann", "y", "like")])["ann", "y"] == 8.0


def test_an_event_user_that_is_in_the_log_keeps_the_raw_id() -> None:
    log = log_of([("ann", "x", 1.0), ("bob", "y", 1.0)])
    found = merged_log(log, events_of([("ann", "y", "play"), ("new", "y", "play")]), user_names(log, KEY))
    assert {user: isinstance(user, Pseudonym) for user in found.users} == {
        "ann": False,
        "bob": False,
        pseudonym(KEY, "new").hex(): True,
    }
    assert pseudonym(KEY, next(user for user in found.users if isinstance(user, Pseudonym))) == pseudonym(KEY, "new")


def test_events_of_unknown_tracks_and_forgotten_users_are_left_out() -> None:
    from tritone_serving.recommender.forgotten import mark_of

    marks = {mark_of(KEY, pseudonym(KEY, "gone"))}
    events = events_of([("ann", "x", "play"), ("ann", "?", "play"), ("gone", "x", "play")])
    kept, left_out = known_events(events, {"x"}, KEY, marks)
    assert kept.users.tolist() == [pseudonym(KEY, "ann").hex()]
    assert left_out == {"n_of_unknown_tracks": 1, "n_of_forgotten_users": 1}
    log, n_forgotten = without_forgotten(log_of([("ann", "x", 1.0), ("gone", "x", 1.0)]), KEY, marks)
    assert plays_of(log) == {("ann", "x"): 1.0}
    assert n_forgotten == 1


def test_the_latest_day_is_split_off_if_it_has_enough_new_listens() -> None:
    log = log_of([("ann", "x", 1.0)])
    old = events_of([("ann", f"old{n}", "play") for n in range(50)], NOW)
    new = events_of([("ann", f"new{n}", "play") for n in range(20)], NOW + 200_000)
    both = StoredEvents(*(np.concatenate(parts) for parts in zip(vars(old).values(), vars(new).values(), strict=True)))
    names = user_names(log, KEY)
    assert new_listens(both, log, names, last_s=86_400, least=10)[1] == 20
    until, n = new_listens(both, log, names, last_s=86_400, least=40)
    assert n == 40
    assert until < NOW + 200_000
    assert new_listens(events_of([("ann", "x", "play")]), log, names, last_s=86_400, least=1)[1] == 0


def test_a_table_of_events_is_private_and_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "events.npz"
    events = events_of([("ann", "x", "play"), ("bob", "\u00e9\U0001f3b5", "skip")])
    events.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    again = StoredEvents.load(path)
    assert again is not None
    assert again.tracks.tolist() == events.tracks.tolist()
    assert again.kinds.tolist() == events.kinds.tolist()
    path.write_bytes(path.read_bytes()[:40])
    assert StoredEvents.load(path) is None
    assert StoredEvents.load(tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("before", "after", "error", "is_worse"),
    [(0.2, 0.21, 0.001, False), (0.2, 0.195, 0.001, False), (0.2, 0.18, 0.001, True), (0.2, 0.18, 0.05, False)],
)
def test_only_a_clear_loss_is_refused(before: float, after: float, error: float, is_worse: bool) -> None:
    assert Comparison(before, after, error, 10, 100).is_worse(0.05) is is_worse


# --- whole refits ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(recommender_models.checkpoint(), tmp_path / "run"))


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store with a play and a like of tracks that each of many users did not listen to, and of a new user."""
    url = f"sqlite://{tmp_path}/events.db"
    log = recommender_models.world().log
    key = read_key(recommender_models.checkpoint() / "recommender.key")
    known = set(zip(log.user.tolist(), log.item.tolist(), strict=True))
    rows = []
    now = time.time()
    for user in np.unique(log.user).tolist():
        fresh = [item for item in range(len(log.items)) if (user, item) not in known][:4]
        rows += [(log.users[user], log.items[item], "play" if place else "like") for place, item in enumerate(fresh)]
    rows += [("newcomer", log.items[item], "play") for item in range(5)]
    rows += [(log.users[log.user[0]], log.items[log.item[0]], "dislike")]
    events = []
    for number, (user, track, kind) in enumerate(rows):
        name = pseudonym(key, user).hex()
        at = now - 3 * 86_400 + number * 3 * 86_400 / len(rows)
        events.append(
            checked_event(id=event_id(key, name, str(uuid4())), user=name, track=track, kind=kind, at=at, now=now)
        )
    with closing(open_store(url)) as opened:
        opened.append(events)
    return url


def request(run: Path, store: str | None, **changes: Any) -> RefitRequest:
    return RefitRequest(checkpoint=run, events=store, **{"progress": False, "force": True, **changes})


def info(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "checkpoint.json").read_text())
    return found


def resolver(run: Path) -> tuple[Artifact, Resolver]:
    artifact = open_artifact(run / "artifact")
    return artifact, Resolver(artifact, read_key(run / "recommender.key"))


@pytest.mark.slow
def test_log_and_events_become_a_new_checkpoint(run: Path, store: str) -> None:
    before = info(run)
    stages: list[str] = []
    published: list[Path] = []

    def publish(folder: Path) -> dict[str, int]:
        published.append(folder)
        assert (folder / "checkpoint.json").is_file()
        return {"recommender": 2}

    result = run_refit(request(run, store), publish=publish, on_stage=lambda stage, left_s: stages.append(stage))
    assert stages == list(STAGES)
    assert (result.status, result.versions, len(published)) == ("published", {"recommender": 2}, 1)
    assert result.comparison is not None
    assert result.comparison.n_listens >= 30
    log = recommender_models.world().log
    n_events = 4 * len(np.unique(log.user)) + 5
    assert result.n_listens == len(log) + n_events - 1
    artifact, users = resolver(run)
    assert artifact.n_users == before["n_users"] + 1
    assert users.user("newcomer") >= 0
    assert users.n_stored(users.user("newcomer")) == 5
    disliked = users.item(log.items[log.item[0]])
    assert disliked not in artifact.rows("history").row(users.user(log.users[log.user[0]]))[0]
    after = info(run)
    assert after["ensembles"]["a"]["weights"] == before["ensembles"]["a"]["weights"]
    with closing(open_store(store)) as opened:
        received = [event.received for event in opened.scan(limit=10_000)]
    assert artifact.manifest["events"]["through"] == max(received)
    assert after["asked"] == before["asked"]
    assert after["refit_run"]["events"]["like"] > 0
    assert set(after["refit_run"]["seconds"]) >= {"fit", "compare", "fit_on_all"}
    assert not (run / "unfinished").exists()
    assert {path.stat().st_mode & 0o077 for path in (run / "artifact").iterdir()} == {0}


@pytest.mark.slow
def test_without_new_data_nothing_happens(run: Path, store: str) -> None:
    run_refit(request(run, store))
    before = info(run)
    result = run_refit(request(run, store, force=False))
    assert result.status == "nothing new"
    assert info(run) == before
    assert run_refit(request(run, store, force=True)).status == "fitted"


@pytest.mark.slow
def test_a_refit_without_events_uses_the_whole_log(run: Path) -> None:
    result = run_refit(request(run, None, force=False))
    assert result.status == "fitted"
    assert result.comparison is None
    assert len(open_artifact(run / "artifact").arrays["history.columns"]) == len(recommender_models.world().log)
    assert run_refit(request(run, None, force=False)).status == "nothing new"


@pytest.mark.slow
def test_a_dry_run_changes_nothing(run: Path, store: str) -> None:
    before = info(run)
    result = run_refit(request(run, store, dry_run=True))
    assert result.status == "dry run"
    assert result.events["n"] > 0
    assert info(run) == before
    assert not (run / "unfinished").exists()


@pytest.mark.slow
def test_a_forgotten_user_does_not_come_back_from_the_log(run: Path, store: str) -> None:
    user = recommender_models.world().log.users[3]
    forget_in_checkpoint(user, run)
    for _ in range(2):  # the marks are carried over
        result = run_refit(request(run, store))
        assert result.n_forgotten == 1
        assert result.events["n_of_forgotten_users"] > 0
        assert resolver(run)[1].user(user) == -1


@pytest.mark.slow
def test_a_user_who_is_forgotten_meanwhile_stops_the_refit(
    run: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = recommender_models.world().log.users[3]

    def forgotten_meanwhile(*args: Any, **kwargs: Any) -> Any:
        forget_in_checkpoint(user, run)
        return write_fit(*args, **kwargs)

    monkeypatch.setattr(pipeline, "write_fit", forgotten_meanwhile)
    with pytest.raises(TrainingError, match="was removed by `tritone forget` while the refit ran"):
        run_refit(request(run, store), publish=lambda folder: pytest.fail("it was published"))
    assert resolver(run)[1].user(user) == -1
    monkeypatch.undo()
    assert run_refit(request(run, store)).n_forgotten == 1


@pytest.mark.slow
def test_tracks_that_were_added_to_the_served_version_are_kept(run: Path, store: str, tmp_path: Path) -> None:
    artifact = open_artifact(run / "artifact")
    tag = artifact.texts("tags")[0]
    manifest, arrays, _ = with_items(artifact, [NewItem("new/1", "New title", "New artist", frozenset({tag}))])
    served = Artifact(tmp_path, manifest, arrays)
    run_refit(request(run, store), served=lambda: served)
    run_refit(request(run, store))  # they stay, although they are in no table
    after = open_artifact(run / "artifact")
    place = after.texts("items").index("new/1")
    tags = after.texts("tags")
    assert after.texts("titles")[place] == "New title"
    assert tag in {tags[each] for each in after.rows("tags.by_item").row(place)[0].tolist()}


@pytest.mark.slow
def test_base_models_that_the_training_did_not_have_are_left_out(run: Path, store: str) -> None:
    artifact = open_artifact(run / "artifact")
    manifest: Any = {name: value for name, value in artifact.manifest.items() if name != "arrays"}
    del manifest["base_models"]["graph"]
    for described in manifest["ensembles"].values():
        for name in ("weights", "cold_items", "minimum_weights"):
            for table in described.get(name, {}).values():
                table.pop("graph", None)
    write_artifact(artifact.folder, manifest, artifact.arrays)
    assert run_refit(request(run, store)).status == "fitted"
    assert "graph" not in open_artifact(run / "artifact").manifest["base_models"]


@pytest.mark.slow
def test_a_clearly_worse_refit_is_refused_unless_forced(run: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = info(run)
    worse = Comparison(0.2, 0.1, 0.001, 50, 100)
    monkeypatch.setattr(pipeline, "compare", lambda *args, **kwargs: worse)
    with pytest.raises(
        RefitRefusedError, match=r"NDCG@10 is 0.1000, that of the previous recommender 0.2000"
    ) as caught:
        run_refit(request(run, store, force=False), publish=lambda folder: pytest.fail("it was published"))
    assert caught.value.comparison == worse
    assert info(run) == before
    assert run_refit(request(run, store, force=True)).comparison == worse


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_refit_that_was_killed_in_any_stage_is_continued(run: Path, store: str, stage: str) -> None:
    def kill(name: str, left_s: float | None) -> None:
        if name == stage:
            raise Killed

    n_published = 0

    def publish(folder: Path) -> dict[str, int]:
        nonlocal n_published
        n_published += 1
        return {"recommender": 1 + n_published}

    before = info(run)
    with pytest.raises(Killed):
        run_refit(request(run, store), publish=publish, on_stage=kill)
    assert info(run) == before
    stages: list[str] = []
    result = run_refit(request(run, store), publish=publish, on_stage=lambda name, left_s: stages.append(name))
    done = [name for name in ("fit", "compare", "fit_on_all", "publish") if STAGES.index(name) < STAGES.index(stage)]
    assert list(result.resumed) == done
    assert not set(done) & set(stages)
    assert n_published == 1
    assert info(run)["refit_run"]["versions"] == {"recommender": 2}
    assert not (run / "unfinished").exists()


@pytest.mark.slow
def test_a_kill_between_two_renames_is_completed(run: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pipeline.put_in_place

    def killed(folder: Path, staged: Path, parts: tuple[str, ...]) -> None:
        real(folder, staged, parts[:1])
        raise Killed

    monkeypatch.setattr(pipeline, "put_in_place", killed)
    with pytest.raises(Killed):
        run_refit(request(run, store))
    monkeypatch.undo()
    result = run_refit(request(run, store))
    assert result.status == "fitted"
    artifact, _ = resolver(run)
    assert artifact.manifest["fit"] == info(run)["fit"]
    assert not (run / "unfinished").exists()


@pytest.mark.slow
def test_other_events_or_settings_begin_again(run: Path, store: str) -> None:
    def kill(name: str, left_s: float | None) -> None:
        if name == "fit_on_all":
            raise Killed

    with pytest.raises(Killed):
        run_refit(request(run, store), on_stage=kill)
    log = Path(info(run)["asked"]["interactions"])
    longer = run.parent / "longer.tsv"
    longer.write_text(log.read_text() + "someone\tpiece/1\t3\nsomeone\tpiece/2\t3\n")
    result = run_refit(request(run, store, interactions=longer))
    assert result.resumed == ()
    assert resolver(run)[1].user("someone") >= 0


@pytest.mark.slow
def test_two_at_once_are_refused(run: Path, store: str) -> None:
    with FileLock(run / ".refit.lock"), pytest.raises(TrainingError, match="another refit of it is running"):
        run_refit(request(run, store))


@pytest.mark.slow
def test_a_process_that_is_killed_is_continued_by_the_same_command(run: Path, store: str) -> None:
    command = [sys.executable, "-m", "tritone_cli", "refit", "--checkpoint", run, "--events", store, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = run / "unfinished" / "refit" / "state.json"
    while process.poll() is None and '"fit"' not in (state.read_text() if state.exists() else ""):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["status"] in ("fitted", "nothing new")
    artifact, users = resolver(run)
    assert artifact.manifest["fit"] == info(run)["fit"]
    assert users.user("newcomer") >= 0


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_damaged_or_missing_event_store_changes_nothing(run: Path, tmp_path: Path) -> None:
    before = info(run)
    path = tmp_path / "damaged.db"
    path.write_bytes(b"no database" * 100)
    for url in (f"sqlite://{path}", f"sqlite://{tmp_path}/missing.db"):
        with pytest.raises(EventStoreError):
            run_refit(request(run, url))
    assert info(run) == before


@pytest.mark.slow
def test_a_store_that_is_down_is_reported_without_a_traceback(run: Path, run_tritone: Callable[..., Any]) -> None:
    ended = run_tritone("refit", "--checkpoint", str(run), "--events", "valkey://127.0.0.1:9/0?timeout_s=0.1")
    assert ended.status == 1
    assert "it does not answer" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_log_with_other_columns_is_refused_by_name(run: Path, store: str) -> None:
    changed = run.parent / "changed.tsv"
    changed.write_text("listener\tsong\tn\na\tb\t1\nc\td\t1\n")
    with pytest.raises(TrainingError, match="who"):
        run_refit(request(run, store, interactions=changed))


@pytest.mark.slow
def test_a_missing_or_wrong_key_is_refused(run: Path, store: str, tmp_path: Path) -> None:
    (run / "recommender.key").rename(tmp_path / "kept.key")
    with pytest.raises(TrainingError, match="cannot be read"):
        run_refit(request(run, store))
    other = tmp_path / "other.key"
    other.write_text("ab" * 32)
    with pytest.raises(TrainingError, match="wrong key"):
        run_refit(request(run, store, key=other))
    assert run_refit(request(run, store, key=tmp_path / "kept.key")).status == "fitted"


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint"):
        run_refit(request(tmp_path / "missing", None))
    with pytest.raises(TrainingError, match="holds no checkpoint"):
        run_refit(request(tmp_path, None))


@pytest.mark.slow
def test_settings_of_another_version_are_refused(run: Path) -> None:
    path = run / "checkpoint.json"
    found = json.loads(path.read_text())
    found["config"]["taste"] = found["config"].pop("taste_vae")
    path.write_text(json.dumps(found))
    with pytest.raises(TrainingError, match=r"settings are of another version .*; train it again"):
        run_refit(request(run, None))


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_and_is_continued(
    run: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    before = info(run)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_fit", full)
        with pytest.raises(TrainingError, match="No space left on device"):
            run_refit(request(run, store))
    assert info(run) == before
    assert run_refit(request(run, store)).status == "fitted"


@pytest.mark.slow
def test_the_command_reports(run: Path, store: str, run_tritone: Callable[..., Any]) -> None:
    ended = run_tritone("refit", "--checkpoint", run, "--events", store, "--dry-run")
    assert ended.status == 0
    assert "dry run: nothing was changed" in ended.stderr
    assert run_tritone("refit", "--checkpoint", run, "--server", "localhost:1").status == 2
    found = json.loads(run_tritone("refit", "--checkpoint", run, "--events", store, "--force", "--json").stdout)
    assert found["status"] == "fitted"
    again = run_tritone("refit", "--checkpoint", run, "--events", store)
    assert again.status == 0
    assert "nothing new" in again.stderr
