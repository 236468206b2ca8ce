"""`tritone inspire` with models in memory; tests/integration uses a real server."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tritone
from tritone import Inspiration, to_grid
from tritone.testing import FakeComposer, FakeGenreModel, FakeInspirer, FakeRecommender, FakeServer, MockTransport

FAKES = (
    FakeComposer(styles=("any", "folk")),
    FakeGenreModel({"jazz": 0.25, "rock": 0.75}, emotions=np.linspace(0, 0.8, 9).tolist()),
    FakeRecommender({"reel-1": ("The Reel", "A"), "jig-2": ("The Jig", "B")}),
)


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    transport = MockTransport(FakeServer(*FAKES, FakeInspirer(*FAKES)))
    monkeypatch.setattr(tritone, "MusicClient", functools.partial(tritone.MusicClient, transport=transport, retries=0))
    for name in ("TRITONE_SERVER", "TRITONE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_people_get_the_piece_its_sound_the_tracks_and_the_latency(
    run_tritone: Callable[..., Any], tmp_path: Path
) -> None:
    ended = run_tritone("inspire", "--mood", "power", "--bars", 2, "--seed", 7, "-n", 2)
    assert ended.status == 0, ended.stderr
    assert ended.stdout == ""
    assert "music_transformer v1, seed 7: 2 bars" in ended.stderr
    assert "written: inspire-7.mid" in ended.stderr
    assert "sounds like rock (75%); strongest emotion: sadness (80%); genre_cnn v1" in ended.stderr
    assert "based on the recording" in ended.stderr
    assert "The Reel" in ended.stderr
    assert "The Jig" in ended.stderr
    assert re.search(r"\d+ ms, of which rendering took 0 ms", ended.stderr)
    assert to_grid(tmp_path / "inspire-7.mid").n_bars == 2


def test_json_is_the_result_with_the_files(run_tritone: Callable[..., Any], tmp_path: Path) -> None:
    ended = run_tritone("inspire", "--bars", 1, "--seed", 3, "--json", "-o", "a.mid", "-o", "a.wav")
    assert ended.status == 0, ended.stderr
    values = json.loads(ended.stdout)
    assert values["files"] == ["a.mid", "a.wav"]
    found = Inspiration.from_dict(values)
    assert found.piece.seed == 3
    assert found.recommendations.track_ids == ("reel-1", "jig-2")
    assert (tmp_path / "a.wav").read_bytes().startswith(b"RIFF")
    assert json.loads(run_tritone("inspire", "--bars", 1, "--json").stdout)["files"] == []
    assert {path.name for path in tmp_path.iterdir()} == {"a.mid", "a.wav"}


def test_a_prompt_is_continued(run_tritone: Callable[..., Any], tmp_path: Path) -> None:
    assert run_tritone("inspire", "--bars", 2, "--seed", 1, "-o", "first.mid").status == 0
    ended = run_tritone("inspire", "first.mid", "--bars", 1, "--style", "folk", "--json")
    assert ended.status == 0, ended.stderr
    assert json.loads(ended.stdout)["piece"]["n_frames"] == 48


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--mood", "grumpy"), 1, "unknown mood: expected one of "),
        (("--bars", "0"), 1, "invalid bars: expected a whole number from 1 to 256"),
        (("-n", "0"), 1, "invalid n: expected "),
        (("--model", "opera"), 1, "no such"),
        (("none.mid",), 1, "none.mid: does not exist"),
        (("--out", "x.mp3"), 2, "x.mp3"),
        (("--seed", "-1"), 2, "--seed"),
    ],
)
def test_invalid_requests(run_tritone: Callable[..., Any], words: tuple[str, ...], status: int, message: str) -> None:
    ended = run_tritone("inspire", *words)
    assert ended.status == status
    assert message in " ".join(ended.stderr.split())
    assert ended.stdout == ""
