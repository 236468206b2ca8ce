"""Mix the channels of a recording down to one, without losing channels that cancel each other.

Shapes: S samples, C channels.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

STEP_S: Final = 0.5  # length of the segments that are checked for cancellation
_FADE_S: Final = 0.01  # cross-fade between the mean of the channels and one of them, to avoid clicks
# Power of the mean of the channels times C over their mean power: 1 for unrelated channels, C for equal ones, 0 for
# opposite ones. Below this, the mean is 10 dB weaker than that of unrelated channels.
_CANCELLING: Final = 0.1
_SILENT_POWER: Final = 1e-10  # -100 dBFS: below it, rounding errors dominate


class Mixer:
    """Mixes to the mean of all channels, or to a single channel where the channels cancel each other.

    Attributes:
        n_mixed: samples that were mixed.
        n_cancelled: those of them for which a single channel was used.
        channel: index of that channel.
    """

    def __init__(self, rate_hz: int) -> None:
        self.n_mixed = 0
        self.n_cancelled = 0
        self.channel = 0
        self._is_cancelled = False
        self._n_step = max(1, round(STEP_S * rate_hz))
        self._fade = np.linspace(0, 1, max(1, round(_FADE_S * rate_hz)), dtype=np.float32)

    def mix(self, block: FloatArray) -> FloatArray:
        """(S, C) -> (S,); non-finite samples stay non-finite, for the caller to report."""
        if block.shape[1] == 1:
            return block[:, 0]
        steps = [self._mixed_step(block[at : at + self._n_step]) for at in range(0, len(block), self._n_step)]
        return np.concatenate(steps) if steps else np.zeros(0, np.float32)

    def _mixed_step(self, step: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is possible here
            mean: FloatArray = step.mean(axis=1, dtype=np.float32)
            energies = np.einsum("sc,sc->c", step, step)  # (C,)
            power = float(energies.mean()) / len(step)
            ratio = len(energies) * float(np.dot(mean, mean)) / len(step) / power if power > 0 else 1.0
        was_cancelled = self._is_cancelled
        if power > _SILENT_POWER and len(step) >= self._n_step // 2:  # shorter segments are too noisy
            self._is_cancelled = ratio < _CANCELLING
        if self._is_cancelled:
            if not self.n_cancelled:
                # The first of the loudest channels, kept from then on: changes of the channel would be audible.
                self.channel = int((energies > 0.99 * energies.max()).argmax())
            self.n_cancelled += len(step)
        mixed = step[:, self.channel].copy() if self._is_cancelled else mean
        if was_cancelled != self._is_cancelled and self.n_mixed:
            other = mean if self._is_cancelled else step[:, self.channel]
            fade = self._fade[: len(step)]
            mixed[: len(fade)] = other[: len(fade)] + fade * (mixed - other)[: len(fade)]
        self.n_mixed += len(step)
        return mixed
