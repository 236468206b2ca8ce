"""Edits of spans that change one attribute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tritone.music.voices import FIRST_STRIKE, HOLD, N_VOICE_VALUES, REST
from tritone_training.bars.attribute_edits import (
    attributes_of,
    divided,
    edited,
    narrowed,
    straightened,
    syncopated,
    thinned,
    widened,
)
from tritone_training.bars.spans import sounding_of
from tritone_training.musicality import measure_attributes, spans_to_frames

Edit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
DENSITY, RANGE, COMPLEXITY = range(3)
C_MAJOR = (0, 2, 4, 5, 7, 9, 11)


def tunes(n: int = 24) -> torch.Tensor:
    """Melodies of eighths and quarters in C major, every other one with a bass in half notes."""
    random = np.random.default_rng(0)
    voices = np.zeros((n, 32, 4), np.int64)
    for index, span in enumerate(voices):
        span[:, 0] = HOLD
        step = 0
        while step < 32:
            octave, degree = random.integers(0, 2), random.choice(C_MAJOR)
            span[step, 0] = FIRST_STRIKE + 39 + 12 * octave + degree
            step += int(random.choice([2, 2, 4]))
        if index % 2:
            span[:, 1] = HOLD
            span[::8, 1] = FIRST_STRIKE + 27 + random.choice(C_MAJOR, 4)
    return torch.from_numpy(voices)


def is_valid(voices: torch.Tensor) -> bool:
    """Whether all values exist and no silence is held."""
    held_silence = (voices == HOLD) & (sounding_of(voices) == 0)
    return bool((voices >= REST).all() and (voices < N_VOICE_VALUES).all()) and not held_silence.any()


def test_attributes_are_those_of_the_measures() -> None:
    random = np.random.default_rng(0)
    voices = np.where(random.random((30, 32, 4)) < 0.6, 0, random.integers(0, 90, (30, 32, 4)))
    voices[0] = 0
    voices[1, 3] = 50  # the same pitch in all voices is one note
    ours = attributes_of(torch.from_numpy(voices)).numpy()
    np.testing.assert_allclose(ours, measure_attributes(spans_to_frames(voices)), atol=1e-5)


@pytest.mark.parametrize(
    ("edit", "attribute", "sign"),
    [
        (thinned, DENSITY, -1),
        (divided, DENSITY, 1),
        (narrowed, RANGE, -1),
        (widened, RANGE, 1),
        (straightened, COMPLEXITY, -1),
        (syncopated, COMPLEXITY, 1),
    ],
)
def test_a_stronger_edit_changes_its_attribute_further(edit: Edit, attribute: int, sign: int) -> None:
    voices = tunes()
    torch.manual_seed(0)
    shifts = [
        float(
            (attributes_of(edit(voices, torch.full((len(voices),), strength))) - attributes_of(voices))[
                :, attribute
            ].mean()
        )
        for strength in (0.0, 0.35, 0.7, 1.0)
    ]
    assert shifts[0] == pytest.approx(0, abs=1e-6), "strength 0 changes nothing"
    assert all(np.diff(np.array(shifts) * sign) > 0)


@pytest.mark.parametrize("edit", [narrowed, widened, divided])
def test_notes_stay_in_the_scale_of_the_span(edit: Edit) -> None:
    torch.manual_seed(0)
    voices = edit(tunes(), torch.full((24,), 0.6))
    # Some tunes use notes of several scales only; none may leave all of them.
    classes = [set(((span[span >= FIRST_STRIKE] - FIRST_STRIKE + 9) % 12).tolist()) for span in voices]
    inside = [classes_of_span <= set(C_MAJOR) for classes_of_span in classes]
    assert np.mean(inside) > 0.7


def test_rhythm_stays_where_only_the_range_changes() -> None:
    voices = tunes()
    torch.manual_seed(0)
    for edit in (narrowed, widened):
        changed = edit(voices, torch.ones(len(voices)))
        assert torch.equal(changed >= FIRST_STRIKE, voices >= FIRST_STRIKE)


def test_random_edits_are_valid_and_of_all_attributes() -> None:
    voices = tunes(240)
    torch.manual_seed(0)
    changed, attribute = edited(voices)
    assert changed.shape == voices.shape
    assert is_valid(changed)
    assert attribute.unique().tolist() == [DENSITY, RANGE, COMPLEXITY]
    difference = attributes_of(changed) - attributes_of(voices)
    for index in (DENSITY, RANGE, COMPLEXITY):
        own = difference[attribute == index, index]
        assert own.max() > 0 > own.min(), "in both directions"


def test_a_silent_span_stays_silent() -> None:
    silent = torch.zeros(60, 32, 4, dtype=torch.int64)
    changed, _ = edited(silent)
    assert not changed.any()
    assert not attributes_of(changed).any()
