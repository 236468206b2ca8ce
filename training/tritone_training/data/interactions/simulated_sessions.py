"""Simulated sessions of listening over the embedded corpus, for demos and tests: drift, moods, skips and real order.

A listener has a taste for styles that drifts from week to week, habits by time of day, and moods that follow the hour.
A session is a walk over styles: each style has a few usual successors, so that the next piece depends on the last one.
What fits neither the mood nor the taste is often skipped. Metrics on these data show that a model uses the order of a
history; they are not valid for real listeners.
Shapes: I items, S styles, M moods (the nine emotions of `genre_cnn`), N events, U listeners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone.constants import EMOTIONS
from tritone_training.data.interactions.log import Log
from tritone_training.data.interactions.simulated import (
    SimulatedItem,
    SimulatedWorld,
    assigned_tags,
    corpus_items,
    friend_pairs,
)
from tritone_training.data.interactions.user_sequences import UserSequences

SIMULATED_SESSIONS: Final = "simulated sessions over the embedded corpus (no real people)"
N_SESSION_LISTENERS: Final = 400
BEGIN_S: Final = 1_704_067_200.0  # 2024-01-01, the first day of the simulation
N_DAYS: Final = 84
_WEEK_S: Final = 7 * 86_400.0
_BREAK_S: Final = 3_600.0  # shortest time between two sessions
_N_TASTES: Final = 6
_LARGEST_STYLE: Final = 40  # items; larger groups of equal words are divided at random
_SUCCESSORS: Final = 3  # usual successors of a style
_STAY: Final = 0.25  # probability of staying in the style
_JUMP: Final = 0.1  # probability of a jump to any style
_REPEAT_PENALTY: Final = 2.5  # on the logarithm of the odds of a piece that was played before
_MOOD_WEIGHT: Final = 0.8  # of the fit to the mood, on the logarithm of the odds of a piece
_DRIFT: Final = 0.35  # standard deviation of the weekly change of taste, in the unit of taste itself
# How much each word raises each emotion; words that are not listed raise none.
_EMOTIONS_OF_WORDS: Final[Mapping[str, Mapping[str, float]]] = {
    "major": {"joyful_activation": 1.0, "amazement": 0.7, "tenderness": 0.5, "calmness": 0.5},
    "minor": {"sadness": 1.0, "nostalgia": 0.8, "solemnity": 0.6, "tension": 0.6},
    "slow": {"calmness": 1.0, "solemnity": 0.8, "tenderness": 0.8, "sadness": 0.6},
    "walking": {"nostalgia": 0.6, "amazement": 0.4, "tenderness": 0.3},
    "fast": {"joyful_activation": 1.0, "power": 1.0, "tension": 0.6, "amazement": 0.4},
}
# Emotions that listeners look for, by the first hour of a part of the day.
_EMOTIONS_OF_HOURS: Final[Mapping[int, Mapping[str, float]]] = {
    0: {"sadness": 1.0, "nostalgia": 1.0, "calmness": 0.7},
    6: {"joyful_activation": 1.0, "amazement": 0.8},
    11: {"power": 1.0, "tension": 0.6, "joyful_activation": 0.6},
    17: {"tenderness": 1.0, "calmness": 1.0, "nostalgia": 0.5},
    21: {"calmness": 1.0, "solemnity": 0.8, "tenderness": 0.5},
}
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SimulatedSessions:
    """Simulated sessions.

    Attributes:
        world: the log with its sequences, friends, tags and metadata.
        item_moods: (I, M) share of each emotion in each item, in the order of the log's items; each row adds up to 1.
        session: (N,) number of the session of each event in `world.log.sequences`.
        mood: (N,) index in `EMOTIONS` of the listener's mood at each event.
        styles: (I,) style of each item.
        has_moods: (U,) whether a listener's choices follow moods.
    """

    world: SimulatedWorld
    item_moods: Floats
    session: Ints
    mood: Ints
    styles: Ints
    has_moods: npt.NDArray[np.bool_]


def simulated_sessions(
    *, seed: int, n_listeners: int = N_SESSION_LISTENERS, mood_share: float = 1.0, progress: bool = True
) -> SimulatedSessions:
    """Return simulated sessions over the embedded corpus; equal seeds give equal results."""
    items = corpus_items(progress=progress)
    return simulate_sessions(items, seed=seed, n_listeners=n_listeners, mood_share=mood_share)


def simulate_sessions(
    items: Sequence[SimulatedItem],
    *,
    seed: int,
    n_listeners: int,
    mean_sessions: float = 12,
    mean_events: float = 6,
    mood_share: float = 1.0,
) -> SimulatedSessions:
    """Return simulated sessions over the given pieces.

    Args:
        items: the pieces; their first three words make their styles, and all words their moods.
        seed: equal seeds give equal results.
        n_listeners: U.
        mean_sessions: mean number of sessions of a listener, at least 2 each.
        mean_events: mean number of plays and skips in a session, at least 2 each.
        mood_share: share of listeners whose choices follow moods; the first of them.
    """
    has_moods = np.arange(n_listeners) < mood_share * n_listeners
    rng = np.random.default_rng(seed)
    styles = _styles(rng, items)
    walk = _Walk.draw(rng, items, styles)
    group = rng.integers(0, _N_TASTES, n_listeners)
    tastes = rng.normal(0, 1.0, (_N_TASTES, walk.n_styles))
    events: list[tuple[int, int, float, bool, int, int]] = []  # user, item, time, skipped, session, mood
    n_sessions = 0
    for user in range(n_listeners):
        taste = tastes[group[user]] + rng.normal(0, 0.6, walk.n_styles)
        drift = np.cumsum(rng.normal(0, _DRIFT, (N_DAYS // 7 + 1, walk.n_styles)), 0)
        habit = int(rng.choice(list(_EMOTIONS_OF_HOURS)))
        n = 2 + int(rng.poisson(max(mean_sessions - 2, 0)))
        played = np.zeros(len(items), np.bool_)
        end_s = BEGIN_S
        for planned_s in _begins(rng, habit, n):
            begin_s = max(planned_s, end_s + _BREAK_S)
            week = min(int((begin_s - BEGIN_S) // _WEEK_S), len(drift) - 1)
            mood = _mood(rng, int((begin_s % 86_400) // 3_600))
            weight = _MOOD_WEIGHT if has_moods[user] else 0.0
            n_events = 2 + int(rng.poisson(max(mean_events - 2, 0)))
            walked = walk.session(
                rng,
                taste + drift[week],
                fit=weight * walk.fits[:, mood],
                played=played,
                begin_s=begin_s,
                n_events=n_events,
            )
            end_s = walked[-1][1]
            events += [(user, item, at_s, skipped, n_sessions, mood) for item, at_s, skipped in walked]
            n_sessions += 1
    names = [f"listener-{user:04d}" for user in range(n_listeners)]
    users, played_items, times, skipped_flags, sessions, moods = (np.array(each) for each in zip(*events, strict=True))
    sequences = UserSequences(users, played_items, times, skipped_flags)  # made in order of users and times
    log = _log(items, names, sequences)
    tags = assigned_tags(rng, items, log, source=SIMULATED_SESSIONS)
    friends = friend_pairs(rng, group, names)
    world = SimulatedWorld(log, friends, tags, {each.id: dict(each.metadata) for each in items})
    return SimulatedSessions(world, walk.moods, sessions, moods, styles, has_moods)


@dataclass(frozen=True, eq=False)
class _Walk:
    """What the sessions of all listeners have in common.

    Attributes:
        styles: (I,) style of each item.
        log_steps: (S, S) logarithm of the probability of each style after another.
        fame: (I,) logarithm of the popularity of each item within its style.
        moods: (I, M), see `SimulatedSessions.item_moods`.
        fits: (I, M) how well each item fits a mood, of mean 0 and variance 1 for each mood.
    """

    styles: Ints
    log_steps: Floats
    fame: Floats
    moods: Floats
    fits: Floats

    @property
    def n_styles(self) -> int:
        return len(self.log_steps)

    @classmethod
    def draw(cls, rng: np.random.Generator, items: Sequence[SimulatedItem], styles: Ints) -> _Walk:
        n_styles = int(styles.max()) + 1
        steps = np.full((n_styles, n_styles), _JUMP / n_styles)
        for style in range(n_styles):
            steps[style, style] += _STAY
            n = min(_SUCCESSORS, n_styles)
            steps[style, rng.choice(n_styles, n, replace=False)] += (1 - _STAY - _JUMP) / n
        fame = np.log(rng.zipf(1.8, len(items)).clip(1, 60)) * 0.7
        moods = _item_moods(rng, items)
        fits = (moods - moods.mean(0)) / (moods.std(0) + 1e-9)
        return cls(styles, np.log(steps), fame, moods, fits)

    def session(
        self,
        rng: np.random.Generator,
        taste: Floats,
        *,
        fit: Floats,
        played: npt.NDArray[np.bool_],
        begin_s: float,
        n_events: int,
    ) -> list[tuple[int, float, bool]]:
        """Return the events of a session as (item, time, whether skipped), and mark the items in `played`.

        Args:
            rng: source of randomness.
            taste: (S,) for styles.
            fit: (I,) how well each item fits the mood of the session.
            played: (I,) items of earlier sessions.
            begin_s: seconds since 1970.
            n_events: number of plays and skips.
        """
        base = self.fame + fit - _REPEAT_PENALTY * played
        style = int(np.argmax(taste + rng.gumbel(0, 1, self.n_styles)))  # of the first piece
        weights = taste * 0.5
        at_s, events = begin_s, []
        used = np.zeros(len(self.styles), np.bool_)
        for place in range(n_events):
            step = self.log_steps[style] if place else np.where(np.arange(self.n_styles) == style, 0, -3.0)
            liking = base + (step + weights)[self.styles]
            liking[used] = -np.inf
            item = int(np.argmax(liking + rng.gumbel(0, 1, len(liking))))
            used[item] = True
            dislike = -1.6 - fit[item] - 0.7 * weights[self.styles[item]]
            is_skipped = bool(rng.random() < 1 / (1 + np.exp(-dislike)))
            events.append((item, at_s, is_skipped))
            if is_skipped:
                at_s += float(rng.integers(5, 40))
            else:
                at_s += float(rng.integers(120, 300))
                style = int(self.styles[item])
                played[item] = True
            if used.all():
                break
        return events


def _styles(rng: np.random.Generator, items: Sequence[SimulatedItem]) -> Ints:
    """Return the style of each item (I,): items with the same first three words, in parts of at most 40."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.words[:3], []).append(index)
    styles, n_styles = np.zeros(len(items), np.int64), 0
    for key in sorted(groups):
        shuffled = rng.permutation(groups[key])
        for part in np.array_split(shuffled, -(-len(shuffled) // _LARGEST_STYLE)):
            styles[part] = n_styles
            n_styles += 1
    return styles


def _item_moods(rng: np.random.Generator, items: Sequence[SimulatedItem]) -> Floats:
    """Return the share of each emotion in each item (I, M)."""
    raised = np.array(
        [
            [sum(_EMOTIONS_OF_WORDS.get(word, {}).get(emotion, 0.0) for word in item.words) for emotion in EMOTIONS]
            for item in items
        ]
    )
    shares = np.exp(1.5 * raised + rng.normal(0, 0.5, raised.shape))
    found: Floats = shares / shares.sum(1, keepdims=True)
    return found


def _begins(rng: np.random.Generator, habit: int, n: int) -> list[float]:
    """Return the times of n sessions, ascending; seven of ten in the habitual part of the day."""
    hours = list(_EMOTIONS_OF_HOURS)
    days = np.sort(rng.choice(N_DAYS, min(n, N_DAYS), replace=False))
    begins = []
    for day in days.tolist():
        part = habit if rng.random() < 0.7 else int(rng.choice(hours))
        begins.append(BEGIN_S + day * 86_400 + (part + float(rng.random()) * 3) * 3_600)
    return begins


def _mood(rng: np.random.Generator, hour: int) -> int:
    """Return the index of a mood, which depends on the hour."""
    part = max(first for first in _EMOTIONS_OF_HOURS if first <= hour)
    raised = np.array([2.0 * _EMOTIONS_OF_HOURS[part].get(emotion, 0.0) for emotion in EMOTIONS])
    return int(np.argmax(raised + rng.gumbel(0, 1, len(EMOTIONS))))


def _log(items: Sequence[SimulatedItem], names: Sequence[str], sequences: UserSequences) -> Log:
    """Return the log of the plays, with the first and last time of each pair of listener and item."""
    plays = sequences.take(~sequences.skipped)
    assert plays.time is not None  # noqa: S101 - simulated with times
    pairs, first, index, counts = np.unique(
        plays.user * len(items) + plays.item, return_index=True, return_inverse=True, return_counts=True
    )
    last = np.zeros(len(pairs))
    np.maximum.at(last, index, plays.time)
    return Log(
        SIMULATED_SESSIONS,
        names,
        [each.id for each in items],
        pairs // len(items),
        pairs % len(items),
        counts.astype(np.float32),
        plays.time[first],
        {
            "source": SIMULATED_SESSIONS,
            "n_in": len(sequences),
            "n_used": len(pairs),
            "n_skips": int(sequences.skipped.sum()),
            "n_users": len(names),
            "n_items": len(items),
            "simulated": True,
            "licence": "simulated; no personal data",
        },
        last,
        sequences,
    )
