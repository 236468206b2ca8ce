"""A tiny model of each kind that works on scores, trained and exported once for all tests and runs.

Checkpoints, exports and ONNX graphs come from the cache of `tests.support.cache`; each test process works on its own
copy.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import pickle
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.support.cache import copy_cached
from torch import nn

from tritone import Grid, Piece
from tritone_export import ExportResult, export_kind
from tritone_export.convert import to_onnx
from tritone_training.declaration import Declaration
from tritone_training.kind import Exportable, ModelKind, TrainRequest
from tritone_training.registry import get_kind

N_TUNES = 12
TRAINING = ("client/tritone", "serving/tritone_serving", "training/tritone_training", "tests/support")
EXPORT = (*TRAINING, "export/tritone_export")


@dataclass(frozen=True)
class ServedMusicModel:
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
    """Return this process's folder for all of them; it is removed at the end."""
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
    """Return a checkpoint of a kind's tiny preset, trained for one epoch."""
    checkpoint = folder() / f"run_{name}"

    def train(made: Path) -> None:
        out = made / checkpoint.name
        get_kind(name).train(TrainRequest(out=out, data=tunes(), preset="tiny", max_epochs=1, progress=False))

    copy_cached(f"checkpoint-{name}", train, folder(), sources=TRAINING)
    return checkpoint


@functools.cache
def served(name: str) -> ServedMusicModel:
    """Return a kind's tiny checkpoint and what was exported of it, with its companions."""
    kind, checkpoint = get_kind(name), trained(name)
    exportable = kind.export(checkpoint)
    repository, results_file = folder() / "model_repository", folder() / f"{name}.results"

    def export(made: Path) -> None:
        results = export_kind(exportable, kind, repository=made / repository.name)
        (made / results_file.name).write_bytes(pickle.dumps(results))

    copy_cached(f"export-{name}", export, folder(), sources=EXPORT)
    results: tuple[ExportResult, ...] = pickle.loads(results_file.read_bytes())  # noqa: S301  - written by this module
    paths = [repository / result.model / str(result.version) for result in results]
    moved = tuple(replace(result, path=path) for result, path in zip(results, paths, strict=True))
    return ServedMusicModel(kind, checkpoint, exportable, repository, moved)


def onnx_graph(network: nn.Module, declaration: Declaration, inputs: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return a network as ONNX, converted once for the same weights and example inputs."""
    digest = hashlib.sha256(f"{network} {declaration}".encode())
    for name, array in [*inputs.items(), *((name, each.numpy()) for name, each in network.state_dict().items())]:
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "model.onnx"

        def convert(made: Path) -> None:
            (made / path.name).write_bytes(to_onnx(network, declaration, inputs).SerializeToString())

        copy_cached(f"graph-{declaration.name}", convert, path.parent, sources=EXPORT, key=digest.hexdigest())
        return path.read_bytes()


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
