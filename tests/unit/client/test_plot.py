from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritone import Classification, Grid, InvalidInputError, Prediction, TimelineWindow

pytest.importorskip("matplotlib")


@pytest.fixture
def result() -> Classification:
    starts_s = [0.0, 3.0, 6.0, 7.5]
    timeline = tuple(TimelineWindow(s, {"rock": 0.2 + s / 10, "pop $x^2$ <b>": 0.8 - s / 10}) for s in starts_s)
    means = {"rock": 0.61, "pop $x^2$ <b>": 0.39}
    return Classification("rock", means, None, None, timeline, np.zeros(256), "m", "1", 10.5, (), 0.0, 0.0)


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")]
)
def test_a_plot(result: Classification, tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / f"timeline{suffix}"
    path.write_bytes(b"old")
    assert result.plot(str(path)) == path
    assert path.read_bytes().startswith(magic)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_one_short_window(tmp_path: Path) -> None:
    timeline = (TimelineWindow(0.0, {"rock": 1.0}),)
    short = Classification("rock", {"rock": 1.0}, None, None, timeline, np.zeros(256), "m", "1", 0.6, (), 0.0, 0.0)
    assert short.plot(tmp_path / "x.png").stat().st_size > 1_000


@pytest.mark.parametrize(
    ("name", "reason"), [("timeline", "bad_name"), ("timeline.exe", "bad_name"), ("none/timeline.png", "no_folder")]
)
def test_targets_that_cannot_be_plotted_to(result: Classification, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        result.plot(tmp_path / name)
    assert caught.value.reason == reason
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_plot(result: Classification, tmp_path: Path, monkeypatch: Any) -> None:
    from matplotlib.figure import Figure

    def full(self: Any, target: Any, **how: Any) -> None:
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    with pytest.raises(InvalidInputError, match="No space left") as caught:
        result.plot(path)
    assert caught.value.reason == "not_writable"
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("with_probabilities", [True, False])
def test_a_prediction(tmp_path: Path, with_probabilities: bool) -> None:
    frames = np.zeros((24, 88), np.uint8)
    frames[::2, 40] = 2
    rng = np.random.default_rng(0)
    expected = rng.random((24, 88), np.float32) if with_probabilities else None
    prediction = Prediction(rng.random(24, np.float32), expected, Grid(frames, meter=(16, 0)), "polyphony_rnn", "1")
    path = prediction.plot(tmp_path / "x.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidInputError) as caught:
        prediction.plot(tmp_path / "x.mid")
    assert caught.value.reason == "bad_name"
