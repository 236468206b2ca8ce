"""The model kind `recommender`: an ensemble of collaborative-filtering and content-based models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritone_training.kinds.recommender.model_kind import KIND

__all__ = ["KIND"]


def __getattr__(name: str) -> Any:
    # Imported when first used, because the workers of an engine need the fit of the base models only, not PyTorch.
    if name != "KIND":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tritone_training.kinds.recommender.model_kind import KIND

    return KIND
