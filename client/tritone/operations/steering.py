"""Conditions of a requested piece: key, density, voices, structure and ending.

What a caller leaves open is chosen by the seed from templates: conditions of real pieces, which a model has in the
parameter `templates` of its configuration. A piece thus has one style and one key, and bars that return as they do in
real pieces. A piece that continues or completes given notes has their key and number of voices instead.

Shapes: N frames that the model reads or writes, P 88 pitches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Self

import numpy as np

from tritone.arguments import check_bool, is_whole, scalar, shown
from tritone.exceptions import InvalidInputError
from tritone.messages import Array
from tritone.model_cache import CachedModel
from tritone.music.grid import STRUCK
from tritone.music.keys import (
    KEY_NAMES,
    MODES,
    PITCH_CLASSES,
    estimate_keys,
    key_code,
    key_correlations,
    mode_number,
    tonic_and_mode,
    tonic_number,
)
from tritone.operations.plan import FREE, GIVEN, MELODY, CompositionPlan
from tritone.sampling import SamplingParams, uniform_noise

DENSITIES: Final = ("low", "medium", "high")
N_VOICES_MAX: Final = 6
_STREAM: Final = 2  # random stream of a seed for conditions; stream 0 chooses the notes
_FEWEST_PITCH_CLASSES: Final = 3  # pitch classes that given notes must have for an estimate of their key
_MOST_PHRASES: Final = 64
# Tonics of at most four sharps or flats, from which one is chosen for a piece from scratch.
_TONICS: Final = ((0, 2, 3, 4, 5, 7, 9, 10), (0, 2, 4, 6, 7, 9, 11))
_HARMONY_VOICES: Final = 4


@dataclass(frozen=True)
class Steering:
    """The conditions that a caller requests; None for those left open.

    Attributes:
        tonic: 0 (C) to 11 (B).
        mode: 0 major, 1 minor.
        density: 1 low to 3 high.
        n_voices: notes at once.
        structure: a letter for each phrase.
        ending: whether the piece ends with its last bar.
    """

    tonic: int | None = None
    mode: int | None = None
    density: int | None = None
    n_voices: int | None = None
    structure: str | None = None
    ending: bool = True

    @classmethod
    def checked(
        cls,
        *,
        key: str | int | None = None,
        mode: str | None = None,
        density: str | None = None,
        voices: int | None = None,
        structure: str | None = None,
        ending: bool = True,
    ) -> Self:
        """Check the arguments of a caller.

        Raises:
            InvalidInputError: an argument is invalid.
        """
        if density is not None and not (isinstance(density, str) and density in DENSITIES):
            raise InvalidInputError(
                f"unknown density: expected {', '.join(map(repr, DENSITIES))}, or None for any, got {shown(density)}",
                argument="density",
            )
        if voices is not None and not (is_whole(voices) and 1 <= voices <= N_VOICES_MAX):
            raise InvalidInputError(
                f"invalid voices: expected 1 to {N_VOICES_MAX}, or None for any, got {shown(voices)}", argument="voices"
            )
        if structure is not None and not _is_structure(structure):
            raise InvalidInputError(
                f"invalid structure: expected a capital letter for each phrase, at most {_MOST_PHRASES}, such as "
                f"'AABA', or None for any, got {shown(structure)}",
                argument="structure",
            )
        return cls(
            tonic=tonic_number(key),
            mode=mode_number(mode),
            density=None if density is None else 1 + DENSITIES.index(density),
            n_voices=None if voices is None else int(voices),
            structure=structure,
            ending=check_bool("ending", ending),
        )

    @property
    def asked(self) -> tuple[str, ...]:
        """Return the names of the arguments that the caller gave."""
        values = {
            "key": self.tonic,
            "mode": self.mode,
            "density": self.density,
            "voices": self.n_voices,
            "structure": self.structure,
        }
        return tuple(name for name, value in values.items() if value is not None)


@dataclass(frozen=True)
class Template:
    """The conditions of a real piece.

    Attributes:
        bar: frames in a bar.
        mode: 0 major, 1 minor.
        density: 1 low to 3 high.
        repeats: for each bar, how many bars earlier the one is that it repeats; 0 for none.
    """

    style: str
    bar: int
    mode: int
    density: int
    n_voices: int
    repeats: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SteeringInputs:
    """The conditions of one piece, as a model takes them, 0 where unknown.

    Attributes:
        key: 1 to 12 for C major to B major, 13 to 24 for C minor to B minor.
        end: frames that the model reads and writes, if the piece ends with them.
        repeats: (N,) frames earlier of the moment that each frame repeats; -1 for none.
    """

    style: str | None
    key: int
    density: int
    n_voices: int
    end: int
    repeats: Array

    @classmethod
    def unknown(cls, n_frames: int, style: str | None = None) -> Self:
        """Return the conditions of a piece of which only the style may be known."""
        return cls(style, 0, 0, 0, 0, np.zeros(n_frames, np.int64))

    def inputs(self) -> Mapping[str, Array]:
        """Return the inputs of a model, for a batch of one."""
        return {
            "key": scalar(self.key, 1, np.int64),
            "density": scalar(self.density, 1, np.int64),
            "n_voices": scalar(self.n_voices, 1, np.int64),
            "end": scalar(self.end, 1, np.int64),
            "repeats": self.repeats[None],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the conditions by the names of the arguments; None for those left open."""
        tonic, mode = tonic_and_mode(self.key)
        return {
            "style": self.style,
            "key": KEY_NAMES[tonic] if self.key else None,
            "mode": MODES[mode] if self.key else None,
            "density": DENSITIES[self.density - 1] if self.density else None,
            "voices": self.n_voices or None,
            "ending": bool(self.end),
        }


