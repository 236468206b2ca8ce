"""The client for threads."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Self, TypeVar, Unpack

from tritone.arguments import (
    Id,
    Ids,
    Mood,
    Times,
    Weights,
    check_model_name,
)
from tritone.audio import Audio, FloatArray
from tritone.base_client import BaseClient
from tritone.constants import (
    COMPOSE_MODEL,
    EVENTS_MODEL,
    INSPIRE_MODEL,
    LATENT_MODEL,
    PLAYLIST_DIVERSITY,
    PREDICT_MODEL,
    RECOMMEND_MODEL,
    SAMPLE_MODEL,
    STREAM_MODEL,
    EventKind,
)
from tritone.endpoints import Endpoint
from tritone.exceptions import ClientError, InvalidAudioError, VersionChangedError
from tritone.messages import (
    Flow,
    InferResponse,
    Pause,
    Request,
    Response,
    StreamRequest,
    Transport,
    ready_flow,
)
from tritone.music.instruments import Instruments
from tritone.music.piece import Piece
from tritone.music.scores import ScoreLike
from tritone.operations.classify import classify_flow, classify_group_flow, embed_flow
from tritone.operations.compose import compose_flow, harmonize_flow, infill_flow, predict_flow
from tritone.operations.events import ListeningEvent, chunks, record_flow, record_many_flow
from tritone.operations.inspire import inspire_flow
from tritone.operations.latent import interpolate_flow, reconstruct_flow, vary_flow
from tritone.operations.many import OnError, OnProgress, map_ordered
from tritone.operations.models import model_info_flow, models_flow
from tritone.operations.playlist import PlaylistOptions, playlist_flow
from tritone.operations.recommend import (
    RecommendOptions,
    find_tracks_flow,
    recommend_flow,
    search_flow,
    similar_flow,
)
from tritone.operations.sample import Conditions, sample_flow
from tritone.operations.steering import Steering
from tritone.operations.stream import PieceStream, stream_flow
from tritone.results.classification import Classification
from tritone.results.events import RecordedEvent, RecordedEvents
from tritone.results.inspiration import Inspiration
from tritone.results.model_info import ModelInfo
from tritone.results.playlist import Playlist
from tritone.results.prediction import Prediction
from tritone.results.recommendations import Recommendations, TrackPage
from tritone.retry import Deadline, pause_s, restarted_flow
from tritone.sampling import (
    SamplingParams,
    check_seed,
    fresh_seed,
)
from tritone.tracing import call_span
from tritone.transports import make_balanced_transport

T = TypeVar("T")


class MusicClient(BaseClient[Transport]):
    """A client for the music models of one server, or of several with the same models.

    It keeps its connections open and may be shared by threads. After a fork, the child opens its own connections;
    copies and pickles do too. A client with secrets cannot be pickled (see
    docs/how-to/connections.md).

    Recordings are passed as a path, the bytes of a file, a binary file object (read from its start and left open), or
    `(samples, rate_hz)`. Scores are passed as a path, the bytes of a MIDI file, a binary file object, a
    `symusic.Score`, a `Grid` or a `Piece`. Users and tracks are passed by their ids in the listening log, as text, its
    UTF-8 bytes, or integers. Every generated piece has the seed that reproduces it with the same arguments and model
    version.

    ```python
    with MusicClient("localhost:8001") as music:
        print(music.classify("song.mp3").label)
        music.compose(bars=8).save("tune.mid")
        print(music.recommend(history=["a song", "another"]).track_ids)
    ```

    Raises:
        InvalidAudioError: a recording cannot be used.
        InvalidScoreError: a score cannot be read, or holds no notes.
        InvalidInputError: another argument is invalid.
        MissingExtraError: a score is MIDI and symusic is not installed.
        ConnectionFailedError: the server cannot be reached, or ended during the call.
        RequestTimeoutError: the call took longer than `timeout_s`.
        ServerError: the server responded with an error; see its subclasses.
    """

    def classify(
        self,
        audio: Audio,
        *,
        top: int | None = None,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> Classification:
        """Classify a recording by genre, emotions and tags, and embed it.

        Long recordings are streamed, so memory does not grow with their length.

        Args:
            audio: a recording of at least 0.5 s at any rate, not silent. Samples have shape (S,) or (S, C) and are
                floats in -1..1 or integers of any type at its full scale.
            top: number of labels in `probabilities`; all if None.
            model: name of the model; the `genre_model` of the client if None.
            timeout_s: time limit of the call in seconds; that of the client if None.
        """
        flow = classify_flow(
            self._models,
            audio,
            model=self._genre_model if model is None else model,
            top=top,
            audio_format=self._audio_format,
        )
        return self._run(flow, self._deadline(timeout_s))

    def embed(self, audio: Audio, *, model: str | None = None, timeout_s: float | None = None) -> FloatArray:
        """Embed a recording; recordings with similar sound have similar embeddings.

        Args:
            audio: as for `classify`.
            model: as for `classify`.
            timeout_s: as for `classify`.

        Returns:
            (256,) float32, L2-normalised.
        """
        flow = embed_flow(
            self._models,
            audio,
            model=self._genre_model if model is None else model,
            audio_format=self._audio_format,
        )
        return self._run(flow, self._deadline(timeout_s))

    def classify_group(
        self,
        audios: Sequence[Audio],
        *,
        top: int | None = None,
        max_duration_s: float | None = None,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> list[Classification | InvalidAudioError]:
        """Classify several recordings with shared requests, which is faster than one for each short recording.

        The windows of the recordings are sent one after the other, up to 16 in a request. `classify_many` makes
        independent calls, several of them at once.

        Args:
            audios: recordings as for `classify`; file objects must be seekable.
            top: as for `classify`.
            max_duration_s: maximum length of each recording in seconds; None for no limit.
            model: as for `classify`.
            timeout_s: time limit for all recordings together in seconds; that of the client if None.

        Returns:
            for each recording its result, or the error if it cannot be used, which does not affect the others.

        Raises:
            ClientError: as `classify`, except `InvalidAudioError`, for all recordings together. The server may reject a
                request because of one of them.
        """
        flow = classify_group_flow(
            self._models,
            audios,
            model=self._genre_model if model is None else model,
            top=top,
            audio_format=self._audio_format,
            max_duration_s=max_duration_s,
        )
        return self._run(flow, self._deadline(timeout_s))

    def classify_many(
        self,
        audios: Iterable[Audio],
        *,
        concurrency: int = 8,
        on_error: OnError = "raise",
        on_progress: OnProgress | None = None,
        top: int | None = None,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Classification | ClientError]:
        """Classify many recordings at once, and yield the results in the order of the inputs.

        Memory is bounded: inputs are taken from `audios` only as results are taken from the iterator.

        Args:
            audios: recordings as for `classify`, such as paths.
            concurrency: calls that run at once, 1 to 256.
            on_error: "raise" ends the iteration at the first error; "return" yields the error in its place.
            on_progress: called with the number of results so far, after each one.
            top: as for `classify`.
            model: as for `classify`.
            timeout_s: as for `classify`, for each recording.

        Raises:
            InvalidInputError: `concurrency` or `on_error` is invalid.
            ClientError: as `classify`, with `on_error="raise"`.
        """
        call = partial(self.classify, top=top, model=model, timeout_s=timeout_s)
        return map_ordered(call, audios, concurrency=concurrency, on_error=on_error, on_progress=on_progress)

    def embed_many(
        self,
        audios: Iterable[Audio],
        *,
        concurrency: int = 8,
        on_error: OnError = "raise",
        on_progress: OnProgress | None = None,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[FloatArray | ClientError]:
        """Embed many recordings at once, and yield the vectors in the order of the inputs; see `classify_many`."""
        call = partial(self.embed, model=model, timeout_s=timeout_s)
        return map_ordered(call, audios, concurrency=concurrency, on_error=on_error, on_progress=on_progress)

    def compose(
        self,
        *,
        prompt: ScoreLike | None = None,
        bars: int = 8,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        model: str = COMPOSE_MODEL,
        style: str | None = None,
        meter: tuple[int, int] | None = None,
        key: str | int | None = None,
        mode: str | None = None,
        density: str | None = None,
        voices: int | None = None,
        structure: str | None = None,
        ending: bool = True,
        n_candidates: int = 8,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        timeout_s: float | None = None,
    ) -> Piece:
        """Compose a piece from scratch, or continue a prompt.

        An unfinished last bar of the prompt is completed first and does not count as a new bar. The model reads the
        last 512 time steps of a longer prompt (32 bars of 4/4), and the outer notes of chords of more notes than it
        supports (8). The piece contains the whole prompt; `grid.dropped` counts what the model did not read.

        Args:
            prompt: the score to continue; None to compose from scratch.
            bars: number of new bars, 1 to 256.
            temperature: sampling temperature, 0.001 to 100: below 1 is more conservative, above 1 more random. That of
                the model if None, which sounds best by `tritone listen-test`, or else 1.
            top_k: sample only from the k most probable candidates; None for no limit.
            top_p: sample only from the most probable candidates that together have this probability; that
                of the model, or no limit, if None.
            seed: 0 to 2**63 - 1; the same seed gives the same piece. A random seed if None.
            model: `music_transformer`, or `polyphony_rnn`, which has no styles. The whole piece, prompt included, is
                quantised to the time steps of the model.
            style: a style of the training music; that of a template, chosen by the seed, if None.
            meter: time signature, as in (3, 4); that of the prompt, or 4/4, if None.
            key: tonic, as in "C", "F#" or "Bb", or 0 (C) to 11 (B). This and the following arguments are conditions
                that the model has learned; `Piece.conditions` has those of the result. What is None is that of the
                prompt, or chosen by the seed from the conditions of real pieces of one style.
            mode: "major" or "minor".
            density: "low", "medium" or "high": notes per bar, among pieces of the style.
            voices: notes at once, 1 to 6.
            structure: a letter for each phrase, as in "AABA"; equal letters are the same music.
            ending: whether the piece comes to its end with the last bar.
            n_candidates: maximum number of pieces, 1 to 16, that are composed until one has the requested key and
                ending (`Piece.achieved`); the first of the best is returned. With 1, the notes are those that
                `stream_compose` sends. `polyphony_rnn` and models without conditions compose one piece.
            tempo_qpm: tempo of the piece in quarter notes per minute. If None, that of the prompt, else of the
                requested style, or 120.
            instruments: General MIDI instruments that play the piece, by name or program (0 to 127): one, or up to four
                for its parts from the highest down, such as `["Violin", "Cello"]`; those of the style, or the piano,
                if None. They have no influence on the notes.
            timeout_s: as for `classify`.
        """
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            style=style,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        steering = Steering.checked(
            key=key, mode=mode, density=density, voices=voices, structure=structure, ending=ending
        )
        flow = compose_flow(
            self._models,
            prompt=prompt,
            bars=bars,
            meter=meter,
            sampling=sampling,
            steering=steering,
            n_candidates=n_candidates,
            model=model,
        )
        return self._run(flow, self._deadline(timeout_s))

    def stream_compose(
        self,
        *,
        prompt: ScoreLike | None = None,
        bars: int = 8,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        model: str = STREAM_MODEL,
        style: str | None = None,
        meter: tuple[int, int] | None = None,
        key: str | int | None = None,
        mode: str | None = None,
        density: str | None = None,
        voices: int | None = None,
        structure: str | None = None,
        ending: bool = True,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        timeout_s: float | None = None,
    ) -> PieceStream:
        """Compose as `compose(n_candidates=1)` does, and return the piece bar by bar.

        The same seed gives the same notes as there.

        The first chunk is about a beat long, so that playback can start soon; the second completes the bar, and all
        others are single bars. Needs gRPC.

        Args:
            model: a model that streams.
            timeout_s: longest wait for each chunk in seconds; the `timeout_s` of the client if None.
            prompt, bars, temperature, top_k, top_p, seed, style, meter, key, mode, density, voices, structure, ending,
                tempo_qpm, instruments: as for `compose`.

        Returns:
            an iterator over the chunks; leaving its `with` block stops the generation.
        """
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            style=style,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        steering = Steering.checked(
            key=key, mode=mode, density=density, voices=voices, structure=structure, ending=ending
        )
        flow = stream_flow(
            self._models, prompt=prompt, bars=bars, meter=meter, sampling=sampling, steering=steering, model=model
        )
        deadline = self._deadline(timeout_s)
        request, accumulator = self._run(flow, deadline)
        return PieceStream(accumulator, self._stream(request, accumulator.request, deadline.timeout_s))

    def harmonize(
        self,
        melody: ScoreLike,
        *,
        seed: int | None = None,
        highest: bool = False,
        n_candidates: int = 8,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        style: str | None = None,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        model: str = COMPOSE_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """Compose other voices for a melody.

        Args:
            melody: a score with one voice: notes must not overlap on the grid of sixteenths.
            highest: use the highest note of each time step if the score has chords, instead of refusing it.
            n_candidates: harmonize so many times, 1 to 16, and return the best result: one that ends with a cadence, of
                these the one with the fewest parallel fifths and octaves, of these the most likely one (`nll`, summed
                over all time steps). With the same seed, more candidates include the same ones as fewer.
            tempo_qpm: that of the melody if None.
            temperature, top_p: 0.8 and 0.9 if None.
            seed, top_k, style, instruments, model, timeout_s: as for `compose`.
        """
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            style=style,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        flow = harmonize_flow(
            self._models, melody=melody, highest=highest, n_candidates=n_candidates, sampling=sampling, model=model
        )
        return self._run(flow, self._deadline(timeout_s))

    def infill(
        self,
        score: ScoreLike,
        *,
        bars: tuple[int, int],
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        style: str | None = None,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        model: str = COMPOSE_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """Replace some bars of a score by new ones that fit their surroundings.

        Notes that go on into the bars may end at their start, and notes that go on after them are struck again. The
        model reads at most 256 time steps before and after the bars.

        Args:
            score: the surroundings; its notes in the replaced bars have no influence.
            bars: half-open range of the bars to replace, counted from 0; an upbeat is bar 0.
            tempo_qpm: that of the score if None.
            seed, temperature, top_k, top_p, style, instruments, model, timeout_s: as for `compose`.
        """
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            style=style,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        flow = infill_flow(self._models, score=score, bars=bars, sampling=sampling, model=model)
        return self._run(flow, self._deadline(timeout_s))

    def predict(self, score: ScoreLike, *, model: str = PREDICT_MODEL, timeout_s: float | None = None) -> Prediction:
        """Return how probable a model finds each time step of a score, and what it expects next.

        Args:
            score: up to 16,384 time steps (34 minutes at 120 quarter notes per minute), or the limit of the model.
            model: `polyphony_rnn`, or `music_transformer`, which has the likelihood of whole frames but no
                probabilities of single pitches.
            timeout_s: as for `classify`.
        """
        return self._run(predict_flow(self._models, score=score, model=model), self._deadline(timeout_s))

    def reconstruct(
        self,
        score: ScoreLike,
        *,
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = 1,
        top_p: float | None = None,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        model: str = LATENT_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """Encode a score into the latent space of a model and decode it again.

        The score is cut into spans of two 4/4 bars (32 sixteenths), which are encoded and decoded independently. Of
        chords of more than four notes the inner ones are left out; `grid.dropped` counts them as `beyond_four_voices`.

        Args:
            score: any score; the models are trained on 4/4.
            top_k: as for `compose`; the default of 1, the most probable notes, stays closest to the score.
            tempo_qpm: that of the score if None.
            model: name of the encoder; the decoder is the one that was exported with it.
            seed, temperature, top_p, instruments, timeout_s: as for `compose`.
        """
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        flow = reconstruct_flow(self._models, score=score, sampling=sampling, model=model)
        return self._run(flow, self._deadline(timeout_s))

    def interpolate(
        self,
        a: ScoreLike,
        b: ScoreLike,
        *,
        steps: int = 5,
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = 1,
        top_p: float | None = None,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        model: str = LATENT_MODEL,
        timeout_s: float | None = None,
    ) -> tuple[Piece, ...]:
        """Return pieces between two scores by spherical interpolation in the latent space.

        Args:
            a: the first score.
            b: the last score. Of the longer score, only as much is used as the shorter one has.
            steps: number of pieces, both ends included (reconstructed as by `reconstruct`), 2 to 64.
            top_k: as for `reconstruct`.
            tempo_qpm: of all pieces; interpolated between the scores if None.
            model: as for `reconstruct`.
            seed, temperature, top_p, instruments, timeout_s: as for `compose`.
        """
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        flow = interpolate_flow(self._models, a=a, b=b, steps=steps, sampling=sampling, model=model)
        return self._run(flow, self._deadline(timeout_s))

    def vary(
        self,
        score: ScoreLike,
        *,
        attribute: str,
        amount: float,
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = 1,
        top_p: float | None = None,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        model: str = LATENT_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """Return a variation of a score with more or less of a musical attribute.

        Args:
            score: as for `reconstruct`.
            attribute: `note_density`, `pitch_range` or `rhythmic_complexity`.
            amount: change in standard deviations of the training music, -10 to 10, on average over scores and as far
                as a score allows (its range cannot be below 0); beyond -5 and 5 there is no further change. With 0 the
                result is that of `reconstruct`.
            top_k: as for `reconstruct`.
            tempo_qpm: that of the score if None.
            model: as for `reconstruct`.
            seed, temperature, top_p, instruments, timeout_s: as for `compose`.
        """
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        flow = vary_flow(self._models, score=score, attribute=attribute, amount=amount, sampling=sampling, model=model)
        return self._run(flow, self._deadline(timeout_s))

    def sample(
        self,
        model: str = SAMPLE_MODEL,
        n: int = 4,
        seed: int | None = None,
        *,
        timeout_s: float | None = None,
        **conditions: Unpack[Conditions],
    ) -> tuple[Piece, ...]:
        """Generate new pieces of two bars from noise.

        Args:
            model: `music_gan` or `music_vae`.
            n: number of pieces, 1 to 1,000.
            seed: of the first piece; those of the others are derived from it. Each seed reproduces its piece with n=1.
            timeout_s: as for `classify`.
            conditions: properties of the pieces; see `Conditions`. Models refuse conditions that they do not support.
        """
        first = fresh_seed() if seed is None else check_seed(seed)
        flow = sample_flow(self._models, model=model, n=n, seed=first, conditions=dict(conditions))
        return self._run(flow, self._deadline(timeout_s))

    def recommend(
        self,
        user_id: Id | None = None,
        *,
        history: Ids | None = None,
        weights: Weights | None = None,
        times: Times | None = None,
        skipped: Ids | None = None,
        friends: Ids | None = None,
        audio: Audio | None = None,
        mood: Mood | None = None,
        n: int = 10,
        exclude: Ids | None = None,
        filter_listened: bool = True,
        diversity: float = 0.0,
        novelty: float = 0.0,
        explain: bool | int = False,
        resolve: bool = False,
        model: str = RECOMMEND_MODEL,
        user_token: str | None = None,
        timeout_s: float | None = None,
    ) -> Recommendations:
        """Recommend tracks.

        All arguments are optional and are used together, so that everyone gets recommendations: known users, new users
        with a few tracks, friends, a recording or a mood, and anonymous users (popular tracks). Unknown ids are ignored
        and listed in `unknown` of the result, as are users whose stored data the caller may not use: the `service_key`
        of the client gives access to all users, a user token to one.

        Args:
            user_id: a user of the listening log, whose stored history is used.
            history: ids of tracks that the user has listened to, up to 100,000, in order of listening, the most recent
                last; duplicates add up.
            weights: how often each track of the history was played, 0 or more; 1 each if None. With `weights`
                and without `times`, the history counts as a long-term profile instead of the current session.
            times: when each track of the history was listened to: seconds since 1970, a datetime with a zone, or None
                where unknown. Known times decide the order. Times up to a day ahead of the server's
                clock count as now; later ones are refused.
            skipped: ids of tracks that the user skipped or disliked; they are not recommended, and similar ones rank
                lower.
            friends: ids of users, at most 1,000 different ones.
            audio: a recording as an example, as for `classify`; embedded by the `genre_model` of the client first.
            mood: one of the nine emotions, such as `calmness`, or strengths from 0 to 1 of some of them, such as
                `{"calmness": 1.0, "sadness": 0.3}`; see `tritone.constants.EMOTIONS`.
            n: number of tracks, 1 to 10,000 (1,000 with diversity, 200 with explain); fewer are returned only if the
                model knows no more.
            exclude: ids of tracks to leave out.
            filter_listened: leave out tracks that the user has listened to.
            diversity: 0 to 1, how different from each other the tracks should be.
            novelty: 0 to 1, how much less popular tracks are preferred.
            explain: return the reasons of each track, which add up to its score; a number limits them to the largest.
            resolve: `history`, `skipped` and `exclude` may hold titles too, up to 200 of them; a title that several
                tracks have is an error that lists them, one that no track has counts as an unknown id.
            model: name of the model.
            user_token: used for this call instead of the `user_token` or `service_key` of the client.
            timeout_s: as for `classify`.

        Raises:
            NothingKnownError: only ids of tracks or friends are given, and none of them is known.
        """
        options = RecommendOptions(
            user_id=user_id,
            history=history,
            weights=weights,
            times=times,
            skipped=skipped,
            friends=friends,
            mood=mood,
            n=n,
            exclude=exclude,
            filter_listened=filter_listened,
            diversity=diversity,
            novelty=novelty,
            explain=explain,
            resolve=resolve,
        )
        flow = recommend_flow(
            self._models,
            options,
            audio=audio,
            genre_model=self._genre_model,
            audio_format=self._audio_format,
            model=model,
            credentials=self._credentials,
            user_token=user_token,
        )
        return self._run(flow, self._deadline(timeout_s))

    def similar(
        self,
        track_id: Id | None = None,
        *,
        audio: Audio | None = None,
        by: str = "both",
        n: int = 10,
        resolve: bool = False,
        model: str = RECOMMEND_MODEL,
        timeout_s: float | None = None,
    ) -> Recommendations:
        """Return tracks that are similar to a track or a recording.

        Args:
            track_id: a track; it is not part of the result.
            audio: a recording instead of a track, as for `recommend`.
            by: `listening` (played by the same people), `sound`, or `both` (as far as either is known).
            n: number of tracks, 1 to 10,000.
            resolve: `track_id` may be a title; the error for one that no track has lists similar titles.
            model: as for `recommend`.
            timeout_s: as for `classify`.

        Returns:
            tracks whose scores are cosine similarities, -1 to 1, without reasons.

        Raises:
            NothingKnownError: the model does not know the track, or not in this respect.
        """
        flow = similar_flow(
            self._models,
            track_id,
            audio=audio,
            by=by,
            n=n,
            resolve=resolve,
            genre_model=self._genre_model,
            audio_format=self._audio_format,
            model=model,
        )
        return self._run(flow, self._deadline(timeout_s))

    def playlist(
        self,
        start: Id,
        end: Id | None = None,
        *,
        n: int = 20,
        mood: Mood | None = None,
        diversity: float = PLAYLIST_DIVERSITY,
        seed: int | None = None,
        after: Ids | None = None,
        exclude: Ids | None = None,
        artist_gap: int | None = None,
        user_id: Id | None = None,
        history: Ids | None = None,
        skipped: Ids | None = None,
        model: str = RECOMMEND_MODEL,
        user_token: str | None = None,
        timeout_s: float | None = None,
    ) -> Playlist:
        """Make a playlist: a smooth path between two tracks, or a mix that starts with one and can be continued.

        Neighbouring tracks are similar by who listens to them, by sound and by tags, as far as these are known.

        ```python
        path = music.playlist("a song", "another", n=20)
        mix = music.playlist("a song", mood={"calmness": 1.0, "nostalgia": 0.5}, user_id="42")
        more = music.playlist("a song", after=mix.track_ids)
        ```

        Args:
            start: the first track.
            end: the last track of a path; None for a mix.
            n: number of tracks, 1 to 200, `start` and `end` included; fewer are returned only if there are no more.
            mood: an emotion, or strengths of emotions, as for `recommend`.
            diversity: 0 allows tracks like the previous ones, 1 avoids them.
            seed: of the playlist, which is reproduced by the same seed; random if None.
            after: ids of all earlier tracks of a mix, in order, such as those of the previous result. The mix continues
                after the last of them, repeats none of them, and does not contain `start` again.
            exclude: ids of tracks to leave out.
            artist_gap: number of tracks between two of the same artist, 0 to 100. If None, it is 3, or less where there
                are few artists among similar tracks; the result says so.
            user_id: a user of the listening log, whose taste is taken into account.
            history: ids of tracks that show a taste, in addition to those stored.
            skipped: ids of tracks that the user skipped or disliked; they are not recommended, and similar ones rank
                lower.
            model: as for `recommend`.
            user_token: as for `recommend`.
            timeout_s: as for `classify`.

        Raises:
            NothingKnownError: the model does not know a track, or nothing by which it could be compared.
        """
        options = PlaylistOptions(
            start=start,
            end=end,
            n=n,
            after=after,
            exclude=exclude,
            artist_gap=artist_gap,
            diversity=diversity,
            mood=mood,
            user_id=user_id,
            history=history,
            skipped=skipped,
            seed=fresh_seed() if seed is None else check_seed(seed),
        )
        flow = playlist_flow(options, model=model, credentials=self._credentials, user_token=user_token)
        return self._run(flow, self._deadline(timeout_s))

    def find_tracks(
        self,
        query: Id,
        *,
        by: str | None = None,
        limit: int = 10,
        offset: int = 0,
        model: str = RECOMMEND_MODEL,
        timeout_s: float | None = None,
    ) -> TrackPage:
        """Search for tracks by title, artist or id, to get the ids that `recommend` and `similar` take.

        Exact matches come first, then matches apart from case, accents, blanks and punctuation, then prefixes, then
        tracks with all words of the query. If nothing matches, tracks of similar spelling are returned. Equally good
        matches are ordered by field (id, title, artist), then by popularity.

        Args:
            query: a title, an artist, an id, or words of artist and title together; at most 4,096 bytes in UTF-8.
            by: `id`, `title` or `artist`; all of them if None.
            limit: number of tracks on the page, 1 to 10,000.
            offset: number of found tracks to skip.
            model: as for `recommend`.
            timeout_s: as for `classify`.

        Returns:
            a page of tracks with the total number found; empty if nothing is similar.

        Raises:
            RequestRejectedError: the model has no titles or artists.
        """
        flow = find_tracks_flow(query, by=by, limit=limit, offset=offset, model=model)
        return self._run(flow, self._deadline(timeout_s))

    def search(
        self,
        query: str,
        n: int = 10,
        *,
        model: str = RECOMMEND_MODEL,
        timeout_s: float | None = None,
    ) -> Recommendations:
        """Search for tracks by a description, such as "calm piano for reading" or "sad songs by Queen".

        Words are found in titles, artists and tags, also if they are misspelt. If the model was trained with a
        sentence encoder, tags of a similar meaning count too. To look up the id of a known title, use `find_tracks`.

        Args:
            query: the description; at most 4,096 bytes in UTF-8.
            n: number of tracks, 1 to 10,000; fewer are returned if no more tracks match.
            model: as for `recommend`.
            timeout_s: as for `classify`.

        Returns:
            tracks, best first, without reasons. `source` is `meaning`, or `words` if only words were compared: the
            model was trained without a sentence encoder, or the encoder is not available at the moment.

        Raises:
            RequestRejectedError: the model has neither titles nor tags.
        """
        flow = search_flow(query, n=n, model=model)
        return self._run(flow, self._deadline(timeout_s))

    def record(
        self,
        user_id: Id,
        track_id: Id,
        *,
        kind: EventKind = "play",
        played_s: float | None = None,
        at: datetime | float | None = None,
        context: Mapping[str, str] | None = None,
        event_id: str | None = None,
        model: str = EVENTS_MODEL,
        user_token: str | None = None,
        timeout_s: float | None = None,
    ) -> RecordedEvent:
        """Record what a user did with a track; the user's next recommendations take it into account.

        The server stores an event id only once, so a call with an `event_id` of yours may be repeated after an error.
        After a lost connection the client repeats the request by itself.

        Args:
            user_id: the user; the caller needs the service key, or a token of this user.
            track_id: the track, as in the listening log; it need not be known yet.
            kind: `play`, `skip`, `like` or `dislike`.
            played_s: how long the track was played, in seconds.
            at: when, as a datetime with a time zone or in seconds since 1970; None for now, by the server's clock.
                Events may be recorded in any order of time. At most 5 minutes ahead of the server's clock.
            context: circumstances, up to 8 short texts such as `{"device": "car"}`.
            event_id: up to 128 printable ASCII characters. None for a random one, with which a call that failed cannot
                be repeated without the risk of storing the event twice.
            model: name of the model that stores events.
            user_token: used for this call instead of the `user_token` or `service_key` of the client.
            timeout_s: as for `classify`.

        Returns:
            whether the event is new or a duplicate.

        Raises:
            AccessDeniedError: the caller may not write events of this user.
            RequestRejectedError: the server refused the event as invalid.
            ServerBusyError: the event store is unavailable; whether the event was stored is not known.
        """
        event = ListeningEvent(user_id, track_id, kind, played_s, at, context)
        if event_id is not None:
            event = replace(event, event_id=event_id)
        flow = record_flow(event, model=model, credentials=self._credentials, user_token=user_token)
        return self._run(flow, self._deadline(timeout_s))

    def record_many(
        self,
        events: Iterable[ListeningEvent],
        *,
        model: str = EVENTS_MODEL,
        user_token: str | None = None,
        timeout_s: float | None = None,
    ) -> RecordedEvents:
        """Record events, in requests of up to 256.

        If the call fails, any part of the events may be stored. Call it again with the same objects, whose ids the
        server stores only once.

        Args:
            events: of any users, in any order.
            model: as for `record`.
            user_token: as for `record`.
            timeout_s: as for `classify`, for each request.

        Returns:
            for each event whether it is new, a duplicate, refused as invalid or denied; invalid events do not prevent
            the others from being stored.

        Raises:
            InvalidInputError: an event is invalid in a way that the client recognises; the error names its index.
            ServerBusyError: the event store is unavailable; whether the events were stored is not known.
        """
        recorded: list[RecordedEvent] = []
        for chunk in chunks(events):
            flow = record_many_flow(
                chunk, model=model, credentials=self._credentials, user_token=user_token, first=len(recorded)
            )
            recorded += self._run(flow, self._deadline(timeout_s))
        return RecordedEvents(tuple(recorded))

    def inspire(
        self,
        *,
        prompt: ScoreLike | None = None,
        mood: Mood | None = None,
        bars: int = 8,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        style: str | None = None,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        n: int = 10,
        model: str = INSPIRE_MODEL,
        timeout_s: float | None = None,
    ) -> Inspiration:
        """Compose a piece, classify its sound and recommend tracks like it, in one request.

        The piece equals that of `compose` with the same arguments. A mood without a prompt sets the tempo, and begins
        the first bar with a chord in its mode; the models are not trained on moods. Either way, it also ranks the
        tracks. At most 191 s of music can be rendered.

        Args:
            prompt: the score to continue; None to compose from scratch.
            mood: one of the nine emotions of `tritone.constants.EMOTIONS`, or strengths as for `recommend`, of which
                the strongest emotion is used; None for none.
            bars: number of new bars, 1 to 256.
            n: number of tracks, 1 to 10,000; fewer if there are no more.
            tempo_qpm: tempo of the piece in quarter notes per minute; that of the prompt or mood, or 120, if None.
            model: an ensemble of a composer, a renderer, a classifier and a recommender.
            temperature, top_k, top_p, seed, style, instruments: as for `compose`.
            timeout_s: as for `classify`.
        """
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            style=style,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        flow = inspire_flow(self._models, prompt=prompt, mood=mood, bars=bars, n=n, sampling=sampling, model=model)
        return self._run(flow, self._deadline(timeout_s))

    def server_ready(self, *, timeout_s: float | None = None) -> bool:
        """Return whether the server is up and all its models are loaded.

        Raises:
            ConnectionFailedError: the server cannot be reached.
            RequestTimeoutError: the server does not respond.
        """
        return self._run(ready_flow(None), self._deadline(timeout_s))

    def models(self, *, timeout_s: float | None = None) -> tuple[ModelInfo, ...]:
        """Return the models that the server has loaded, in order of their names.

        Candidates of a publication are left out.

        Raises:
            ConnectionFailedError, RequestTimeoutError, ServerError: as `classify`.
        """
        return self._run(models_flow(), self._deadline(timeout_s))

    def model_info(self, model: str, *, timeout_s: float | None = None) -> ModelInfo:
        """Return the state of one model that the server has loaded, as `models` does of all.

        Raises:
            ModelNotFoundError: the server has not loaded it.
            ConnectionFailedError, RequestTimeoutError, ServerError: as `classify`.
        """
        return self._run(model_info_flow(check_model_name(model)), self._deadline(timeout_s))

    def model_ready(self, model: str, *, timeout_s: float | None = None) -> bool:
        """Return whether a model is ready; False also if the server does not have it.

        Raises:
            ConnectionFailedError: the server cannot be reached.
            RequestTimeoutError: the server does not respond.
        """
        return self._run(ready_flow(check_model_name(model)), self._deadline(timeout_s))

    def close(self) -> None:
        """Close all connections; the client cannot be used afterwards. May be called more than once."""
        self._closed = True
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _make_transport(self, endpoints: tuple[Endpoint, ...]) -> Transport:
        return make_balanced_transport(endpoints)

    def _run(self, flow: Flow[T], deadline: Deadline) -> T:
        """Send the requests of a flow and return its result."""
        with call_span(flow):
            advance: Callable[[], Request | Pause] = partial(next, flow)
            while True:
                try:
                    step = advance()
                except StopIteration as end:  # of the flow only: a custom transport may raise it by mistake
                    result: T = end.value
                    return result
                try:
                    response = self._respond(step, deadline)
                except ClientError as error:
                    advance = partial(flow.throw, error)
                else:
                    advance = partial(flow.send, response)

    def _respond(self, step: Request | Pause, deadline: Deadline) -> Response | None:
        if isinstance(step, Pause):
            time.sleep(pause_s(step, deadline.left_s()))
            return None
        attempts = self._attempts(step)
        while True:
            try:
                return self._transport.handle(attempts.request, timeout_s=deadline.check(attempts.request))
            except ClientError as error:
                delay_s = attempts.delay_s(error, deadline)
            time.sleep(delay_s)

    def _stream(
        self, request: StreamRequest, make_request: Callable[[], Flow[StreamRequest]], timeout_s: float
    ) -> Generator[InferResponse, None, None]:
        """Yield the responses to a stream; before the first one, a request whose model version is gone is replaced."""
        start_deadline = Deadline(timeout_s)
        for n_starts in itertools.count(1):
            has_begun = False
            with closing(self._stream_attempts(request, timeout_s)) as responses:
                try:
                    for response in responses:
                        has_begun = True
                        yield response
                    return
                except VersionChangedError as error:
                    if has_begun:
                        raise
                    pause = Pause(n_starts, error)
            request = self._run(restarted_flow(pause, make_request()), start_deadline)

    def _stream_attempts(self, request: StreamRequest, timeout_s: float) -> Generator[InferResponse, None, None]:
        """Yield the responses to a stream; before the first one, the request may be sent again."""
        attempts = self._attempts(request)
        while True:
            deadline = Deadline(timeout_s)
            has_begun = False
            with closing(self._transport.stream(attempts.request, timeout_s=timeout_s)) as responses:
                try:
                    for response in responses:
                        has_begun = True
                        yield response
                    return
                except ClientError as error:
                    self._stream_failed(request, error, has_begun=has_begun)
                    delay_s = attempts.delay_s(error, deadline)
            time.sleep(delay_s)
