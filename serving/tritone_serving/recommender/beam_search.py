"""Beam search for the order of the tracks of a playlist.

The cost of a track is that of the step to it, (1 - similarity) ** 2, less how well it suits its position, plus costs of
similarity to earlier tracks and of a repeated artist.
Shapes: I items, D size of a vector, P candidates, M tracks to find, W beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_BEAMS: Final = 8  # sequences that are continued at each step
_N_REMEMBERED: Final = 30  # latest tracks of `after` that the next ones should be unlike

# Weights of the costs of a track; those of the steps, (1 - similarity) ** 2, count 1.
_OFF_LINE: Final = np.float32(0.4)
_ALIKE: Final = np.float32(0.5)  # times diversity
_SAME_ARTIST: Final = np.float32(100)  # more than all other costs of a step

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BeamSearch:
    """Orders the tracks of playlists.

    Attributes:
        vectors: (I, D) of norm 1.
        artists: (I,) number of the artist of each item.
    """

    vectors: Floats
    artists: npt.NDArray[np.integer[Any]]

    def cheapest(
        self, pool: Ints, lines: Floats, before: Sequence[int], end: int | None, *, gap: int, diversity: float, n: int
    ) -> list[int]:
        """Return the items of the cheapest sequence that a beam search finds.

        Args:
            pool: (P,) candidates.
            lines: (M, P) how well each suits each position.
            before: earlier tracks, the last of which is followed.
            end: the track that follows the last one.
            gap: number of tracks between two of the same artist.
            diversity: 0..1.
            n: number of tracks to find; fewer are found if there are fewer candidates.
        """
        n = min(n, len(pool))
        if not n:
            return []
        vectors = self.vectors
        mine = vectors[pool]
        similar = mine @ mine.T
        earlier = vectors[list(before[-_N_REMEMBERED:])] @ mine.T
        step_costs = (1 - similar) ** 2
        first = (1 - earlier[-1]) ** 2
        last = None if end is None else (1 - mine @ vectors[end]) ** 2
        artists, unlike = self.artists[pool], _ALIKE * np.float32(diversity)
        start_gap = self.artists[list(before[-gap:])] if gap else np.zeros(0, np.int64)
        recent = np.full((1, gap), -1, np.int64)
        recent[0, gap - len(start_gap) :] = start_gap
        paths = np.zeros((1, 0), np.int64)
        costs = np.zeros(1, np.float32)
        used = np.zeros((1, len(pool)), np.bool_)
        # Similarity to the most similar earlier track; the latest one is added when it is followed by another.
        nearest = np.maximum(earlier[:-1].max(0, initial=0.0), 0)[None]
        for position in range(n):
            step = (first if position == 0 else step_costs[paths[:, -1]]) - _OFF_LINE * lines[position]
            if unlike:
                step = step + unlike * nearest**2
            if last is not None and position == n - 1:
                step = step + last
            if gap:
                repeats = (recent[:, :, None] == artists).any(1)
                if end is not None and n - position <= gap:
                    repeats |= artists == self.artists[end]
                step = step + _SAME_ARTIST * repeats
            total = np.where(used, np.float32(np.inf), costs[:, None] + step).ravel()
            n_kept = min(_BEAMS, int((total < np.inf).sum()))
            chosen = np.argpartition(total, n_kept - 1)[:n_kept] if n_kept < len(total) else np.arange(len(total))
            chosen = chosen[np.lexsort((chosen, total[chosen]))][:n_kept]
            parents, children = np.divmod(chosen, len(pool))
            costs = total[chosen]
            seen = earlier[-1:] if position == 0 else similar[paths[parents, -1]]
            nearest = np.maximum(nearest[parents], seen)
            paths = np.concatenate([paths[parents], children[:, None]], axis=1)
            used = used[parents]
            used[np.arange(n_kept), children] = True
            if gap:
                recent = np.concatenate([recent[parents, 1:], artists[children][:, None]], axis=1)
        found: list[int] = pool[paths[0]].tolist()
        return found
