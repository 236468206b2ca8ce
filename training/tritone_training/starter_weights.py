"""Starter weights: trained checkpoints that are included in Tritone, for models that can be served without training.

```
weights/
  LICENSES.md             training data, and their terms
  music_transformer/
    checkpoint.json       as in every checkpoint folder; also the licence and the loss by half precision
    weights-HASH.pt       in half precision
    README.md             model card
```

`starter_packing` creates such a folder from a checkpoint.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tritone_training.exceptions import CheckpointError

VARIABLE: Final = "TRITONE_WEIGHTS"
MAX_TOTAL_BYTES: Final = 25_000_000  # all starter weights together, which every clone and installation downloads
_INFO: Final = "checkpoint.json"  # `checkpoint.INFO`, without importing PyTorch


def weights_folder() -> Path:
    """Return the folder of all starter weights: `$TRITONE_WEIGHTS`, or else that of the installation or checkout."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    installed = Path(__file__).parent / "weights"  # their path in the wheel
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "weights"


def starter_kinds() -> tuple[str, ...]:
    """Return the names of the kinds that have starter weights, in order."""
    return tuple(path.parent.name for path in sorted(weights_folder().glob(f"*/{_INFO}")))


def starter_checkpoint(kind: str) -> Path:
    """Return the checkpoint folder of a kind's starter weights.

    Raises:
        CheckpointError: the kind has no starter weights.
    """
    kinds = starter_kinds()
    if kind not in kinds:
        raise CheckpointError(
            f"no starter weights of {kind} in {weights_folder()}: expected one of {', '.join(kinds) or 'none'}; train "
            f"a model with `tritone train {kind}`, or set {VARIABLE} to a folder of starter weights"
        )
    return weights_folder() / kind
