"""Data sets, training and evaluation of Tritone's models.

```python
from tritone_training import load, train

checkpoint = train("genre_cnn", data="my_music", out="runs/mine", preset="demo")
print(checkpoint.metrics["test"]["accuracy"])
model = load(checkpoint)
print(model.classify("song.mp3").label)
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritone_training.kind import ListeningFiles
    from tritone_training.local_model import LocalModel, load
    from tritone_training.python_api import train
    from tritone_training.trained_checkpoint import TrainedCheckpoint

# Looked up when first used, because `tritone --help` and publishing do not need PyTorch.
_LAZY = {
    "ListeningFiles": "kind",
    "LocalModel": "local_model",
    "TrainedCheckpoint": "trained_checkpoint",
    "load": "local_model",
    "train": "python_api",
}

__all__ = ["ListeningFiles", "LocalModel", "TrainedCheckpoint", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
