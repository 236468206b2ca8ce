"""The order of listening of stored users.

Shapes: U stored users, I items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import SEQUENCE, SEQUENCE_TIMES, Artifact
from tritone_serving.recommender.event_sequences import EventSequence
from tritone_serving.recommender.rows import Rows


@dataclass(frozen=True, eq=False)
class StoredOrder:
    """The latest listens and skips of stored users in order.

    Attributes:
        events: (U, I) sparse, items in order of time, oldest first; 1 for skips, 0 for listens. None if the artifact
            has no order.
        times: (number of events,) seconds since 1970, 0 where unknown; None if no time is known.
    """

    events: Rows | None
    times: npt.NDArray[np.float64] | None

    @classmethod
    def open(cls, artifact: Artifact) -> StoredOrder:
        if f"{SEQUENCE}.starts" not in artifact.arrays:
            return cls(None, None)
        return cls(artifact.rows(SEQUENCE), artifact.arrays.get(SEQUENCE_TIMES))

    def of(self, user: int) -> EventSequence:
        """Return the events of a stored user."""
        if self.events is None:
            return EventSequence.none()
        span = slice(int(self.events.starts[user]), int(self.events.starts[user + 1]))
        items = self.events.columns[span].astype(np.int64)
        times = np.zeros(len(items)) if self.times is None else np.array(self.times[span], np.float64)
        return EventSequence(items, times, self.events.values[span] > 0)
