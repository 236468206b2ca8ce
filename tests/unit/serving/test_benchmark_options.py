"""Invalid options of benchmarks are refused before anything is measured."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

REPOSITORY = ["--repository", "."]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["front_end", "--rounds", "0"], "--rounds"),
        (["front_end", "--seconds", "0"], "--seconds"),
        (["front_end", "--seconds", "nan"], "--seconds"),
        (["front_end", "--threads", "-3"], "--threads"),
        (["batch_loops", "--rounds", "0"], "--rounds"),
        (["memory_sessions", *REPOSITORY, "--models", "genre_cnn"], "ONNX files of genre_cnn"),
        (["memory_weights", *REPOSITORY, "--models", "genre_cnn"], "ONNX files of genre_cnn"),
        (["memory_weights", *REPOSITORY, "--instances", "1"], "expected at least 2, got 1"),
        (["gpu_check", "--seconds", "0"], "--seconds"),
        (["gpu_speed", "in-process", *REPOSITORY], "genre_cnn or music_transformer"),
        (["gpu_speed", "served", *REPOSITORY], "genre_cnn or music_transformer"),
        (["wire", *REPOSITORY], "genre_cnn, genre_cnn_pcm16, genre_cnn_file"),
        (["wire", *REPOSITORY, "--formats", "int16"], "genre_cnn, genre_cnn_pcm16,"),
        (["wire", "--repository", "missing"], "genre_cnn"),
        (["peers.__main__", *REPOSITORY], "genre_cnn: expected a version"),
        (["peers.__main__", *REPOSITORY, "--models", "taste_vae"], "taste_vae/1: expected an ONNX file"),
        (["peers.__main__", *REPOSITORY, "--models", "polyphony_rnn"], "polyphony_rnn/1: expected an ONNX file"),
        (["peers.__main__", *REPOSITORY, "--out", "missing/result.json"], "--out"),
        (["peers.__main__", *REPOSITORY, "--peers", "unknown"], "--peers"),
    ],
)
def test_invalid_options(
    command: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "taste_vae" / "1").mkdir(parents=True)
    (tmp_path / "taste_vae" / "1" / "model.onnx").write_text("not an ONNX file")
    (tmp_path / "polyphony_rnn" / "1").mkdir(parents=True)
    main = importlib.import_module(f"benchmarks.{command[0]}").main
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err
