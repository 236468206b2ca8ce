"""Model cards: a JSON file in each version folder that documents data, licences, metrics, parity and checksums."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritone_serving.recommender import embedding_weights

if TYPE_CHECKING:
    import onnx

    from tritone_export.parity import Parity
    from tritone_training.artifact_export import ArtifactExport
    from tritone_training.declaration import Tensor
    from tritone_training.kind import Exportable

CARD_FILENAME: Final = embedding_weights.CARD_FILENAME
_PACKAGES: Final = ("tritone", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def build_card(
    exportable: Exportable,
    *,
    kind: str,
    name: str,
    version: int,
    model: onnx.ModelProto,
    parity: Parity,
    files: Mapping[str, bytes],
    precisions: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the model card of a version: the entries of the checkpoint (data, licences, metrics) and of the export.

    Args:
        exportable: the network that was exported.
        kind: name of the model kind.
        name: name of the model's folder.
        version: version number.
        model: the exported graph.
        parity: differences of the graph from PyTorch.
        files: the other files of the version, for their checksums.
        precisions: descriptions of the graphs in reduced precision, by precision.
    """
    declaration = exportable.declaration
    card = {
        "model": name,
        "kind": kind,
        "version": version,
        "summary": declaration.summary,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": [describe_tensor(tensor) for tensor in declaration.inputs],
        "outputs": [describe_tensor(tensor) for tensor in declaration.outputs],
        "labels": {file: list(labels) for file, labels in exportable.label_files.items()},
        "parity": describe_parity(parity),
        "onnx": {
            "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
            "ir_version": model.ir_version,
            "n_nodes": len(model.graph.node),
        },
        **({"precisions": precisions} if precisions else {}),
        "files": {file: checksum(content) for file, content in files.items()},
        "versions": {"python": platform.python_version(), **package_versions()},
    }
    own = {key: value for key, value in exportable.card.items() if key not in card}
    # Entries with the same name (package versions at training and at export) are kept under `at_training`.
    both = {key: value for key, value in exportable.card.items() if key in card and value != card[key]}
    return {**card, **own, **({"at_training": both} if both else {})}


def build_artifact_card(
    artifact: ArtifactExport, *, kind: str, name: str, version: int, files: Mapping[str, bytes | Path]
) -> dict[str, Any]:
    """Return the model card of a version that holds data instead of a network; see `build_card`."""
    declaration = artifact.declaration
    return {
        "model": name,
        "kind": kind,
        "version": version,
        "summary": declaration.summary,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": [describe_tensor(tensor) for tensor in declaration.inputs],
        "outputs": [describe_tensor(tensor) for tensor in declaration.outputs],
        **artifact.card,
        "files": {file: checksum(content) for file, content in files.items()},
        "versions": {"python": platform.python_version(), **package_versions()},
    }


def checksum(content: bytes | Path) -> dict[str, Any]:
    """Return the SHA-256 digest and size of a file, given its content or its path."""
    if isinstance(content, bytes):
        return {"sha256": hashlib.sha256(content).hexdigest(), "n_bytes": len(content)}
    with content.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "n_bytes": content.stat().st_size}


def card_bytes(card: Mapping[str, Any]) -> bytes:
    """Return a card as JSON; NaN and infinity become null."""
    return (json.dumps(_plain(card), ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()


def describe_parity(parity: Parity) -> dict[str, Any]:
    """Return the result of the parity check as plain values."""
    return {
        "reference": "PyTorch",
        "provider": "CPUExecutionProvider",
        "tolerance": dict(parity.tolerance),
        "max_abs_difference": {str(batch.n_batch): dict(batch.max_abs_difference) for batch in parity.batches},
    }


def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages that affect an export."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def describe_tensor(tensor: Tensor, *, batched: bool = True) -> dict[str, Any]:
    """Return the entry of a tensor in the card."""
    described: dict[str, Any] = {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "axes": {**({"batch": None} if batched else {}), **{axis.name: axis.size for axis in tensor.axes}},
        "description": tensor.description,
    }
    if tensor.label_file:
        described["label_file"] = tensor.label_file
    return described


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, tensors
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)  # paths, dates
