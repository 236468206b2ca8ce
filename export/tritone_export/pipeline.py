"""From a trained network to a version that Triton can load.

```python
from tritone_export import export_kind
from tritone_training.registry import get_kind

kind = get_kind("genre_cnn")
for result in export_kind(kind.export(checkpoint, None), kind, repository=Path("model_repository")):
    print(result.model, result.version, result.parity.max_abs_difference)
```
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritone_export._exceptions import ModelTooLargeError
from tritone_export.card import CARD_FILENAME, build_card, card_bytes, package_versions
from tritone_export.config import MODEL_FILENAME, config_files
from tritone_export.convert import MAX_N_BYTES, add_metadata, to_onnx
from tritone_export.labels import check_labels, label_text
from tritone_export.parity import Arrays, Parity, check_parity, draw_inputs, open_session, run_network
from tritone_export.repository import LOCK_TIMEOUT_S, check_model_name, publish, update
from tritone_export.signature import check_signature

if TYPE_CHECKING:
    import onnx

    from tritone_training.declaration import Declaration
    from tritone_training.kind import Exportable, ModelKind

_EXAMPLE_N_BATCH = 2


@dataclass(frozen=True)
class ExportResult:
    """A version that is in place.

    Attributes:
        path: the version's folder.
        parity: how far it is from PyTorch.
        seconds: how long the whole export took.
    """

    model: str
    version: int
    path: Path
    parity: Parity
    seconds: float


def export_kind(
    exportable: Exportable,
    kind: ModelKind,
    *,
    repository: Path,
    name: str | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> tuple[ExportResult, ...]:
    """Export all that a checkpoint serves: the kind's own model, then its companions.

    Args:
        name: of the kind's own model; companions are named after it.

    Raises:
        ExportError: as `export_model`; models before the one that failed are in place.
    """
    results = [export_model(exportable, kind, repository=repository, name=name, on_step=on_step)]
    for companion, each in zip(kind.companions, exportable.companions, strict=True):
        results.append(
            export_model(
                each,
                kind,
                repository=repository,
                name=companion_name(kind.name, each.declaration.name, name),
                example_inputs=companion.example_inputs,
                on_step=on_step,
            )
        )
    return tuple(results)


def companion_name(kind_name: str, declared: str, name: str | None) -> str:
    """What a companion is called when the kind's own model is called `name`."""
    if name is None or name == kind_name:
        return declared
    return name + declared.removeprefix(kind_name) if declared.startswith(kind_name) else f"{name}_{declared}"


def export_model(
    exportable: Exportable,
    kind: ModelKind,
    *,
    repository: Path,
    name: str | None = None,
    example_inputs: Callable[[int, int], Arrays] | None = None,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    on_step: Callable[[str], None] = lambda step: None,
) -> ExportResult:
    """Convert, check against PyTorch, and add the next version to the repository.

    Args:
        exportable: a trained network, from `kind.export`.
        kind: draws the inputs for the comparison, unless `example_inputs` does.
        repository: made if it is missing.
        name: the model's folder, if it differs from the declaration's name.
        lock_timeout_s: how long to wait for another export of the same model.
        on_step: told each step's name as it begins.

    Raises:
        ExportError: its subclass says what is wrong; the repository is as it was before.
    """
    start_s = time.monotonic()
    declaration = exportable.declaration
    name = name or declaration.name
    check_model_name(name)
    configs = config_files(declaration, name=name)
    labels = {file: label_text(file, names).encode() for file, names in exportable.label_files.items()}
    network = exportable.network.to("cpu").eval()

    graph = exportable.graph or declaration
    draw = exportable.example_inputs or example_inputs or kind.example_inputs

    on_step(f"{name}: converting to ONNX")
    example = draw_inputs(graph, draw, _EXAMPLE_N_BATCH)
    # What PyTorch itself answers otherwise than declared is told before the slow part.
    answers = run_network(network, graph, example)
    widths = {output: answer.shape[-1] for output, answer in answers.items()}
    check_labels(graph, exportable.label_files, widths)
    model = to_onnx(network, graph, example)
    add_metadata(model, _metadata(exportable, kind, name))
    content = _serialised(model)

    on_step(f"{name}: comparing with PyTorch")
    session = open_session(content)
    check_signature(session, graph)
    parity = check_parity(network, session, graph, draw)

    on_step(f"{name}: writing the version")
    files = {MODEL_FILENAME: content, **labels}

    def version_files(version: int) -> dict[str, bytes]:
        card = build_card(
            exportable, kind=kind.name, name=name, version=version, model=model, parity=parity, files=files
        )
        return {**files, CARD_FILENAME: card_bytes(card)}

    path = publish(
        repository / name,
        version_files=version_files,
        model_files={**labels, **{file: text.encode() for file, text in configs.items()}},
        lock_timeout_s=lock_timeout_s,
    )
    return ExportResult(name, int(path.name), path, parity, time.monotonic() - start_s)


def write_configs(declaration: Declaration, repository: Path, *, name: str | None = None) -> list[Path]:
    """Write a declaration's config.pbtxt and configs/gpu.pbtxt where they differ; needs no checkpoint.

    Returns:
        the files that were written.

    Raises:
        DeclarationError: Triton would refuse it.
        RepositoryError: the folder cannot be written.
    """
    name = name or declaration.name
    check_model_name(name)
    files = {file: text.encode() for file, text in config_files(declaration, name=name).items()}
    return update(repository / name, files)


def _metadata(exportable: Exportable, kind: ModelKind, name: str) -> dict[str, str]:
    counts = {
        f"tritone.n_labels.{tensor.name}": str(len(exportable.label_files[tensor.label_file]))
        for tensor in exportable.declaration.outputs
        if tensor.label_file and tensor.label_file in exportable.label_files
    }
    return {
        **exportable.metadata,
        **counts,
        "tritone.kind": kind.name,
        "tritone.model": name,
        "tritone.version": package_versions().get("tritone", "unknown"),
        "tritone.card": CARD_FILENAME,
    }


def _serialised(model: onnx.ModelProto) -> bytes:
    n_bytes = model.ByteSize()
    if n_bytes > MAX_N_BYTES:
        raise ModelTooLargeError(f"the ONNX model takes {n_bytes / 2**30:.2f} GiB; one file holds less than 2 GiB")
    content: bytes = model.SerializeToString(deterministic=True)
    return content
