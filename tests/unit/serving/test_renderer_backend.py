"""The sound of frames, as the `renderer` backend makes it, in this process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tritone.audio import iter_windows
from tritone.exceptions import MissingExtraError
from tritone.music.grid import Grid
from tritone.music.render import render
from tritone.music.scores import to_score

RATE_HZ = 22_050


def tune(n_frames: int = 64) -> np.ndarray[Any, Any]:
    """A quarter note on each beat."""
    frames = np.zeros((n_frames, 88), np.uint8)
    for start in range(0, n_frames, 4):
        frames[start : start + 4, 30 + start % 24] = 1
        frames[start, 30 + start % 24] = 2
    return frames


@pytest.mark.parametrize("tempo_qpm", [120.0, 300.0, 47.0])
def test_the_sound_is_that_of_the_piece_in_the_windows_of_a_recording(renderer: Any, tempo_qpm: float) -> None:
    grid = Grid(tune(), tempo_qpm=tempo_qpm)
    made = renderer.sound.render_windows(grid.frames, float(np.float32(15 / tempo_qpm)))
    samples = render(to_score(grid), rate_hz=RATE_HZ)
    expected = list(iter_windows((samples, RATE_HZ)))
    assert made.windows.shape == (len(expected), 66_150)
    assert made.windows.dtype == made.starts_s.dtype == np.float32
    assert made.duration_s == pytest.approx(samples.size / RATE_HZ, abs=1e-3)
    np.testing.assert_allclose(made.starts_s, [window.start_s for window in expected], atol=1e-3)
    found, wanted = np.abs(np.fft.rfft(made.windows[0])), np.abs(np.fft.rfft(expected[0].samples))
    assert np.dot(found, wanted) / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.99


def test_frames_without_notes_are_silent(renderer: Any) -> None:
    made = renderer.sound.render_windows(np.zeros((40, 88), np.uint8), 0.125)
    assert made.windows.shape == (2, 66_150)
    assert not made.windows.any()
    assert made.starts_s.tolist() == [0.0, 3.0]
    assert made.duration_s == pytest.approx(6.0)


@pytest.mark.parametrize("frame_s", [0.0025, 0.03, 0.06, 1.0, 15.0])
def test_every_frame_duration_within_the_limits_can_be_rendered(renderer: Any, frame_s: float) -> None:
    made = renderer.sound.render_windows(tune(8), frame_s)
    assert made.duration_s == pytest.approx(8 * frame_s + 1, rel=0.02)
    assert made.windows.any()


def test_as_much_music_as_fits_into_64_windows(renderer: Any) -> None:
    made = renderer.sound.render_windows(tune(1_528), 0.125)  # 191 s, and a second for the last note
    assert made.windows.shape == (64, 66_150)
    with pytest.raises(
        renderer.sound.RenderError, match=r"expected at most 191 s of music, got 191\.1 s \(1529 frames"
    ):
        renderer.sound.render_windows(tune(1_529), 0.125)


def test_a_missing_package_is_named(renderer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise MissingExtraError("scores and rendering need the package symusic; install it")

    monkeypatch.setattr(renderer.sound, "render", missing)
    with pytest.raises(renderer.sound.RenderError, match="symusic"):
        renderer.sound.warm_up()
