"""Edits of spans that change one attribute, from which a decoder learns to vary music.

An autoencoder that reconstructs well leaves a decoder nothing to decide, and it ignores any attribute beside the latent
vector. So a part of the training spans come as pairs: a span, and a copy with fewer or more notes, a smaller or larger
range, or a simpler or more syncopated rhythm. The decoder sees the latent of one of the two and the difference of
their attributes, and has to write the other. In half of the pairs real music is what has to be written (as in
back-translation: Sennrich et al. 2016, arXiv:1511.06709).

Shapes: B batch, N = 32 time steps, V = 4 voices, A = 3 attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from tritone.music.grid import N_PITCHES
from tritone.music.voices import FIRST_STRIKE, HOLD, N_VOICE_VALUES, N_VOICES, REST, SPAN_FRAMES
from tritone_training.bars.spans import SILENCE, level_of, sounding_of
from tritone_training.musicality.measures import HARMONIC_MINOR_SCALE, MAJOR_SCALE, METRICAL_WEIGHTS

_OCTAVE: Final = 12
_THIRD: Final = 4  # semitones, before the nearest note of the scale is taken
_SEGMENTS: Final = (4, 8, 16)  # steps over which a contour is averaged
_LARGEST_FACTOR: Final = 6.0  # of the contour of a widened span
_LARGEST_INTERVAL_FACTOR: Final = 2.5
_CHANCE: Final = 0.25  # of the importance of a note that is left to chance, so that equal notes differ
_WEIGHTS: Final = (
    torch.tensor(METRICAL_WEIGHTS, dtype=torch.float32).repeat(SPAN_FRAMES // len(METRICAL_WEIGHTS)) - 1
) / 4


def attributes_of(voices: Tensor) -> Tensor:
    """Return the attributes of spans, as `measure_attributes` does: (B, N, V) -> (B, A) float32."""
    values = torch.zeros(*voices.shape[:2], N_VOICE_VALUES, device=voices.device)
    struck = values.scatter_(2, voices, 1.0)[..., FIRST_STRIKE:]  # (B, N, 88)
    density = struck.sum((1, 2)) / (voices.shape[1] / 4)
    used = struck.amax(1)
    column = torch.arange(N_PITCHES, device=voices.device)
    highest = torch.where(used > 0, column, -1).amax(1)
    lowest = torch.where(used > 0, column, N_PITCHES).amin(1)
    onsets = struck.amax(2)
    n_onsets = onsets.sum(1)
    complexity = 1 - (onsets * _WEIGHTS.to(voices.device)).sum(1) / n_onsets.clamp_min(1)
    measured = torch.stack([density, (highest - lowest).to(density.dtype), complexity], dim=1)
    return torch.where(n_onsets[:, None] > 0, measured, 0.0)


def edited(voices: Tensor) -> tuple[Tensor, Tensor]:
    """Return copies of spans with one attribute changed each, drawn at random, and which: (B, N, V), (B,).

    All randomness comes from torch's generator.
    """
    n_batch = len(voices)
    edit = torch.randint(0, len(_EDITS), (n_batch,), device=voices.device)
    strength = torch.rand(n_batch, device=voices.device)
    result = voices.clone()
    for index, (_, function) in enumerate(_EDITS):
        own = torch.nonzero(edit == index)[:, 0]
        if len(own):
            result[own] = _canonical(function(voices[own], strength[own]))
    attribute = torch.tensor([attribute for attribute, _ in _EDITS], device=voices.device)
    return result, attribute[edit]


def _canonical(voices: Tensor) -> Tensor:
    """Replace holds of silence by rests."""
    return torch.where(sounding_of(voices) == SILENCE, REST, voices)


def _noise(voices: Tensor) -> Tensor:
    """Return random importance of each step and voice, mostly equal in all voices of a step: (B, N, V) in 0..1."""
    steps = torch.rand(*voices.shape[:2], 1, device=voices.device)
    return 0.7 * steps + 0.3 * torch.rand(voices.shape, device=voices.device)


def _importance(voices: Tensor) -> Tensor:
    """Return metrical weights in 0..1, partly random: (B, N, V)."""
    return (1 - _CHANCE) * _WEIGHTS.to(voices.device)[:, None] + _CHANCE * _noise(voices)


def _lowest_share(importance: Tensor, candidates: Tensor, share: Tensor) -> Tensor:
    """Return the share (B,) of the candidates with the lowest importance: (B, N, V) each -> (B, N, V) bool."""
    ordered = torch.where(candidates, importance, torch.inf).flatten(1).sort(1).values
    n_chosen = (share * candidates.flatten(1).sum(1)).long().clamp_max(ordered.shape[1] - 1)
    limit = ordered.gather(1, n_chosen[:, None])[:, :, None]
    return candidates & (importance < limit)


def thinned(voices: Tensor, strength: Tensor) -> Tensor:
    """Remove notes on weak beats; the note before each is held instead."""
    strikes = voices >= FIRST_STRIKE
    return torch.where(_lowest_share(_importance(voices), strikes, 0.9 * strength), HOLD, voices)


def divided(voices: Tensor, strength: Tensor) -> Tensor:
    """Divide held notes, on strong beats first, into repeated, passing and neighbouring notes; add voices below."""
    sounding = sounding_of(voices)
    doubled = torch.rand(len(voices), device=voices.device) < strength
    voices = torch.where(doubled[:, None, None], _doubled(voices, sounding), voices)
    sounding = sounding_of(voices)
    held = (voices == HOLD) & (sounding != SILENCE)
    chosen = _lowest_share(-_importance(voices), held, strength)
    now = sounding - 1
    interval = _next_pitch(voices, now) - now
    chance = torch.rand(voices.shape, device=voices.device)
    direction = torch.where(interval == 0, torch.where(chance < 0.5, -1, 1), interval.sign())
    step = torch.where(torch.rand(voices.shape, device=voices.device) < 0.4, 0, 2 * direction)
    pitch = _in_scale(voices, now + step)
    return torch.where(chosen, pitch + FIRST_STRIKE, voices)


def _doubled(voices: Tensor, sounding: Tensor) -> Tensor:
    """Add a voice in thirds or octaves below the lowest one of spans with silent voices."""
    n_used = (sounding != SILENCE).any(1).sum(1).clamp(1, N_VOICES - 1)  # (B,)
    index = (n_used - 1)[:, None, None].expand(-1, voices.shape[1], 1)
    lowest = voices.gather(2, index)
    silent = ~(sounding != SILENCE).any(1).gather(1, n_used[:, None])[:, :, None]  # (B, 1, 1)
    below = torch.where(torch.rand(len(voices), 1, 1, device=voices.device) < 0.5, _THIRD, _OCTAVE)
    moved = _in_scale(voices, lowest - FIRST_STRIKE - below) + FIRST_STRIKE
    copied = torch.where(lowest >= FIRST_STRIKE, moved, lowest)
    target = voices.gather(2, index + 1)
    return voices.scatter(2, index + 1, torch.where(silent, copied, target))


def narrowed(voices: Tensor, strength: Tensor) -> Tensor:
    """Move notes towards the mean pitch."""
    return _scaled(voices, 1 - strength, 1 - strength)


def widened(voices: Tensor, strength: Tensor) -> Tensor:
    """Move notes away from the mean pitch: single notes, or whole segments of voices with their intervals."""
    intervals = torch.rand(len(voices), device=voices.device) < 0.5
    factor = 1 + (_LARGEST_INTERVAL_FACTOR - 1) * strength
    contour = torch.where(intervals, factor, 1 + (_LARGEST_FACTOR - 1) * strength**2)
    return _scaled(voices, contour, torch.where(intervals, factor, 1.0))


def _scaled(voices: Tensor, contour: Tensor, intervals: Tensor) -> Tensor:
    """Scale the distances of segments from the mean pitch, and of notes from the mean of their segment, (B,) each."""
    strikes = voices >= FIRST_STRIKE
    pitch = (voices - FIRST_STRIKE).float()
    centre = level_of(voices).float()[:, None, None]
    length = _SEGMENTS[int(torch.randint(0, len(_SEGMENTS), ()))]
    shape = (len(voices), -1, length, voices.shape[2])
    parts, marks = (each.reshape(shape) for each in (torch.where(strikes, pitch, 0.0), strikes.float()))
    mean = (parts.sum(2) / marks.sum(2).clamp_min(1)).repeat_interleave(length, 1)  # (B, N, V)
    moved = centre + contour[:, None, None] * (mean - centre) + intervals[:, None, None] * (pitch - mean)
    return torch.where(strikes, _in_scale(voices, moved.round().long()) + FIRST_STRIKE, voices)


def syncopated(voices: Tensor, strength: Tensor) -> Tensor:
    """Move notes from strong beats to the sixteenth after or before."""
    later = torch.rand(len(voices), device=voices.device) < 0.5
    shift = torch.where(later, 1, -1)[:, None]  # (B, 1)
    step = torch.arange(voices.shape[1], device=voices.device)
    target = (step + shift).clamp(0, voices.shape[1] - 1)  # (B, N)
    onset = (voices >= FIRST_STRIKE).any(2)
    free = ~onset.gather(1, target) & (target != step)
    moving = onset & free & (step % 2 == 0) & (torch.rand(onset.shape, device=voices.device) < strength[:, None])
    return _moved(voices, moving, shift)


def straightened(voices: Tensor, strength: Tensor) -> Tensor:
    """Move notes to the stronger beat before, if it is free, and remove notes on the weakest beats."""
    for length in (1, 2):
        step = torch.arange(voices.shape[1], device=voices.device)
        onset = (voices >= FIRST_STRIKE).any(2)
        target = (step - length).clamp_min(0).expand(onset.shape)
        weak = step % (2 * length) == length
        moving = onset & weak & ~onset.gather(1, target)
        moving &= torch.rand(onset.shape, device=voices.device) < strength[:, None]
        voices = _canonical(_moved(voices, moving, torch.full_like(strength[:, None], -length).long()))
    onset = (voices >= FIRST_STRIKE).any(2)[..., None]
    weights = _WEIGHTS.to(voices.device)[:, None] + 0.05 * torch.rand(*voices.shape[:2], 1, device=voices.device)
    removed = _lowest_share(weights, onset, 0.8 * strength)
    return torch.where(removed & (voices >= FIRST_STRIKE), HOLD, voices)


def _moved(voices: Tensor, moving: Tensor, shift: Tensor) -> Tensor:
    """Move the strikes of steps (B, N) bool by (B, 1) steps; what sounded before them goes on until then."""
    step = torch.arange(voices.shape[1], device=voices.device)
    source = (step - shift).clamp(0, voices.shape[1] - 1)  # (B, N)
    arriving = moving.gather(1, source) & (source != step)
    values = voices.gather(1, source[..., None].expand(voices.shape))
    left = torch.where(moving[..., None] & (voices >= FIRST_STRIKE), HOLD, voices)
    return torch.where(arriving[..., None] & (values >= FIRST_STRIKE), values, left)


def _next_pitch(voices: Tensor, now: Tensor) -> Tensor:
    """Return the pitch of the next note of each voice, or the present one after the last: (B, N, V)."""
    step = torch.arange(voices.shape[1], device=voices.device)[:, None]
    n_steps = voices.shape[1]
    begins = torch.where(voices >= FIRST_STRIKE, step, n_steps)
    following = torch.cat([begins[:, 1:], torch.full_like(begins[:, :1], n_steps)], dim=1)
    first = following.flip(1).cummin(1).values.flip(1)
    pitch = voices.gather(1, first.clamp_max(n_steps - 1)) - FIRST_STRIKE
    return torch.where(first < n_steps, pitch, now)


def _scales() -> tuple[Tensor, Tensor]:
    """Return pitch classes of 24 scales (24, 12), and the nearest pitch in each scale of each pitch (24, 88)."""
    masks = torch.zeros(24, _OCTAVE)
    for row in range(24):
        scale = (MAJOR_SCALE, HARMONIC_MINOR_SCALE)[row // _OCTAVE]
        masks[row, [(degree + row) % _OCTAVE for degree in scale]] = 1
    column = torch.arange(N_PITCHES)
    inside = masks[:, (column + 9) % _OCTAVE] > 0  # (24, 88): column 0 is A
    distance = (column[:, None] - column[None, :]).abs()  # (88, 88)
    nearest = torch.where(inside[:, None, :], distance, 2 * N_PITCHES).argmin(2)
    return masks, nearest


_MASKS, _NEAREST = _scales()


def _in_scale(voices: Tensor, pitch: Tensor) -> Tensor:
    """Return the nearest pitches on the keyboard in the best scale of each span: (B, N, V), (B, N, W) -> (B, N, W)."""
    strikes = (voices >= FIRST_STRIKE).flatten(1)
    classes = ((voices - FIRST_STRIKE + 9) % _OCTAVE).flatten(1)
    counts = torch.zeros(len(voices), _OCTAVE, device=voices.device).scatter_add_(1, classes, strikes.float())
    scale = (counts @ _MASKS.to(voices.device).T).argmax(1)
    low = ((-pitch).clamp_min(0) + _OCTAVE - 1) // _OCTAVE
    high = ((pitch - (N_PITCHES - 1)).clamp_min(0) + _OCTAVE - 1) // _OCTAVE
    folded = pitch + _OCTAVE * (low - high)
    nearest = _NEAREST.to(voices.device)[scale]  # (B, 88)
    found: Tensor = nearest.gather(1, folded.flatten(1)).view(pitch.shape)
    return found


# The attribute that each edit changes, as an index of `ATTRIBUTES`.
_EDITS: Final[tuple[tuple[int, Callable[[Tensor, Tensor], Tensor]], ...]] = (
    (0, thinned),
    (0, divided),
    (1, narrowed),
    (1, widened),
    (2, straightened),
    (2, syncopated),
)
