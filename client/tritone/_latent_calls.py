"""The calls of `MusicClient` that go through a latent space: spans of two bars at a time."""

from __future__ import annotations

from typing import Unpack

from tritone._runs import Runs
from tritone.constants import LATENT_MODEL, SAMPLE_MODEL
from tritone.music.noise import check_seed, fresh_seed
from tritone.music.piece import Piece
from tritone.music.scores import ScoreLike
from tritone.operations.compose import make_wish
from tritone.operations.latent import interpolate_flow, reconstruct_flow, vary_flow
from tritone.operations.sample import Conditions, sample_flow


class LatentCalls:
    """Mixed into `MusicClient`; see `ComposingCalls` for what scores and pieces are."""

    def reconstruct(
        self: Runs,
        score: ScoreLike,
        *,
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = 1,
        top_p: float | None = None,
        tempo_qpm: float | None = None,
        model: str = LATENT_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """A score as it comes out of the model's latent space: what of it the model understands.

        The score is cut into spans of two 4/4 bars (32 sixteenths), each encoded and decoded by itself. Of more than
        four notes at once the inner ones are left out; `grid.dropped` counts them as `beyond_four_voices`.

        Args:
            score: any; 4/4 is what the model knows.
            top_k: as for `compose`; 1, the likeliest notes, keeps closest to the score.
            tempo_qpm: the score's if None.
            model: the encoder; the decoder is the one that was exported with it.
            seed, temperature, top_p, timeout_s: as for `compose`.

        Raises:
            ClientError: as `compose`.
        """
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, tempo_qpm=tempo_qpm)
        flow = reconstruct_flow(self._writers, score=score, wish=wish, model=model)
        return self._run(flow, self._deadline(timeout_s))

    def interpolate(
        self: Runs,
        a: ScoreLike,
        b: ScoreLike,
        *,
        steps: int = 5,
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = 1,
        top_p: float | None = None,
        tempo_qpm: float | None = None,
        model: str = LATENT_MODEL,
        timeout_s: float | None = None,
    ) -> tuple[Piece, ...]:
        """Pieces on the way from one score to another, along the sphere of the latent space.

        Args:
            a: where the way begins.
            b: where it ends. Of the longer score as much is used as the other has.
            steps: how many pieces, both ends included (as `reconstruct` gives them); 2 to 64.
            top_k: as for `reconstruct`.
            tempo_qpm: of all pieces; from a's to b's if None.
            model: as for `reconstruct`.
            seed, temperature, top_p, timeout_s: as for `compose`.

        Raises:
            ClientError: as `compose`.
        """
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, tempo_qpm=tempo_qpm)
        flow = interpolate_flow(self._writers, a=a, b=b, steps=steps, wish=wish, model=model)
        return self._run(flow, self._deadline(timeout_s))

    def vary(
        self: Runs,
        score: ScoreLike,
        *,
        attribute: str,
        amount: float,
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = 1,
        top_p: float | None = None,
        tempo_qpm: float | None = None,
        model: str = LATENT_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """A score with more or less of something, otherwise as `reconstruct` gives it.

        Args:
            score: as for `reconstruct`.
            attribute: `note_density`, `pitch_range` or `rhythmic_complexity`.
            amount: in standard deviations of the music that the model was trained on, -10 to 10; 0 changes nothing.
            top_k: as for `reconstruct`.
            tempo_qpm: the score's if None.
            model: as for `reconstruct`.
            seed, temperature, top_p, timeout_s: as for `compose`.

        Raises:
            ClientError: as `compose`.
        """
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, tempo_qpm=tempo_qpm)
        flow = vary_flow(self._writers, score=score, attribute=attribute, amount=amount, wish=wish, model=model)
        return self._run(flow, self._deadline(timeout_s))

    def sample(
        self: Runs,
        model: str = SAMPLE_MODEL,
        n: int = 4,
        seed: int | None = None,
        *,
        timeout_s: float | None = None,
        **conditions: Unpack[Conditions],
    ) -> tuple[Piece, ...]:
        """New pieces of two bars, from noise.

        Args:
            model: `music_gan` or `music_vae`.
            n: how many, 1 to 1,000.
            seed: of the first piece; the others' follow from it, and each alone gives its piece again with n=1.
            conditions: what the pieces should be like; see `Conditions`.
            timeout_s: as for `compose`.

        Raises:
            InvalidInputError: if the model knows no such condition, or not such a value of it.
            ClientError: as `compose`.
        """
        first = fresh_seed() if seed is None else check_seed(seed)
        flow = sample_flow(self._writers, model=model, n=n, seed=first, conditions=dict(conditions))
        return self._run(flow, self._deadline(timeout_s))
