"""Moods of requests as vectors over the nine emotions, given by a caller or inferred from the last plays.

The direction of a vector says which emotions are wanted, its length (0..1) how strongly.
Shapes: I items, L plays, nine emotions in the order of `MOODS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.event_sequences import EventSequence
from tritone_serving.recommender.exceptions import InvalidRequestError, shown

Floats = npt.NDArray[np.float32]

# Emotions by GEMS-9, in the order of `genre_cnn`'s output.
MOODS: Final = (
    "amazement",
    "solemnity",
    "tenderness",
    "nostalgia",
    "calmness",
    "power",
    "joyful_activation",
    "tension",
    "sadness",
)
# An emotion, or the strength (0..1) of some of them, by name or for all nine in order.
GivenMood: TypeAlias = str | Mapping[str, float] | npt.NDArray[np.floating[Any]]
MoodSource = Literal["given", "inferred", "none"]
LARGEST_STRENGTH: Final = 8.0  # of inferred moods, relative to a given one


@dataclass(frozen=True)
class AppliedMood:
    """The mood that a response took into account.

    Attributes:
        source: whether the mood was given, inferred from the last plays, or none.
        values: strength of each emotion, 0 where there is no mood. Those of inferred moods may be negative: emotions
            that the last plays had less of than the catalogue.
        weight: how much the mood counts in a ranking, relative to a given mood of the same values.
    """

    source: MoodSource = "none"
    values: tuple[float, ...] = (0.0,) * len(MOODS)
    weight: float = 1.0

    @classmethod
    def of(cls, source: MoodSource, vector: Floats, weight: float = 1.0) -> AppliedMood:
        """Return the mood of a vector (9,)."""
        return cls(source, tuple(vector.tolist()), weight)

    @property
    def vector(self) -> Floats:
        """(9,) strength of each emotion, of a length of at most 1."""
        return np.array(self.values, np.float32)

    @property
    def strengths(self) -> dict[str, float]:
        """Strength by emotion, without those of 0."""
        return {name: round(each, 4) for name, each in zip(MOODS, self.values, strict=True) if each}


def mood_vector(mood: GivenMood) -> Floats:
    """Return the vector of a given mood, (9,), of a length of at most 1.

    Raises:
        InvalidRequestError: an emotion is unknown, a strength is not a number from 0 to 1, or all are 0.
    """
    if isinstance(mood, str):
        mood = {mood: 1.0}
    if not isinstance(mood, Mapping):
        values = np.asarray(mood)
        if values.shape != (len(MOODS),):
            raise InvalidRequestError(f"invalid mood: expected {len(MOODS)} strengths, got shape {values.shape}")
        mood = dict(zip(MOODS, values.tolist(), strict=True))
    vector = np.zeros(len(MOODS), np.float32)
    for name, strength in mood.items():
        if name not in MOODS:
            raise InvalidRequestError(f"unknown mood: expected one of {', '.join(MOODS)}, got {shown(name)}")
        if not isinstance(strength, int | float | np.number) or not 0 <= strength <= 1:  # false for NaN
            raise InvalidRequestError(f"invalid mood: expected a strength of {name} from 0 to 1, got {shown(strength)}")
        vector[MOODS.index(name)] = strength
    if not vector.any():
        raise InvalidRequestError("invalid mood: expected a strength above 0 for at least one emotion, got none")
    return _at_most_1(vector)


@dataclass(frozen=True)
class MoodInference:
    """How a mood is inferred from the last plays; chosen on validation, see the manifest entry `inferred_mood`.

    Attributes:
        strength: weight of an inferred mood relative to that of a given one, 0..8; 0 infers none.
        half_life: number of plays after which a play counts half.
        most: largest number of plays that count.
        within_s: largest age of a play that counts, in seconds, where its time is known.
    """

    strength: float = 0.0
    half_life: float = 3.0
    most: int = 10
    within_s: float = 7_200.0

    @classmethod
    def from_manifest(cls, described: Mapping[str, Any]) -> MoodInference:
        """Read the parameters; without them no mood is inferred."""
        return cls(
            float(described.get("strength", cls.strength)),
            float(described.get("half_life", cls.half_life)),
            int(described.get("most", cls.most)),
            float(described.get("within_s", cls.within_s)),
        )

    def infer(self, events: EventSequence, moods: Floats, now_s: float) -> AppliedMood:
        """Return the mood of the last plays.

        Args:
            events: plays and skips, oldest first; skips do not count.
            moods: (I, 9) standardised moods of the items, zeros where unknown.
            now_s: time of the request in seconds since 1970.
        """
        if not self.strength:
            return AppliedMood()
        is_recent = (events.times <= 0) | (events.times >= now_s - self.within_s)
        last = events.items[~events.skipped & is_recent][-self.most :][::-1]
        weights = (0.5 ** (np.arange(len(last)) / self.half_life)).astype(np.float32) * moods[last].any(1)
        if not weights.any():
            return AppliedMood()
        mean = weights @ moods[last] / weights.sum()
        # Plays that agree on a mood have a longer mean than plays of all moods, so agreement shows in the strength.
        return AppliedMood.of("inferred", mean / max(float(np.linalg.norm(mean)), 1.0), self.strength)


def _at_most_1(vector: Floats) -> Floats:
    scaled: Floats = vector / max(float(np.linalg.norm(vector)), 1.0)
    return scaled
