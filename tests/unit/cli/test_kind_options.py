"""Options that a kind does not support are refused before any file is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from tritone_training.data.interactions import ListeningFiles, join_data
from tritone_training.exceptions import CheckpointError, DataError, UnsupportedOptionError
from tritone_training.kind import KIND_OPTIONS, EvaluateRequest, TrainRequest, data_path
from tritone_training.python_api import train
from tritone_training.registry import get_kind, kind_names
from tritone_training.tuning import tune

VERBS = ("train", "evaluate", "crossvalidate", "tune", "export")
OF_LOGS = dict.fromkeys(("interactions", "valid", "user_column", "item_column", "plays_column"), "x.csv")
OF_TRAINING = dict.fromkeys(("friends", "item_tags", "tag_names", "metadata", "recordings", "genre_checkpoint"), "x")
OPTIONS = {
    "train": {
        **OF_LOGS,
        **OF_TRAINING,
        "key": "k",
        "report": "r",
        "tag_column": "t",
        "friend_column": "f",
        "devices": "2",
        **dict.fromkeys(("engine", "engine_address", "read"), "local"),
        "workers": "2",
        "taste_vae": "c",
    },
    "evaluate": {"interactions": "x.csv", "test": "x.csv", "time_column": "t", "key": "k", "report": "r"},
    "crossvalidate": {**OF_LOGS, **OF_TRAINING, "seeds": "2", "devices": "2", "engine": "local", "workers": "2"},
    "tune": {**OF_LOGS, **OF_TRAINING, "rating_column": "r", "devices": "2"},
    "export": OF_LOGS,
}


def unwrapped(panel: str) -> str:
    """Return the text of an error panel in one line, wherever the terminal's width wraps it."""
    return " ".join(panel.replace("│", " ").split())


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", kind_names())
def test_every_unsupported_option_of_a_kind_is_refused(
    run_tritone: Callable[..., Any], verb: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    required = ("--checkpoint", "none") if verb == "evaluate" else ()
    for name, value in OPTIONS[verb].items():
        flag = f"--{name.replace('_', '-')}"
        if name in get_kind(kind).options:
            continue
        ended = run_tritone(verb, kind, *required, flag, value)
        assert ended.status == 2
        assert f"{kind} does not support {flag}" in unwrapped(ended.stderr)
        assert "remove it" in unwrapped(ended.stderr)
    assert list(tmp_path.iterdir()) == []


def test_supported_options_are_not_refused(run_tritone: Callable[..., Any], tmp_path: Path) -> None:
    for kind, flag in (("recommender", "--friends"), ("taste_vae", "--metadata"), ("taste_vae", "--devices")):
        ended = run_tritone("train", kind, "--interactions", tmp_path / "gone.csv", flag, "2")
        assert "does not support" not in ended.stderr
        assert "gone.csv" in ended.stderr
    for kind in ("genre_cnn", "music_gan"):
        ended = run_tritone("train", kind, "--data", tmp_path / "gone", "--devices", "1")  # the default value
        assert "does not support" not in ended.stderr
        assert "gone" in ended.stderr


def test_the_error_names_the_kinds_that_support_the_options(run_tritone: Callable[..., Any]) -> None:
    ended = run_tritone("train", "genre_cnn", "--friends", "f.csv", "--key", "k")
    assert "genre_cnn does not support --friends and --key" in unwrapped(ended.stderr)
    assert "remove them (supported by recommender)" in unwrapped(ended.stderr)
    assert run_tritone("train", "none_such", "--friends", "f.csv").status == 1


def test_the_declared_options_exist() -> None:
    for name in kind_names():
        assert get_kind(name).options <= KIND_OPTIONS
        assert "data" in get_kind(name).options


@pytest.mark.parametrize("name", [each.name for each in fields(ListeningFiles)])
def test_unsupported_options_are_refused_in_python(name: str, tmp_path: Path) -> None:
    listening = ListeningFiles(**{name: tmp_path / "x" if not name.endswith("column") else "x"})
    with pytest.raises(UnsupportedOptionError) as caught:
        get_kind("genre_cnn").train(TrainRequest(out=tmp_path / "run", data=listening))
    assert caught.value.options == (name,)
    assert not (tmp_path / "run").exists()


REQUEST_OPTIONS = {"fold": 1, "pretrained": "musicnn", "warm_start": Path("other")}


@pytest.mark.parametrize("kind", kind_names())
def test_requests_with_options_that_a_kind_does_not_take_are_refused(kind: str, tmp_path: Path) -> None:
    model_kind = get_kind(kind)
    for name, value in REQUEST_OPTIONS.items():
        if name in model_kind.options:
            continue
        request = TrainRequest(out=tmp_path / "run", preset="tiny", progress=False, **{name: value})
        with pytest.raises(UnsupportedOptionError) as caught:
            model_kind.train(request)
        assert caught.value.options == (name,)
        with pytest.raises(UnsupportedOptionError):
            tune(model_kind, request, n_trials=1)
    if "fold" not in model_kind.options:
        with pytest.raises(UnsupportedOptionError) as caught:
            model_kind.evaluate(EvaluateRequest(checkpoint=tmp_path, fold=1))
        assert caught.value.options == ("fold",)
    assert list(tmp_path.iterdir()) == []


def test_supported_options_by_kind() -> None:
    takers = {name: [kind for kind in kind_names() if name in get_kind(kind).options] for name in REQUEST_OPTIONS}
    assert takers["fold"] == takers["pretrained"] == ["genre_cnn"]
    assert takers["warm_start"] == [kind for kind in kind_names() if kind != "recommender"]


def test_kinds_with_crossvalidation(run_tritone: Callable[..., Any], tmp_path: Path) -> None:
    for kind in kind_names():
        if kind in ("genre_cnn", "recommender"):
            assert get_kind(kind).cross_validator is not None
            continue
        ended = run_tritone("crossvalidate", kind, "--out", tmp_path / "run")
        assert ended.status == 1
        assert f"{kind} has no cross-validation" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_logs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected one of --data and --interactions"):
        join_data(tmp_path / "b.csv", ListeningFiles(interactions=tmp_path / "a.csv"))
    with pytest.raises(DataError):
        train("taste_vae", data=tmp_path / "b.csv", interactions=tmp_path / "a.csv", out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["train", "evaluate", "crossvalidate", "tune"])
def test_two_logs_are_refused_on_the_command_line(
    run_tritone: Callable[..., Any], verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    required = ("--checkpoint", "none") if verb == "evaluate" else ()
    ended = run_tritone(verb, "recommender", *required, "--data", "b.csv", "--interactions", "a.csv")
    assert ended.status == 1
    assert "expected one of --data and --interactions" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_data_of_a_request(tmp_path: Path) -> None:
    path, files = tmp_path / "a.csv", ListeningFiles(friends=tmp_path / "f.csv")
    assert join_data(None, ListeningFiles()) is None
    assert join_data(path, ListeningFiles()) == path
    assert join_data(None, files) == files
    assert join_data(path, files) == replace(files, interactions=path)


def test_options_of_a_log_are_refused_with_a_path_in_python(tmp_path: Path) -> None:
    files = ListeningFiles(friends=tmp_path / "f.csv")
    with pytest.raises(UnsupportedOptionError) as caught:
        train("genre_cnn", data=tmp_path, listening=files, out=tmp_path / "run")
    assert caught.value.options == ("friends",)


@pytest.mark.parametrize("kind", [name for name in kind_names() if "interactions" not in get_kind(name).options])
def test_listening_files_without_entries_are_no_path(kind: str, tmp_path: Path) -> None:
    request = TrainRequest(out=tmp_path / "run", data=ListeningFiles(), preset="tiny", progress=False)
    with pytest.raises(UnsupportedOptionError) as caught:
        get_kind(kind).train(request)
    assert caught.value.options == ("data",)
    with pytest.raises(UnsupportedOptionError):
        data_path(request)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", kind_names())
def test_pretrained_backbones_of_a_kind_are_declared(kind: str, tmp_path: Path) -> None:
    model_kind = get_kind(kind)
    assert (model_kind.pretrained_exporter is not None) == ("pretrained" in model_kind.options)
    if model_kind.pretrained_exporter is None:
        for folder in (None, tmp_path):
            with pytest.raises(CheckpointError, match="has no pretrained backbones"):
                model_kind.export(folder, "musicnn")
    with pytest.raises(CheckpointError, match="train first"):
        model_kind.export(None)
