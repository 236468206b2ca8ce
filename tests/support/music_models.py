"""Every model of written music, tiny, trained and exported once for all tests that ask for them.

Exporting takes most of the time, so the models are shared by whoever needs any model at all.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tritone import Grid, Piece
from tritone_export import ExportResult, export_kind
from tritone_training.kind import Exportable, ModelKind, TrainRequest
from tritone_training.registry import get_kind

N_TUNES = 12


@dataclass(frozen=True)
class Served:
    """A kind's checkpoint and what was exported of it."""

    kind: ModelKind
    checkpoint: Path
    exportable: Exportable
    repository: Path
    results: tuple[ExportResult, ...]

    @property
    def exportables(self) -> dict[str, Exportable]:
        """By the name of the model."""
        each = (self.exportable, *self.exportable.companions)
        return {one.declaration.name: one for one in each}


@functools.cache
def folder() -> Path:
    """Where everything lies until the tests end."""
    path = Path(tempfile.mkdtemp(prefix="tritone-music-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def tunes() -> Path:
    """A folder of MIDI files, two styles: four voices in 4/4, and a melody with a bass in 4/4."""
    path = folder() / "tunes"
    rng = np.random.default_rng(0)
    for style, n_voices in (("chorale", 4), ("dance", 2)):
        (path / style).mkdir(parents=True)
        for number in range(N_TUNES):
            grid = _tune(rng, n_voices, length=4 if style == "chorale" else 2)
            Piece(grid).save(path / style / f"{number}.mid")
    return path


@functools.cache
def trained(name: str) -> Path:
    """Train a kind's tiny preset for one epoch; answers the checkpoint."""
    checkpoint = folder() / f"run_{name}"
    get_kind(name).train(TrainRequest(out=checkpoint, data=tunes(), preset="tiny", max_epochs=1, progress=False))
    return checkpoint


@functools.cache
def served(name: str) -> Served:
    """Train a kind's tiny preset for one epoch and export it, with its companions."""
    kind, checkpoint = get_kind(name), trained(name)
    exportable = kind.export(checkpoint, None)
    repository = folder() / "model_repository"
    results = export_kind(exportable, kind, repository=repository)
    return Served(kind, checkpoint, exportable, repository, results)


def _tune(rng: np.random.Generator, n_voices: int, *, length: int) -> Grid:
    """Four bars of voices that step up and down a major scale."""
    scale = np.array([0, 2, 4, 5, 7, 9, 11])
    frames = np.zeros((64, 88), np.uint8)
    for voice in range(n_voices):
        degree = 7 * (voice + 2)
        for start in range(0, 64, length):
            degree += int(rng.integers(-1, 2))
            column = 12 * (degree // 7) + int(scale[degree % 7])
            frames[start : start + length, column] = 1
            frames[start, column] = 2
    return Grid(frames, meter=(16, 0))