def templates_of(known: CachedModel) -> tuple[Template, ...]:
    """Return the templates of a model; those that are not as expected are left out."""
    return _parsed(known.info.parameters.get("templates", "[]"), known.styles)


@lru_cache(maxsize=32)
def _parsed(text: str, styles: tuple[str, ...]) -> tuple[Template, ...]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    parsed = (_template(entry, styles) for entry in entries if isinstance(entry, dict)) if _is_list(entries) else ()
    return tuple(each for each in parsed if each is not None)


def _template(entry: Mapping[str, Any], styles: tuple[str, ...]) -> Template | None:
    style, repeats = entry.get("style"), entry.get("repeats")
    numbers: list[Any] = [entry.get(name) for name in ("bar", "mode", "density", "n_voices")]
    if not isinstance(style, str) or (styles and style not in styles) or not _is_list(repeats) or not repeats:
        return None
    if not all(map(is_whole, [*numbers, *repeats])):
        return None
    bar, mode, density, n_voices = map(int, numbers)
    within = bar >= 1 and mode in (0, 1) and 0 <= density <= len(DENSITIES) and 0 <= n_voices <= N_VOICES_MAX
    earlier = all(0 <= distance <= number for number, distance in enumerate(repeats))
    return Template(style, bar, mode, density, n_voices, tuple(map(int, repeats))) if within and earlier else None


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def conditions_for(
    known: CachedModel, plan: CompositionPlan, sampling: SamplingParams, steering: Steering
) -> SteeringInputs:
    """Return the conditions of a piece: those of the caller, else of the given notes, else of a template.

    Raises:
        InvalidInputError: the model has no such style, or takes no conditions, or the structure does not fit.
    """
    if "repeats" not in known.info.inputs:
        if steering.asked:
            raise InvalidInputError(
                f"model {known.name!r} cannot be steered: expected None for {', '.join(steering.asked)}; export a "
                f"newer checkpoint of it",
                model=known.name,
                argument=steering.asked[0],
            )
        return SteeringInputs.unknown(plan.n_frames, sampling.style)
    end = plan.n_frames if steering.ending and plan.excerpt.stop == plan.grid.n_frames else 0
    given = plan.given[plan.given_mode != FREE]
    if given.any():
        base = _of_given(known, plan, sampling, steering)
    else:
        base = _of_templates(known, plan, sampling, steering)
    if steering.structure is not None:
        base = replace(base, repeats=_of_structure(steering.structure, plan, reach=known.n_repeat_frames_max))
    return replace(base, end=end)


def _of_given(
    known: CachedModel, plan: CompositionPlan, sampling: SamplingParams, steering: Steering
) -> SteeringInputs:
    """Return the conditions of a piece some of whose notes are given."""
    given = plan.given[plan.given_mode != FREE]
    tonic, mode = _key_of(given, steering)
    style, n_voices = sampling.style, steering.n_voices
    if (plan.given_mode == MELODY).any():
        n_voices = n_voices or _HARMONY_VOICES
        style = style or _fullest_style(templates_of(known))
    elif n_voices is None:
        sounding = (given > 0).sum(1)
        sounding = sounding[sounding > 0]
        n_voices = min(N_VOICES_MAX, int(np.median(sounding)))
    return replace(
        SteeringInputs.unknown(plan.n_frames, style),
        key=key_code(tonic, mode),
        density=steering.density or 0,
        n_voices=n_voices,
    )


