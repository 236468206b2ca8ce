"""Music that a model wrote or changed, with what it takes to write it again.

```python
piece = music.compose(bars=8, seed=7)
piece.save("tune.mid"), piece.save("tune.wav"), piece.plot("tune.png")
```
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_client.music.grid import Grid, notes_of


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece of music.

    Attributes:
        grid: its notes on the time grid.
        seed: gives this very piece again with the same model version and arguments; None if chance had no part.
        model: the model's name; None if no model had a part.
        model_version: which of its versions answered.
        nll: (N,) float32, how unlikely the model finds what stands at each time step, in nats (negative
            log-likelihood at temperature 1), NaN where it was not asked; None if the model does not say.
    """

    grid: Grid
    seed: int | None = None
    model: str | None = None
    model_version: str | None = None
    nll: npt.NDArray[np.float32] | None = field(default=None, repr=False)

    @cached_property
    def score(self) -> Any:
        """The piece as a `symusic.Score`, made when it is first asked for.

        Raises:
            MissingExtraError: symusic is not installed.
        """
        from tritone_client.music.writing import to_score

        return to_score(self.grid)

    def save(self, path: str | Path) -> Path:
        """Write the piece as MIDI (`.mid`, `.midi`) or as sound (`.wav`, rendered, 44.1 kHz mono, 16 bit).

        A file of that name is replaced in one step.

        Returns:
            The path.

        Raises:
            InvalidInputError: the suffix is another, or the file cannot be written.
            MissingExtraError: symusic or, for sound, the SoundFont is not installed.
        """
        from tritone_client.music.saving import save

        return save(self, Path(path))

    def plot(self, path: str | Path) -> Path:
        """Draw the piece as a piano roll: time in bars from left to right, pitch upwards.

        Args:
            path: `.png`, `.svg` or `.pdf`; replaced in one step if it exists.

        Returns:
            The path.

        Raises:
            MissingExtraError: matplotlib is not installed.
            InvalidInputError: the picture cannot be written there.
        """
        from tritone_client.music.plot import plot_piece

        return plot_piece(self, Path(path))

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON, the notes as `[onset, length, pitch]` in time steps; null where `nll` is NaN."""
        onset, end, pitch = notes_of(self.grid)
        return {
            "model": self.model,
            "model_version": self.model_version,
            "seed": self.seed,
            "frames_per_quarter": self.grid.frames_per_quarter,
            "meter": list(self.grid.meter),
            "tempo_qpm": self.grid.tempo_qpm,
            "n_frames": self.grid.n_frames,
            "duration_s": self.grid.duration_s,
            "notes": np.stack([onset, end - onset, pitch], axis=1).tolist(),
            "nll": None if self.nll is None else [None if math.isnan(nats) else nats for nats in self.nll.tolist()],
        }
