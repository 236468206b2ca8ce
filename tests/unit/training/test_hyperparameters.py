"""Hyper-parameters of every kind: presets, bounds, files, and the search spaces of `tritone tune`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from tritone_training import HyperparameterError, TrainingError, TrainRequest, get_kind, kind_names
from tritone_training.hyperparameters import MAX_CONFIG_BYTES, from_preset, read_config
from tritone_training.kinds.genre_cnn.config import PRETRAINED_CHANGES

INVALID: list[tuple[str, dict[str, Any]]] = [
    ("genre_cnn", {"widht": 3}),
    ("genre_cnn", {"self": 3}),
    ("genre_cnn", {"width": 0}),
    ("genre_cnn", {"dropout": 1.0}),
    ("genre_cnn", {"learning_rate": 0.0}),
    ("genre_cnn", {"refit": 1}),
    ("music_gan", {"depth": 3}),
    ("music_gan", {"width": 0}),
    ("music_gan", {"critic_steps": 1.5}),
    ("music_gan", {"learning_rate": math.inf}),
    ("music_gan", {"gradient_penalty": -1}),
    ("music_gan", {"average_decay": 1}),
    ("music_gan", {"style_balance": -1}),
    ("music_vae", {"wdith": 3}),
    ("music_vae", {"width": 2.5}),
    ("music_vae", {"beta": math.nan}),
    ("music_vae", {"beta": -1}),
    ("music_vae", {"word_dropout": 1}),
    ("music_vae", {"style_balance": 2}),
    ("music_vae", {"max_epochs": True}),
    ("polyphony_rnn", {"hidden": 0}),
    ("polyphony_rnn", {"hidden": 1.5}),
    ("polyphony_rnn", {"dropout": 1.0}),
    ("polyphony_rnn", {"learning_rate": math.nan}),
    ("polyphony_rnn", {"weight_decay": -1}),
    ("polyphony_rnn", {"reach": "12"}),
    ("music_transformer", {"width": 1.5}),
    ("music_transformer", {"width": True}),
    ("music_transformer", {"dropout": 1.0}),
    ("music_transformer", {"given_share": 1.1}),
    ("music_transformer", {"learning_rate": 0}),
    ("music_transformer", {"window": 0}),
    ("music_transformer", {"weight_decay": math.nan}),
    ("music_transformer", {"transpose": 2}),
    ("music_transformer", {"batch_frames": 1}),
    ("taste_vae", {"latent": 0}),
    ("taste_vae", {"temperature": 0.001}),
    ("taste_vae", {"rarity": 1.1}),
    ("recommender", {"ease_l2": 0}),
    ("recommender", {"power": math.nan}),
    ("recommender", {"ease_l2": 1e300}),
    ("recommender", {"power": 9.0}),
    ("recommender", {"n_neighbours": 2.5}),
    ("recommender", {"user_knn_people": 0}),
    ("recommender", {"taste_vae": 2}),
    ("recommender", {"taste_vae_preset": 3}),
    ("recommender", {"width": 3}),
]


@pytest.mark.parametrize(("kind", "changes"), INVALID)
def test_an_invalid_value_is_refused_by_name(kind: str, changes: dict[str, Any]) -> None:
    with pytest.raises(HyperparameterError) as caught:
        from_preset(get_kind(kind).presets, "tiny", changes)
    assert caught.value.fields == tuple(changes)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("polyphony_rnn", {"warmup_frames": 48}), ("music_transformer", {"width": 18, "n_heads": 4})],
)
def test_values_that_exclude_each_other_are_refused(kind: str, changes: dict[str, Any]) -> None:
    with pytest.raises(HyperparameterError) as caught:
        from_preset(get_kind(kind).presets, "tiny", changes)
    assert caught.value.fields == ("",)


def test_the_error_names_value_bound_and_known_fields() -> None:
    with pytest.raises(HyperparameterError) as caught:
        from_preset(get_kind("genre_cnn").presets, "tiny", {"width": 0, "widht": 3})
    assert caught.value.fields == ("width", "widht")
    assert "width: expected greater than or equal to 1, got 0" in str(caught.value)
    assert "no hyper-parameter widht; there are: width, dropout" in str(caught.value)


def test_values_of_any_size_give_a_short_error() -> None:
    value: list[Any] = []
    for _ in range(40):  # shared, so that all of it is small, and its text 2**40 characters
        value = [value, value]
    with pytest.raises(HyperparameterError) as caught:
        from_preset(get_kind("genre_cnn").presets, "tiny", {"width": value, "x" * 10_000: 1})
    assert len(str(caught.value)) < 5_000


@pytest.mark.parametrize("kind", kind_names())
def test_presets_of_every_kind(kind: str) -> None:
    presets = get_kind(kind).presets
    assert {"tiny", "demo", "default"} <= set(presets) <= {"tiny", "demo", "default", "starter"}
    assert presets["default"] == type(presets["default"])()
    with pytest.raises(TrainingError, match=f"no preset 'huge'; there are: {', '.join(sorted(presets))}"):
        from_preset(presets, "huge", {})


@pytest.mark.parametrize("kind", kind_names())
def test_every_field_is_described(kind: str) -> None:
    fields = type(get_kind(kind).presets["default"]).model_fields
    assert [name for name, field in fields.items() if not (field.description or "").endswith(".")] == []


@pytest.mark.parametrize("kind", kind_names())
@pytest.mark.parametrize("suffix", [".yaml", ".toml"])
def test_a_printed_configuration_can_be_read(kind: str, suffix: str, tmp_path: Path) -> None:
    config = get_kind(kind).presets["tiny"]
    path = tmp_path / f"config{suffix}"
    text = config.to_yaml()
    if suffix == ".toml":  # which has no null
        values = {name: value for name, value in yaml.safe_load(text).items() if value is not None}
        text = "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())
    path.write_text(text)
    assert from_preset(get_kind(kind).presets, "default", read_config(path)) == config


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def test_a_configuration_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("# nothing\n")
    assert read_config(path) == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.yaml", b"- 1\n- 2\n"),
        ("a.yaml", b"{"),
        ("a.yaml", b"1: 2"),
        ("a.toml", b"width: 3"),
        ("a.yaml", b"\xff\xfe"),
        ("a.yaml", b"width: 3\nwidth: 4"),
        ("a.yaml", b"class_weights: {jazz: 1, jazz: 2}"),
        ("a.toml", b"width = 3\nwidth = 4"),
        ("a.yaml", b"width: !!int x"),
        ("a.yaml", b"width: !!int ''"),
        ("a.yaml", b"width: !!timestamp x"),
        ("a.yaml", b"width: " + 5_000 * b"9"),
        ("a.yaml", b"a: &a [x, x]\nb: &b [*a, *a]\nwidth: [*b, *b]"),
        ("a.yaml", b"width: &a [*a]"),
        ("a.yaml", b"? [a]\n: b"),
        ("a.yaml", 50_000 * b"["),
        ("a.toml", b"a = " + 5_000 * b"["),
        ("a.yaml", b"#" * (MAX_CONFIG_BYTES + 1)),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TrainingError) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    with pytest.raises(TrainingError):
        read_config(tmp_path / "missing.yaml")
    with pytest.raises(TrainingError):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2", -2),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1_000", 1_000),
        ("yes", True),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("null", None),
    ],
)
def test_values_in_yaml(text: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"a: {text}", encoding="utf-8-sig")
    found = read_config(path)["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("kind", kind_names())
def test_the_search_space_is_within_the_bounds(kind: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        from_preset(get_kind(kind).presets, "default", get_kind(kind).suggest(study.ask()))


def test_overrides_take_precedence_over_the_backbones_values_and_these_over_the_preset(tmp_path: Path) -> None:
    request = TrainRequest(tmp_path, preset="tiny", pretrained="musicnn", overrides={"dropout": 0.11})
    config = get_kind("genre_cnn").configure(request).to_dict()
    assert (config["dropout"], config["width"]) == (0.11, 4)
    assert config["learning_rate"] == PRETRAINED_CHANGES["learning_rate"]
