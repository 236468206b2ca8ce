"""Exports without conversion to ONNX; a separate module, so that publishing does not import PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritone_training.declaration import Declaration

if TYPE_CHECKING:
    from tritone_training.kind import Exportable


@dataclass(frozen=True)
class ArtifactExport:
    """Data that a Tritone backend serves without a network, with the files that belong to it.

    Attributes:
        files: name in the version folder -> the file to copy, or its content.
        card: as `Exportable.card`.
        companions: as `Exportable.companions`.
        artifacts: further data that are served together with these.
        key: (its check value, its file), if the data can only be read with a key that must not travel with it.
        key_wanted: (its check value, where training found it) of the key that serving needs, whether or not its file
            is known; the second is None if the key was made together with the checkpoint.
    """

    declaration: Declaration
    files: Mapping[str, Path | bytes]
    card: Mapping[str, Any]
    companions: Sequence[Exportable] = ()
    artifacts: Sequence[ArtifactExport] = ()
    key: tuple[str, Path] | None = None
    key_wanted: tuple[str, str | None] | None = None
