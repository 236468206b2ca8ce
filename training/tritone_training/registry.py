"""The registry of model kinds: one line for each kind."""

from __future__ import annotations

import importlib
from typing import Final

from tritone_training.exceptions import UnknownKindError
from tritone_training.kind import ModelKind

_MODULES: Final = {
    "genre_cnn": "tritone_training.kinds.genre_cnn",
    "polyphony_rnn": "tritone_training.kinds.polyphony_rnn",
    "music_transformer": "tritone_training.kinds.music_transformer",
    "music_vae": "tritone_training.kinds.music_vae",
    "music_gan": "tritone_training.kinds.music_gan",
    "taste_vae": "tritone_training.kinds.taste_vae",
    "taste_sequence": "tritone_training.kinds.taste_sequence",
    "recommender": "tritone_training.kinds.recommender",
}


def kind_names() -> tuple[str, ...]:
    """Return the names of all registered kinds."""
    return tuple(_MODULES)


def get_kind(name: str) -> ModelKind:
    """Return the kind with a name.

    Raises:
        UnknownKindError: there is no such kind.
    """
    if name not in _MODULES:
        raise UnknownKindError(f"no model kind {name!r}; there are: {', '.join(_MODULES)}")
    kind: ModelKind = importlib.import_module(_MODULES[name]).KIND
    return kind
