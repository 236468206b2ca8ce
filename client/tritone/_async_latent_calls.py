"""The calls of `AsyncMusicClient` that go through a latent space."""

from __future__ import annotations

from typing import Unpack

from tritone._runs import AsyncRuns
from tritone.constants import LATENT_MODEL, SAMPLE_MODEL
from tritone.music.noise import check_seed, fresh_seed
from tritone.music.piece import Piece
from tritone.music.scores import ScoreLike
from tritone.operations.compose import make_wish
from tritone.operations.latent import interpolate_flow, reconstruct_flow, vary_flow
from tritone.operations.sample import Conditions, sample_flow


class AsyncLatentCalls:
    """Mixed into `AsyncMusicClient`; see `LatentCalls`."""

    async def reconstruct(
        self: AsyncRuns,
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
        """A score as it comes out of the latent space; see `MusicClient.reconstruct`."""
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, tempo_qpm=tempo_qpm)
        flow = reconstruct_flow(self._writers, score=score, wish=wish, model=model)
        return await self._run(flow, self._deadline(timeout_s))

    async def interpolate(
        self: AsyncRuns,
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
        """Pieces on the way from one score to another; see `MusicClient.interpolate`."""
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, tempo_qpm=tempo_qpm)
        flow = interpolate_flow(self._writers, a=a, b=b, steps=steps, wish=wish, model=model)
        return await self._run(flow, self._deadline(timeout_s))

    async def vary(
        self: AsyncRuns,
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
        """A score with more or less of something, otherwise as `reconstruct` gives it; see `MusicClient.vary`."""
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, tempo_qpm=tempo_qpm)
        flow = vary_flow(self._writers, score=score, attribute=attribute, amount=amount, wish=wish, model=model)
        return await self._run(flow, self._deadline(timeout_s))

    async def sample(
        self: AsyncRuns,
        model: str = SAMPLE_MODEL,
        n: int = 4,
        seed: int | None = None,
        *,
        timeout_s: float | None = None,
        **conditions: Unpack[Conditions],
    ) -> tuple[Piece, ...]:
        """New pieces of two bars, from noise; see `MusicClient.sample`."""
        first = fresh_seed() if seed is None else check_seed(seed)
        flow = sample_flow(self._writers, model=model, n=n, seed=first, conditions=dict(conditions))
        return await self._run(flow, self._deadline(timeout_s))
