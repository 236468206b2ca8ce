"""The calls of `AsyncMusicClient` that say what to play."""

from __future__ import annotations

from tritone._runs import AsyncRuns
from tritone.audio import Audio
from tritone.constants import RECOMMEND_MODEL
from tritone.operations.recommend import recommend_flow, search_flow, similar_flow
from tritone.operations.recommend_options import Id, Ids, Wanted, Weights
from tritone.results.recommendations import Recommendations, TrackPage


class AsyncRecommendingCalls:
    """Mixed into `AsyncMusicClient`; see `RecommendingCalls`."""

    async def recommend(
        self: AsyncRuns,
        user_id: Id | None = None,
        *,
        history: Ids | None = None,
        weights: Weights | None = None,
        skipped: Ids | None = None,
        friends: Ids | None = None,
        audio: Audio | None = None,
        mood: str | None = None,
        n: int = 10,
        exclude: Ids | None = None,
        filter_listened: bool = True,
        diversity: float = 0.0,
        novelty: float = 0.0,
        explain: bool | int = False,
        model: str = RECOMMEND_MODEL,
        user_token: str | None = None,
        timeout_s: float | None = None,
    ) -> Recommendations:
        """Say what to play next; see `MusicClient.recommend`."""
        wanted = Wanted(
            user_id=user_id,
            history=history,
            weights=weights,
            skipped=skipped,
            friends=friends,
            mood=mood,
            n=n,
            exclude=exclude,
            filter_listened=filter_listened,
            diversity=diversity,
            novelty=novelty,
            explain=explain,
        )
        flow = recommend_flow(
            self._catalogue,
            wanted,
            audio=audio,
            genre_model=self._genre_model,
            model=model,
            credentials=self._credentials,
            user_token=user_token,
        )
        return await self._run(flow, self._deadline(timeout_s))

    async def similar(
        self: AsyncRuns,
        track_id: Id | None = None,
        *,
        audio: Audio | None = None,
        by: str = "both",
        n: int = 10,
        model: str = RECOMMEND_MODEL,
        timeout_s: float | None = None,
    ) -> Recommendations:
        """Tracks that are like another, or like a recording; see `MusicClient.similar`."""
        flow = similar_flow(
            self._catalogue, track_id, audio=audio, by=by, n=n, genre_model=self._genre_model, model=model
        )
        return await self._run(flow, self._deadline(timeout_s))

    async def find_tracks(
        self: AsyncRuns,
        query: Id,
        *,
        by: str | None = None,
        limit: int = 10,
        offset: int = 0,
        model: str = RECOMMEND_MODEL,
        timeout_s: float | None = None,
    ) -> TrackPage:
        """Find tracks by title, artist or id; see `MusicClient.find_tracks`."""
        flow = search_flow(query, by=by, limit=limit, offset=offset, model=model)
        return await self._run(flow, self._deadline(timeout_s))
