"""Kinds of base models that run as separate Triton models, and of those that use the order of listening."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TASTE: Final = "taste_vae"
TASTE_SEQUENCE: Final = "taste_sequence"


@dataclass(frozen=True)
class RemoteKind:
    """A kind of remote base models.

    Attributes:
        name: of the base model, and of its folder in a checkpoint.
        model_parameter: of config.pbtxt, with the name of its Triton model.
        timeout_parameter: of config.pbtxt, in milliseconds.
        fallback_counter: metric of the calls that were answered without it, without the prefix.
        uses_order: whether its input is the order of listening, not a weighted history.
    """

    name: str
    model_parameter: str
    timeout_parameter: str
    fallback_counter: str
    uses_order: bool


# By the base model's `kind` in the manifest.
REMOTE_KINDS: Final[Mapping[str, RemoteKind]] = {
    "taste": RemoteKind(TASTE, "taste_model", "taste_timeout_ms", "taste_fallbacks_total", uses_order=False),
    "taste_sequence": RemoteKind(
        TASTE_SEQUENCE, "sequence_model", "sequence_timeout_ms", "sequence_fallbacks_total", uses_order=True
    ),
}
# Kinds of local and remote base models that use the order of listening.
ORDERED_KINDS: Final = ("transitions", *(kind for kind, each in REMOTE_KINDS.items() if each.uses_order))
