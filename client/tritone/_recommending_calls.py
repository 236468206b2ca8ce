"""The calls of `MusicClient` that say what to play."""

from __future__ import annotations

from tritone._runs import Runs
from tritone.audio import Audio
from tritone.constants import RECOMMEND_MODEL
from tritone.operations.recommend import recommend_flow, search_flow, similar_flow
from tritone.operations.recommend_options import Id, Ids, Wanted, Weights
from tritone.results.recommendations import Recommendations, TrackPage


class RecommendingCalls:
    """Mixed into `MusicClient`. Ids are those of the listening log, as text, its UTF-8 bytes, or integers."""

    def recommend(
        self: Runs,
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
        """Say what to play next.

        Everything may be left out; what is given is used together, so that there is an answer for everyone: somebody
        known, somebody new with a few songs, friends, a recording or a mood, and nobody at all (what is popular).
        Ids that the model does not know are passed over and listed in the answer's `unknown`. So are users whose stored
        data the caller may not use: the client's `service_key` gives access to all users, a user token to one user.

        Args:
            user_id: somebody of the listening log; what they heard need not be sent.
            history: ids of tracks heard, up to 100,000; one that is there twice counts twice.
            weights: how much each of them was listened to (plays), 0 or more; 1 each if None.
            skipped: ids of tracks turned away: they do not come, nor does what is like them.
            friends: ids of users, at most 1000 different ones.
            audio: a recording to go by, as for `classify`; the client's `genre_model` hears it first.
            mood: one of the nine emotions, such as `calmness`; see `tritone.constants.EMOTIONS`.
            n: how many tracks, 1 to 10,000 (1,000 with diversity, 200 with explain); fewer come only where the
                catalogue has no more.
            exclude: ids of tracks that must not come.
            filter_listened: leave out what the user has heard.
            diversity: 0 to 1, how unlike one another the tracks should be.
            novelty: 0 to 1, how much little-known tracks are preferred.
            explain: give each track's reasons, which add up to its score; a number limits them to the weightiest.
            model: which model to ask.
            user_token: used for this call instead of the client's `user_token` or `service_key`.
            timeout_s: for the whole call, the client's if None.

        Raises:
            InvalidAudioError: if the recording cannot be used.
            InvalidInputError: if another argument cannot be used.
            NothingKnownError: if ids of tracks or friends are all there is, and none of them is known.
            ConnectionFailedError, RequestTimeoutError, ServerError: as `classify`.
        """
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
        return self._run(flow, self._deadline(timeout_s))

    def similar(
        self: Runs,
        track_id: Id | None = None,
        *,
        audio: Audio | None = None,
        by: str = "both",
        n: int = 10,
        model: str = RECOMMEND_MODEL,
        timeout_s: float | None = None,
    ) -> Recommendations:
        """Tracks that are like another, or like a recording.

        Args:
            track_id: which track; it does not come itself.
            audio: or a recording, as for `recommend`.
            by: `listening` (heard by the same people), `sound`, or `both`: as far as either is known.
            n: how many tracks, 1 to 10,000.
            model: as for `recommend`.
            timeout_s: as for `recommend`.

        Returns:
            Tracks whose scores are cosines, -1 to 1, without reasons.

        Raises:
            NothingKnownError: if the model does not know the track, or not in this way.
            ClientError: as `recommend`.
        """
        flow = similar_flow(
            self._catalogue, track_id, audio=audio, by=by, n=n, genre_model=self._genre_model, model=model
        )
        return self._run(flow, self._deadline(timeout_s))

    def find_tracks(
        self: Runs,
        query: Id,
        *,
        by: str | None = None,
        limit: int = 10,
        offset: int = 0,
        model: str = RECOMMEND_MODEL,
        timeout_s: float | None = None,
    ) -> TrackPage:
        """Find tracks by title, artist or id, to get the ids that `recommend` and `similar` take.

        Matches are exact, then apart from case, accents, blanks and punctuation, then by the beginning, then by words;
        if nothing matches, tracks of similar spelling are returned as suggestions. Equally good matches are ordered by
        field (id, title, artist), then by popularity.

        Args:
            query: a title, an artist, an id, or words of artist and title together; at most 4,096 bytes in UTF-8.
            by: `id`, `title` or `artist`; all of them if None.
            limit: how many tracks to return, 1 to 10,000.
            offset: how many of the found tracks to skip.
            model: as for `recommend`.
            timeout_s: as for `recommend`.

        Returns:
            A page of tracks with the total number found; empty if nothing is similar.

        Raises:
            InvalidInputError: if an argument cannot be used.
            RequestRejectedError: if the model has no titles or artists to search.
            ClientError: as `recommend`.
        """
        flow = search_flow(query, by=by, limit=limit, offset=offset, model=model)
        return self._run(flow, self._deadline(timeout_s))
