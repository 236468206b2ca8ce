"""The calls of `MusicClient` that write notes one after the other, or judge what is written."""

from __future__ import annotations

from tritone._runs import Runs
from tritone.constants import COMPOSE_MODEL, PREDICT_MODEL, STREAM_MODEL
from tritone.music.piece import Piece
from tritone.music.scores import ScoreLike
from tritone.operations.compose import compose_flow, harmonize_flow, infill_flow, make_wish
from tritone.operations.predict import Prediction, predict_flow
from tritone.operations.stream import PieceStream, stream_flow


class ComposingCalls:
    """Mixed into `MusicClient`.

    Scores go in as a path, the bytes of a MIDI file, a binary file object, a `symusic.Score`, a `Grid` or a `Piece`.
    Every piece that comes out carries the seed that gives it again, with the same arguments and model version.
    """

    def compose(
        self: Runs,
        *,
        prompt: ScoreLike | None = None,
        bars: int = 8,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        model: str = COMPOSE_MODEL,
        style: str | None = None,
        meter: tuple[int, int] | None = None,
        tempo_qpm: float | None = None,
        timeout_s: float | None = None,
    ) -> Piece:
        """Write music, from nothing or on from a prompt.

        A bar that the prompt leaves unfinished is finished first, and does not count. Of a prompt longer than 512
        time steps (32 bars of 4/4) the model hears the end; the piece has all of it. Where more notes sound at once
        than the model knows (8), it hears the outer ones. Both are counted in the piece's `grid.dropped`.

        Args:
            prompt: the score to go on from; None begins with nothing.
            bars: how many new ones, 1 to 256.
            temperature: below 1 the likely gets likelier, above 1 the unlikely; 0.001 to 100.
            top_k: only so many of the likeliest notes may be chosen each time; all if None.
            top_p: only the likeliest that together reach this probability may; all if None.
            seed: 0 to 2**63 - 1; the same one gives the same piece. One is drawn if None.
            model: `music_transformer`, or `polyphony_rnn`, whose pieces have no repeated notes and no styles. The
                piece is on the model's grid of time steps, the prompt's part too.
            style: one of those that the model was trained on; any if None.
            meter: time signature, as in (3, 4); the prompt's, or 4/4, if None.
            tempo_qpm: quarters a minute of the piece; the prompt's, or 120, if None.
            timeout_s: for this call, the client's if None.

        Raises:
            InvalidScoreError: if the prompt cannot be read, or holds no notes.
            InvalidInputError: if another argument cannot be used.
            MissingExtraError: if the prompt is MIDI and symusic is not installed.
            ConnectionFailedError, RequestTimeoutError, ServerError: as `classify`.
        """
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, style=style, tempo_qpm=tempo_qpm)
        flow = compose_flow(self._writers, prompt=prompt, bars=bars, meter=meter, wish=wish, model=model)
        return self._run(flow, self._deadline(timeout_s))

    def stream_compose(
        self: Runs,
        *,
        prompt: ScoreLike | None = None,
        bars: int = 8,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        model: str = STREAM_MODEL,
        style: str | None = None,
        meter: tuple[int, int] | None = None,
        tempo_qpm: float | None = None,
        timeout_s: float | None = None,
    ) -> PieceStream:
        """Write music as `compose` does and hand it over bar by bar; the same seed gives the same notes.

        The first chunk is a beat or so, to have something to play soon; then the bar is completed, then they come
        bar by bar. Needs gRPC.

        Args:
            model: one that streams.
            timeout_s: the longest wait for each chunk, the client's if None.
            prompt, bars, temperature, top_k, top_p, seed, style, meter, tempo_qpm: as for `compose`.

        Returns:
            An iterator of chunks, which leaving its `with` block stops.

        Raises:
            ClientError: as `compose`; during the iteration too.
        """
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, style=style, tempo_qpm=tempo_qpm)
        flow = stream_flow(self._writers, prompt=prompt, bars=bars, meter=meter, wish=wish, model=model)
        deadline = self._deadline(timeout_s)
        request, growing = self._run(flow, deadline)
        return PieceStream(growing, self._stream(request, growing.request, deadline.timeout_s))

    def harmonize(
        self: Runs,
        melody: ScoreLike,
        *,
        seed: int | None = None,
        highest: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        style: str | None = None,
        tempo_qpm: float | None = None,
        model: str = COMPOSE_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """Write other voices under a melody.

        Args:
            melody: one voice; notes must not overlap on the grid of sixteenths.
            highest: take the highest note of each time step where the score has chords, instead of refusing it.
            tempo_qpm: the melody's if None.
            seed, temperature, top_k, top_p, style, model, timeout_s: as for `compose`.

        Raises:
            InvalidInputError: if the melody has chords.
            ClientError: as `compose`.
        """
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, style=style, tempo_qpm=tempo_qpm)
        flow = harmonize_flow(self._writers, melody=melody, highest=highest, wish=wish, model=model)
        return self._run(flow, self._deadline(timeout_s))

    def infill(
        self: Runs,
        score: ScoreLike,
        *,
        bars: tuple[int, int],
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        style: str | None = None,
        tempo_qpm: float | None = None,
        model: str = COMPOSE_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """Write some bars of a score anew, to fit what is before and after them.

        What is held on into the bars may be cut short there, and what is held on out of them is struck again. Of a
        long score the model hears 256 time steps before and after the bars.

        Args:
            score: the surroundings; what it has in these bars does not matter.
            bars: (start, end), counted from 0, the end not included; an upbeat is bar 0.
            tempo_qpm: the score's if None.
            seed, temperature, top_k, top_p, style, model, timeout_s: as for `compose`.

        Raises:
            InvalidInputError: if the score has no such bars.
            ClientError: as `compose`.
        """
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, style=style, tempo_qpm=tempo_qpm)
        flow = infill_flow(self._writers, score=score, bars=bars, wish=wish, model=model)
        return self._run(flow, self._deadline(timeout_s))

    def predict(
        self: Runs, score: ScoreLike, *, model: str = PREDICT_MODEL, timeout_s: float | None = None
    ) -> Prediction:
        """How a model expected each time step of a score, and how it expects the score to go on.

        Args:
            score: up to 16,384 time steps (34 minutes at 120 quarters a minute), or what the model takes.
            model: `polyphony_rnn`, or `music_transformer`, which says no probabilities of single pitches but the
                likelihood of whole frames.
            timeout_s: for this call, the client's if None.

        Raises:
            ClientError: as `compose`.
        """
        return self._run(predict_flow(self._writers, score=score, model=model), self._deadline(timeout_s))
