"""Stand-ins for starter weights: tiny checkpoints in half precision, as `starter_packing` stores them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.support import music_models

from tritone_training import checkpoint


def write_stand_ins(folder: Path, kinds: Sequence[str]) -> Path:
    """Write starter weights of kinds into a folder, for the variable TRITONE_WEIGHTS, and return it."""
    for kind in kinds:
        trained = checkpoint.load(music_models.trained(kind), kind=kind)
        halved = {name: each.half() if each.is_floating_point() else each for name, each in trained.weights.items()}
        replaced = {"weights", "weights_sha256", "format", "kind"}
        info = {name: value for name, value in trained.info.items() if name not in replaced}
        info |= {checkpoint.STORED_DTYPE: "float16", "licence": "Apache-2.0"}
        checkpoint.save(folder / kind, kind=kind, info=info, weights=halved)
    return folder
