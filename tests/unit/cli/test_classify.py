"""`tritone classify` with a transport in memory; tests/integration uses a real server."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

import tritone
from tritone import ConnectionFailedError, InferRequest, InferResponse, ModelRequest, ModelResponse
from tritone_cli import console
from tritone_cli.commands import analysis as command

LABELS = ("classical", "rock")
EMBEDDING = np.eye(256, dtype=np.float32)[:1]


class Fake:
    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.down = False
        self.emotions = 0.5

    def handle(self, request: Any, *, timeout_s: float) -> Any:
        self.requests.append(request)
        if self.down:
            raise ConnectionFailedError("no connection to grpc://x:1: refused", status="UNAVAILABLE")
        if isinstance(request, ModelRequest):
            labels = json.dumps({"probabilities": LABELS, "tags": ("guitar", "[bold]x")})
            outputs = {"probabilities": (-1, 2), "emotions": (-1, 9), "embedding": (-1, 256), "tags": (-1, 2)}
            return ModelResponse(request.model, ("1",), {"audio": (-1, 66150)}, outputs, 32, {"labels": labels})
        assert isinstance(request, InferRequest)
        n = len(request.inputs["audio"])
        rising = np.linspace(0, 0.9, n, dtype=np.float32)[:, None]
        values = {
            "probabilities": np.concatenate([1 - rising, rising], axis=1),
            "emotions": np.full((n, 9), self.emotions, np.float32),
            "tags": np.full((n, 2), [0.25, 0.75], np.float32),
            "embedding": EMBEDDING.repeat(n, 0),
        }
        return InferResponse(request.model, "1", request.request_id, values)

    def close(self) -> None: ...


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    patched = functools.partial(tritone.MusicClient, transport=fake, retries=0)
    monkeypatch.setattr(tritone, "MusicClient", patched)
    monkeypatch.delenv("TRITONE_SERVER", raising=False)
    monkeypatch.delenv("TRITONE_API_KEY", raising=False)
    return fake


@pytest.fixture
def run(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    from rich.console import Console

    app = typer.Typer()
    app.command()(command.classify)
    app.command("other")(lambda: None)  # with one command alone Typer would not take its name

    def invoke(*arguments: object, **environment: str) -> Any:
        monkeypatch.setattr(console, "people", Console(stderr=True, width=200))
        return CliRunner().invoke(app, ["classify", *map(str, arguments)], env=environment)

    return invoke


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song [1].wav"
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 22_050 * 12)
    soundfile.write(path, samples, 22_050)
    return path


def test_people_get_a_text_summary(run: Any, song: Path) -> None:
    result = run(song)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    for part in (
        "song [1].wav",
        "12.0 s, genre_cnn v1",
        "classical",
        "55.0%",
        "amazement",
        "[bold]x 75%",
        "decoded in",
    ):
        assert part in " ".join(result.stderr.split())  # a long path is wrapped
    assert "classical over time  █▆▄▁" in result.stderr
    assert "amazement over time  ▅▅▅▅" in result.stderr


def test_emotions_without_training_data_are_not_printed(run: Any, song: Path, fake: Fake) -> None:
    fake.emotions = -1.0
    assert "amazement" not in run(song).stderr


def test_json_is_one_object_and_nothing_else(run: Any, song: Path, tmp_path: Path) -> None:
    result = run(song, tmp_path / "none.wav", "--json", "--top", 1)
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert [entry["file"] for entry in answer["results"]] == [str(song)]
    assert list(answer["results"][0]["probabilities"]) == [answer["results"][0]["label"]]
    assert len(answer["results"][0]["embedding"]) == 256
    (error,) = answer["errors"]
    assert (error["error"], error["reason"]) == ("InvalidAudioError", "missing")


def test_an_unreadable_file_does_not_stop_the_others(run: Any, song: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp3"
    bad.write_bytes(b"not a song")
    result = run(bad, song, bad)
    assert result.exit_code == 1
    assert result.stderr.count("is not audio") == 2
    assert "12.0 s" in result.stderr


def test_a_server_that_is_down_is_called_once(run: Any, song: Path, fake: Fake) -> None:
    fake.down = True
    result = run(song, song, song, "--json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["errors"]) == 3
    assert len(fake.requests) == 1


def test_options_reach_the_client(run: Any, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    client = tritone.MusicClient

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return client(*args, **kwargs)

    monkeypatch.setattr(tritone, "MusicClient", spy)
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    assert run(song, "--timeout", 5, "--api-key-file", key, TRITONE_SERVER="http://x:9").exit_code == 0
    assert run(song, TRITONE_API_KEY="other").exit_code == 0
    (first, second) = seen
    assert first[0] == ("http://x:9",)
    assert first[1]["timeout_s"] == 5
    assert first[1]["api_key"] == "s3cret"
    assert second[0] == ("localhost:8001",)
    assert second[1]["api_key"] == "other"


def test_a_picture(run: Any, song: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "timeline.png"
    result = run(song, "--plot", picture)
    assert result.exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(song, song, "--plot", picture).exit_code == 2
    assert run(song, "--plot", tmp_path / "none" / "x.png").exit_code == 1


def test_wrong_use(run: Any, song: Path, tmp_path: Path) -> None:
    assert run().exit_code == 2
    assert run(song, "--top", 0).exit_code == 2
    assert run(song, "--api-key-file", tmp_path / "none").exit_code == 2


def test_a_long_recording_fits_one_line() -> None:
    windows = tuple(tritone.TimelineWindow(3.0 * i, {"a": (i % 100) / 99}) for i in range(601))
    result: Any = type("Result", (), {"timeline": windows})
    assert len(command.timeline_sparkline(result, "a")) == 60
    assert set(command.timeline_sparkline(result, "a")) <= set(command.SPARKS)