def _of_templates(
    known: CachedModel, plan: CompositionPlan, sampling: SamplingParams, steering: Steering
) -> SteeringInputs:
    """Return the conditions of a piece from scratch."""
    draws = iter(uniform_noise(sampling.seed, 3 + plan.n_frames, stream=_STREAM).tolist())
    length, index = plan.meter
    choices = _fitting(templates_of(known), sampling.style, length, steering)
    if not choices:
        tonic, mode = steering.tonic, steering.mode
        if tonic is None and mode is not None:
            tonic = _drawn(_TONICS[mode], next(draws))
        return replace(
            SteeringInputs.unknown(plan.n_frames, sampling.style),
            key=key_code(tonic, mode),
            density=steering.density or 0,
            n_voices=steering.n_voices or 0,
        )
    style = _drawn(sorted({each.style for each in choices}), next(draws))
    choices = tuple(each for each in choices if each.style == style)
    first = _drawn(choices, next(draws))
    mode = first.mode if steering.mode is None else steering.mode
    tonic = _drawn(_TONICS[mode], next(draws)) if steering.tonic is None else steering.tonic
    n_bars = -(-(plan.n_frames + index) // length)
    distances = list(first.repeats)
    while len(distances) < n_bars:  # a longer piece has several parts
        distances += _drawn(choices, next(draws)).repeats
    in_frames = np.array(distances[:n_bars]) * length
    # Templates of shorter bars may reach further back than the model can.
    in_frames[(in_frames == 0) | (in_frames > known.n_repeat_frames_max)] = -1
    return SteeringInputs(
        style=style,
        key=key_code(tonic, mode),
        density=steering.density or first.density,
        n_voices=steering.n_voices or first.n_voices,
        end=0,
        repeats=np.repeat(in_frames, length)[index : index + plan.n_frames].astype(np.int64),
    )


def _of_structure(structure: str, plan: CompositionPlan, *, reach: int) -> Array:
    """Return `repeats` for phrases of equal length, in the bars that the model writes.

    Args:
        reach: most frames back that the model can repeat.

    Raises:
        InvalidInputError: the bars cannot be divided into so many phrases, or a phrase returns too late.
    """
    length, index = plan.meter
    written = np.flatnonzero(plan.given_mode != GIVEN)
    start = int(written[0]) if written.size else 0
    start += -(index + start) % length
    n_bars = (plan.n_frames - start) // length
    if n_bars % len(structure) or not n_bars:
        raise InvalidInputError(
            f"the structure does not fit: expected a number of bars that is a multiple of {len(structure)}, the "
            f"phrases of {structure!r}, got {n_bars}",
            argument="structure",
        )
    repeats = np.zeros(plan.n_frames, np.int64)
    n_frames = n_bars // len(structure) * length
    latest: dict[str, int] = {}
    for number, letter in enumerate(structure):
        begin = start + number * n_frames
        if begin - latest.get(letter, begin) > reach:
            raise InvalidInputError(
                f"the structure reaches too far back: expected phrases that return within {reach // length} bars, got "
                f"{(begin - latest[letter]) // length} bars from one {letter!r} of {structure!r} to the next; write "
                f"fewer bars, or use more letters",
                argument="structure",
            )
        repeats[begin : begin + n_frames] = begin - latest[letter] if letter in latest else -1
        latest[letter] = begin
    return repeats


def _key_of(frames: Array, steering: Steering) -> tuple[int | None, int | None]:
    """Return tonic and mode of given (n, P) frames, or those of the caller.

    Frames of too few pitches to tell have no key. If the caller chose either tonic or mode for them, the other is that
    of the key that fits best.
    """
    tonic, mode = steering.tonic, steering.mode
    if len(np.unique(PITCH_CLASSES[np.flatnonzero((frames == STRUCK).any(0))])) >= _FEWEST_PITCH_CLASSES:
        tonics, modes = estimate_keys(frames[None])
        if tonics[0] >= 0:
            return int(tonics[0]) if tonic is None else tonic, int(modes[0]) if mode is None else mode
    if (tonic is None) == (mode is None):
        return tonic, mode
    correlations = key_correlations(frames[None])[0]
    keys = [tonic_and_mode(code) for code in range(1, 1 + len(correlations))]
    fitting = [number for number, key in enumerate(keys) if tonic == key[0] or mode == key[1]]
    return keys[max(fitting, key=lambda number: correlations[number])]


def _fitting(templates: Sequence[Template], style: str | None, bar: int, steering: Steering) -> tuple[Template, ...]:
    """Return the templates that meet the conditions, checked in order; a condition that none meets is ignored."""
    chosen = tuple(each for each in templates if style in (None, each.style))
    wishes = (
        ("bar", bar),
        ("mode", steering.mode),
        ("n_voices", steering.n_voices),
        ("density", steering.density),
    )
    for name, wish in wishes:
        if wish is not None:
            chosen = tuple(each for each in chosen if getattr(each, name) == wish) or chosen
    return chosen


def _fullest_style(templates: Sequence[Template]) -> str | None:
    """Return the style of the pieces with the most voices; None without templates."""
    return max(templates, key=lambda each: each.n_voices).style if templates else None


def _drawn(choices: Sequence[Any], draw: float) -> Any:
    return choices[int(draw * len(choices))]


def _is_structure(structure: object) -> bool:
    return (
        isinstance(structure, str)
        and 1 <= len(structure) <= _MOST_PHRASES
        and all("A" <= letter <= "Z" for letter in structure)
    )
