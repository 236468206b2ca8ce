"""Playlists: a smooth path between two items, or a mix that starts with one and can be continued.

Items are compared by one vector each, which joins co-listening, sound and tags, so that one product of a matrix and a
vector compares an item with all others. A beam search orders a pool of candidates: it prefers small steps from track to
track (a large one costs more than two small ones), tracks near the line from start to end (or near the start of a mix),
tracks that fit the listener's taste and mood, and tracks unlike the earlier ones. Repeats are excluded; an artist
repeats only where nothing else is left.

Shapes: I items, D size of a vector, P candidates, M tracks to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.beam_search import BeamSearch
from tritone_serving.recommender.exceptions import InvalidRequestError, shown
from tritone_serving.recommender.moods import AppliedMood
from tritone_serving.recommender.playlist_vectors import TrackVectors, playlist_arrays
from tritone_serving.recommender.ranking import top
from tritone_serving.recommender.requests import MOST_HISTORY, RecommendRequest, UnknownInputs

if TYPE_CHECKING:
    from tritone_serving.recommender.recent_events import RecentEvents
    from tritone_serving.recommender.recommender import Recommender

MOST_PLAYLIST: Final = 200  # tracks in one response; `after` continues a mix
LARGEST_ARTIST_GAP: Final = 100
DEFAULT_ARTIST_GAP: Final = 3
DEFAULT_DIVERSITY: Final = 0.3
# By default, each track of the gap needs so many equally frequent artists among the candidates. With fewer, tracks
# would be chosen by their artists alone, and steps would become large.
_ARTISTS_PER_GAP: Final = 4
_N_NEAR: Final = 2_000  # items near start, middle or end, from which the candidates are taken
_N_STAGES: Final = 12  # points on the line from start to end around which candidates are taken
_N_EACH: Final = 32  # candidates around each of them
_N_MIX: Final = 256  # candidates of a mix
_POOL_PER_TRACK: Final = 3

# Maximum bonus, in units of cosine similarity, for taste, mood and a random tie-break.
_TASTE: Final = np.float32(0.5)
_MOOD: Final = np.float32(0.5)
_CHANCE: Final = np.float32(0.1)
# Maximum bonus for well-known items: similarities of items with few listeners are unreliable.
_KNOWN: Final = np.float32(0.5)
_LISTENERS: Final = 30  # number of listeners at which half of that bonus is given

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PlaylistRequest:
    """A request for a playlist.

    Attributes:
        start: id of the first item.
        end: id of the last item of a path; None for a mix.
        n: number of tracks, start and end included, 1 to 200 (2 to 200 with `end`).
        after: ids of the earlier tracks of a mix, in order: the mix goes on after the last of them, repeats none of
            them, and does not contain `start` again.
        artist_gap: number of tracks between two of the same artist, 0 to 100; if None, 3, or fewer if there are few
            artists among the similar items.
        diversity: 0 allows tracks like the previous ones, 1 avoids them.
        seed: the same request with the same seed gives the same playlist.
        listener: whose taste and mood to follow. `user`, `history`, `weights`, `skipped`, `friends`, `embedding`,
            `mood`, `exclude` and `caller` are used.
    """

    start: str
    end: str | None = None
    n: int = 20
    after: Sequence[str] = ()
    artist_gap: int | None = None
    diversity: float = DEFAULT_DIVERSITY
    seed: int = 0
    listener: RecommendRequest = field(default_factory=RecommendRequest)

    def check(self) -> None:
        """Validate the fields.

        Raises:
            InvalidRequestError: a field is out of range, or fields contradict each other.
        """
        if not self.start:
            raise InvalidRequestError("invalid start: expected the id of an item, got none")
        least = 1 if self.end is None else 2
        if isinstance(self.n, bool) or not least <= self.n <= MOST_PLAYLIST:
            with_end = "" if self.end is None else " with an end"
            raise InvalidRequestError(
                f"invalid n: expected a whole number from {least} to {MOST_PLAYLIST}{with_end}, got {self.n}; continue "
                f"a mix with after"
            )
        if self.artist_gap is not None and not 0 <= self.artist_gap <= LARGEST_ARTIST_GAP:
            raise InvalidRequestError(
                f"invalid artist_gap: expected a whole number from 0 to {LARGEST_ARTIST_GAP}, got {self.artist_gap}"
            )
        if not 0 <= self.diversity <= 1:  # false for NaN
            raise InvalidRequestError(
                f"invalid diversity: expected a number from 0 to 1, got {np.float32(self.diversity)!s}"
            )
        if self.seed < 0:
            raise InvalidRequestError(f"invalid seed: expected a whole number from 0, got {self.seed}")
        if len(self.after) > MOST_HISTORY:
            raise InvalidRequestError(f"invalid after: expected at most {MOST_HISTORY:,} ids, got more")
        if self.end is not None and len(self.after):
            raise InvalidRequestError("end and after exclude each other: a path is complete, only a mix goes on")


@dataclass(frozen=True, eq=False)
class PlaylistResponse:
    """A playlist.

    Attributes:
        items: item ids in order.
        similarities: (n,) similarity of each track to the one before it, -1..1; 0 for the first track of a new
            playlist, which has no predecessor.
        artist_gap: smallest number of tracks between two of the same artist in this playlist, at most the requested
            number.
        relaxed: what could not be kept: `artist_gap`, and `n` if the catalogue has fewer tracks left.
        compared_by: what the similarities are based on: of `listening`, `sound` and `tags`.
        by_taste: whether the listener's taste was followed.
        mood: the mood that was followed.
        unknown: inputs that were ignored; unknown ids of `after` are among those of `exclude`.
    """

    items: tuple[str, ...]
    similarities: Floats
    artist_gap: int
    relaxed: tuple[str, ...]
    compared_by: tuple[str, ...]
    by_taste: bool
    mood: AppliedMood
    unknown: UnknownInputs


@dataclass(frozen=True, eq=False)
class _Preferences:
    """What makes items preferable apart from the music around them.

    Attributes:
        values: (I,) added to the similarity to the line; -inf for excluded items.
    """

    values: Floats
    by_taste: bool
    mood: AppliedMood
    unknown: UnknownInputs


class PlaylistMaker:
    """Makes playlists from the items of one recommender. Safe to use from several threads."""

    def __init__(self, recommender: Recommender) -> None:
        """Read the vectors of all items, or compute them for artifacts that were written without."""
        self._recommender = recommender
        arrays = recommender.artifact.derive("playlists", playlist_arrays)
        self._vectors = TrackVectors.from_arrays(arrays)
        self._artists = arrays["artists"]
        self._search = BeamSearch(self._vectors.vectors, self._artists)

    def make(self, request: PlaylistRequest, *, recent: RecentEvents | None = None) -> PlaylistResponse:
        """Return a playlist.

        Args:
            request: what to make.
            recent: recorded events of the listener; None if there is no event store.

        Raises:
            InvalidRequestError: an item is unknown, start and end are the same, nothing is known by which one of them
                could be compared, or a field is out of range.
        """
        request.check()
        start = self._item("start", request.start)
        end = None if request.end is None else self._item("end", request.end)
        if start == end:
            raise InvalidRequestError(
                f"invalid end: expected another item than start, got {shown(request.end)}; leave end out for a mix"
            )
        after, unknown_after = self._recommender.resolver.items(request.after)
        preferences = self._preferences(request, recent)
        values = preferences.values
        values[[start, *after, *([] if end is None else [end])]] = -np.inf
        before = after or [start]
        n_wanted = request.n - (not request.after) - (end is not None)
        if request.after and not after:  # all of them unknown
            before = [start]
        pool, lines = self._candidates(start, end, n_wanted, values)
        gap = self._gap(request.artist_gap, pool)
        found = self._search.cheapest(pool, lines, before, end, gap=gap, diversity=request.diversity, n=n_wanted)
        items = [*([] if request.after else [start]), *found, *([] if end is None else [end])]
        previous = [before[-1], *items] if request.after else items
        kept = self._kept_gap([*before[-LARGEST_ARTIST_GAP:], *found, *([] if end is None else [end])], gap)
        wanted_gap = DEFAULT_ARTIST_GAP if request.artist_gap is None else request.artist_gap
        relaxed = ["artist_gap"] if kept < min(wanted_gap, max(len(items) - 2, 0)) else []
        if len(found) < n_wanted:
            relaxed.append("n")
        unknown = preferences.unknown
        return PlaylistResponse(
            items=tuple(self._recommender.item_ids[item] for item in items),
            similarities=self._steps(previous, len(items)),
            artist_gap=kept,
            relaxed=tuple(relaxed),
            compared_by=self._vectors.spaces,
            by_taste=preferences.by_taste,
            mood=preferences.mood,
            unknown=replace(unknown, exclude=tuple(dict.fromkeys([*unknown.exclude, *unknown_after]))),
        )

    def _item(self, name: str, item: str) -> int:
        index = self._recommender.resolver.item(item)
        if index is None:
            raise InvalidRequestError(
                f"item {shown(item)} is not known: expected an id of the catalogue as {name}; look it up by its title"
            )
        if not self._vectors.vectors[index].any():
            raise InvalidRequestError(
                f"nothing is known by which to compare {name} {shown(item)}: it has no recording, no tags and fewer "
                f"than 3 listeners; choose another track"
            )
        return index

    # --- taste and mood ------------------------------------------------------------------------

    def _preferences(self, request: PlaylistRequest, recent: RecentEvents | None) -> _Preferences:
        """Return what the listener prefers, in units of similarity, with some chance by the seed."""
        recommender, listener = self._recommender, request.listener
        listener.check()
        # Without its mood, as a playlist has a start and needs nothing else that is known.
        resolved = recommender.resolve([replace(listener, mood=None)], use_precomputed=False, recent=recent)
        if isinstance(resolved.responses[0], InvalidRequestError):
            raise resolved.responses[0]
        batch = resolved.batch
        mood = batch.moods[0] if listener.mood is None else recommender.resolver.given_mood(listener)
        chance = np.random.default_rng(request.seed).random(recommender.artifact.n_items, np.float32)
        n_listeners = recommender.resolver.n_listeners
        values: Floats = _CHANCE * chance + _KNOWN * (n_listeners / (n_listeners + _LISTENERS)).astype(np.float32)
        by_taste = bool(batch.has_history[0]) or batch.embeddings is not None
        if by_taste:
            values += _TASTE * _share_of_range(recommender.score(resolved).ensemble[0])
        if mood.source != "none":
            vector = mood.vector
            length = np.float32(np.linalg.norm(vector))
            fits = recommender.artifact.arrays["items.moods"] @ (vector / length)
            values += _MOOD * np.float32(min(float(length) * mood.weight, 1.0) / 2) * np.clip(fits, -2, 2)
        history, weights = batch.history.row(0)
        values[history[weights < 0]] = -np.inf
        values[recommender.resolver.items(listener.exclude)[0]] = -np.inf
        no_moods = listener.mood is not None and mood.source == "none"
        return _Preferences(
            values, by_taste, mood, replace(batch.unknown[0], mood=no_moods, events=resolved.is_without_events)
        )

    # --- candidates ----------------------------------------------------------------------------

    def _candidates(self, start: int, end: int | None, n: int, values: Floats) -> tuple[Ints, Floats]:
        """Return the candidates (P,) and how well each suits each position of the playlist (M, P)."""
        if not n:
            return np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
        vectors = self._vectors.vectors
        from_start = vectors @ vectors[start]
        if end is None:
            total = from_start + values
            pool = np.union1d(self._varied(total, _N_MIX), top(total, _POOL_PER_TRACK * n))
            return pool, np.broadcast_to(total[pool], (n, len(pool)))
        to_end = vectors @ vectors[end]
        between = float(from_start[end])
        near = top(np.maximum(np.maximum(from_start, to_end), (from_start + to_end) * 0.75) + values, _N_NEAR)
        from_start, to_end, values = from_start[near], to_end[near], values[near]

        def lines(shares: Floats) -> Floats:
            """Return the values of the items near the line at the given shares of the way (S,), (S, items)."""
            shares = shares[:, None]
            lengths = np.sqrt(np.maximum(shares**2 + (1 - shares) ** 2 + 2 * shares * (1 - shares) * between, 1e-6))
            found: Floats = ((1 - shares) * from_start + shares * to_end) / lengths + values
            return found

        n_stages = min(n, _N_STAGES)
        stages = lines(((np.arange(n_stages) + 0.5) / n_stages).astype(np.float32))
        chosen = [self._varied(stage, _N_EACH, near) for stage in stages]
        # The stages may share candidates, so that there are fewer than positions.
        best = top(stages.max(0), _POOL_PER_TRACK * n)
        pool = np.unique(np.concatenate([best, *chosen]))
        shares = ((np.arange(n) + 1) / (n + 1)).astype(np.float32)
        return near[pool], lines(shares)[:, pool]

    def _varied(self, values: Floats, n: int, items: Ints | None = None) -> Ints:
        """Return the indices of about n of the best values, without leaving out all but one artist.

        Half of them are the best of all; the others are the best of those that are among the best of their artist.
        """
        best = top(values, n)
        if not self._has_artists:
            return best
        wide = top(values, 8 * n)
        artists = self._artists[wide if items is None else items[wide]]
        order = np.argsort(artists, kind="stable")
        firsts = (
            np.concatenate([[True], artists[order][1:] != artists[order][:-1]]) if len(order) else np.zeros(0, bool)
        )
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order)) - np.maximum.accumulate(np.where(firsts, np.arange(len(order)), 0))
        most = max(4, n // 16)
        varied: Ints = np.unique(np.concatenate([best[: n // 2], wide[ranks < most][: n // 2]]))
        return varied

    @cached_property
    def _has_artists(self) -> bool:
        return len(np.unique(self._artists)) < len(self._artists)

    def _gap(self, wanted: int | None, pool: Ints) -> int:
        if wanted is not None:
            return wanted
        shares = np.unique(self._artists[pool], return_counts=True)[1] / max(len(pool), 1)
        n_artists = 1 / max(float((shares**2).sum()), 1e-9)  # as many equally frequent artists would vary as much
        return min(DEFAULT_ARTIST_GAP, int(n_artists / _ARTISTS_PER_GAP))

    def _kept_gap(self, items: Sequence[int], gap: int) -> int:
        """Return the smallest number of tracks between two of the same artist, at most `gap`."""
        last: dict[int, int] = {}
        for position, artist in enumerate(self._artists[list(items)].tolist()):
            if artist in last:
                gap = min(gap, position - last[artist] - 1)
            last[artist] = position
        return gap

    def _steps(self, items: Sequence[int], n: int) -> Floats:
        vectors = self._vectors.vectors[list(items)]
        steps = np.einsum("id,id->i", vectors[1:], vectors[:-1])
        similarities: Floats = np.concatenate([np.zeros(n - len(steps), np.float32), steps])
        return similarities


def _share_of_range(scores: npt.NDArray[np.floating[Any]]) -> Floats:
    """Return scores scaled to 0..1."""
    least, most = float(scores.min()), float(scores.max())
    scaled: Floats = ((scores - least) / max(most - least, 1e-9)).astype(np.float32)
    return scaled
