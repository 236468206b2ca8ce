"""A user's recorded events as weights of items, added to the logged history at request time.

An event counts by its kind and its age:

```
play     s * (1 + boost * d)    s = min(1, played_s / 30), 1 if the length is not given; d = 0.5 ** (age / half-life)
like     2 * (1 + boost * d)
skip     -skip * (1 + boost) * d
dislike  -skip * (1 + boost)    at any age
```
For events up to `through`, which the fit has used, the 1 of plays and likes is left out. Of the likes and dislikes of
one item, the newest counts. The weights of one item add up, within `LARGEST_WEIGHT`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.events import Event
from tritone_serving.recommender.requests import Floats, Ints

FULL_PLAY_S: Final = 30.0  # a play of this length or more counts fully
LARGEST_WEIGHT: Final = 10.0  # of one item; the mean weight of a logged item is about 1
SMALLEST_WEIGHT: Final = 0.05  # items with smaller weights are left out
MOST_EVENTS: Final = 200  # of one user; older ones are not read
SESSION_S: Final = 3_600.0  # a user whose last event is younger than this is in a session
_LIKE: Final = 2.0


@dataclass(frozen=True, eq=False)
class RecentEvents:
    """Recorded events of the users of some requests.

    Attributes:
        by_request: (B,) events of each request's user, oldest first; empty for requests without a user.
        is_available: whether the event store could be read.
    """

    by_request: Sequence[Sequence[Event]]
    is_available: bool = True


@dataclass(frozen=True, eq=False)
class FoldedEvents:
    """Events of one user as weights of items, and in order.

    Attributes:
        n_events: number of events, including those of unknown items.
        is_session: whether the last event of a known item is younger than `SESSION_S`.
        order: (m,) index of the item of each event, oldest first; unknown items are left out.
        times: (m,) when, in seconds since 1970.
        is_rejection: (m,) whether the event is a skip or a dislike.
        items: (n,) indices, ascending.
        weights: (n,) positive for items played or liked, negative for items skipped or disliked.
        is_consumed: (n,) whether the item was played or liked.
        is_disliked: (n,) whether the latest like or dislike of the item is a dislike; its plays do not count then.
    """

    n_events: int
    is_session: bool
    order: Ints
    times: npt.NDArray[np.float64]
    is_rejection: npt.NDArray[np.bool_]
    items: Ints
    weights: Floats
    is_consumed: npt.NDArray[np.bool_]
    is_disliked: npt.NDArray[np.bool_]

    def add_to(self, items: Ints, weights: Floats) -> tuple[Ints, Floats]:
        """Return the items of a weighted history and of the events, ascending, and their summed weights.

        Args:
            items: (m,) of the history, without duplicates.
            weights: (m,) of `items`.
        """
        if not len(self.items):
            return items, weights
        # A dict, because `np.unique` takes several times as long for histories of usual lengths.
        total: dict[int, float] = dict(zip(items.tolist(), weights.tolist(), strict=True))
        for item, weight, is_disliked in zip(
            self.items.tolist(), self.weights.tolist(), self.is_disliked.tolist(), strict=True
        ):
            total[item] = weight + (0.0 if is_disliked else total.get(item, 0.0))
        union = np.fromiter(total, np.int64, len(total))
        sums = np.fromiter(total.values(), np.float32, len(total))
        order = np.argsort(union)
        return union[order], sums[order]


NOTHING_RECORDED: Final = FoldedEvents(
    0,
    False,
    np.zeros(0, np.int64),
    np.zeros(0, np.float64),
    np.zeros(0, np.bool_),
    np.zeros(0, np.int64),
    np.zeros(0, np.float32),
    np.zeros(0, np.bool_),
    np.zeros(0, np.bool_),
)


@dataclass(frozen=True)
class EventWeighting:
    """Parameters of the weights, from the manifest's `events` and `weighting`.

    The defaults were chosen on simulated sessions (`benchmarks/recent_events.py`).

    Attributes:
        half_life_s: age in seconds at which the effect of recency is halved.
        boost: additional weight of a new event; an old play weighs 1, a new one 1 + boost.
        skip: weight of a skipped or disliked item, as of `skipped` in a request.
        through: time in seconds since 1970 up to which stored events were used in the fit; 0 if none were.
    """

    half_life_s: float = 2 * 86_400.0
    boost: float = 4.0
    skip: float = 0.5
    through: float = 0.0

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> EventWeighting:
        """Read the parameters; those that the manifest does not have get their defaults."""
        described = manifest.get("events") or {}
        return cls(
            float(described.get("half_life_s", cls.half_life_s)),
            float(described.get("boost", cls.boost)),
            float(manifest["weighting"]["skip"]),
            float(described.get("through", cls.through)),
        )

    def fold(self, events: Sequence[Event], index_of: Callable[[str], int | None], *, now: float) -> FoldedEvents:
        """Return the weights of the items in a user's events.

        Args:
            events: of one user, oldest first.
            index_of: returns the index of an item, None for items that the artifact does not have; these are ignored.
            now: current time in seconds since 1970.
        """
        if not events:
            return NOTHING_RECORDED
        order: list[int] = []
        times: list[float] = []
        rejections: list[bool] = []
        weights: dict[int, float] = {}
        verdicts: dict[int, float] = {}  # of the newest like or dislike
        consumed: set[int] = set()
        for event in events:
            item = index_of(event.track)
            if item is None:
                continue
            is_consumption = event.kind in ("play", "like")
            if is_consumption:
                consumed.add(item)
            order.append(item)
            times.append(event.at)
            rejections.append(not is_consumption)
            decay = 0.5 ** (max(now - event.at, 0.0) / self.half_life_s)
            recent = float(event.received > self.through) + self.boost * decay
            if event.kind == "play":
                share = 1.0 if event.played_s is None else min(1.0, event.played_s / FULL_PLAY_S)
                weights[item] = weights.get(item, 0.0) + share * recent
            elif event.kind == "skip":
                weights[item] = weights.get(item, 0.0) - self.skip * (1 + self.boost) * decay
            elif event.kind == "like":
                verdicts[item] = _LIKE * recent
            else:
                verdicts[item] = -max(self.skip * (1 + self.boost), SMALLEST_WEIGHT)  # always below 0
        disliked = {item for item, verdict in verdicts.items() if verdict < 0}
        for item, verdict in verdicts.items():
            weights[item] = verdict + (0.0 if item in disliked else weights.get(item, 0.0))
        found = sorted(item for item, weight in weights.items() if abs(weight) >= SMALLEST_WEIGHT)
        return FoldedEvents(
            len(events),
            bool(times) and now - times[-1] < SESSION_S,
            np.array(order, np.int64),
            np.array(times, np.float64),
            np.array(rejections, np.bool_),
            np.array(found, np.int64),
            np.clip(np.array([weights[item] for item in found], np.float32), -LARGEST_WEIGHT, LARGEST_WEIGHT),
            np.array([item in consumed for item in found], np.bool_),
            np.array([item in disliked for item in found], np.bool_),
        )
