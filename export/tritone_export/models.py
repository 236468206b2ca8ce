"""Convert a network to ONNX, compare it with PyTorch, reduce its precision on request, and write it as a version."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritone.arguments import check_model_name
from tritone_export._exceptions import LabelError, ModelTooLargeError
from tritone_export.card import CARD_FILENAME, build_card, card_bytes, package_versions
from tritone_export.config import MODEL_FILENAME, config_files, filenames_of
from tritone_export.convert import MAX_N_BYTES, add_metadata, to_onnx
from tritone_export.parity import Arrays, Parity, check_parity, check_signature, draw_inputs, open_session, run_network
from tritone_export.precision import FILENAMES, Precision, Reduced, Reduction, measure, reduce_graph
from tritone_export.repository import LOCK_TIMEOUT_S, publish
from tritone_export.tuned import overridden
from tritone_export.weights import split_weights

if TYPE_CHECKING:
    import onnx

    from tritone_training.declaration import Declaration
    from tritone_training.kind import Exportable, ModelKind
    from tritone_training.quality import Quality

_EXAMPLE_N_BATCH = 2


@dataclass(frozen=True)
class ExportResult:
    """A version that was written to the repository.

    Attributes:
        path: folder of the version.
        parity: differences from PyTorch; None for a version without a network.
        seconds: duration of the export.
        warning: what has to be done before the version can be served; None if nothing.
        reduced: graphs of the version in reduced precision.
        kept: requested precisions in which this model cannot be served, each with the reason.
    """

    model: str
    version: int
    path: Path
    parity: Parity | None
    seconds: float
    warning: str | None = None
    reduced: tuple[Reduced, ...] = ()
    kept: Mapping[Precision, str] | None = None


@dataclass(frozen=True)
class PreparedModel:
    """A model that passed all checks but is not written yet.

    Attributes:
        files: files of the version except its model card, by name.
        model_files: files of the model's folder (labels, configs), by path inside it.
        seconds: duration of the preparation.
    """

    exportable: Exportable
    kind: ModelKind
    name: str
    model: onnx.ModelProto
    parity: Parity
    reduced: tuple[Reduced, ...]
    files: Mapping[str, bytes]
    model_files: Mapping[str, bytes]
    seconds: float


def prepare_model(
    exportable: Exportable,
    kind: ModelKind,
    *,
    name: str | None = None,
    example_inputs: Callable[[int, int], Arrays] | None = None,
    quality: Quality | None = None,
    reduction: Reduction | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> PreparedModel:
    """Convert a network, compare it with PyTorch and reduce its precision; see `export_model`.

    Args:
        quality: metrics and validation data of the model; required if `reduction` requests a precision.
        reduction: requested precisions, all of which the model supports.
    """
    start_s = time.monotonic()
    declaration = exportable.declaration
    name = name or declaration.name
    check_model_name(name)
    labels = {file: label_text(file, names).encode() for file, names in exportable.label_files.items()}
    network = exportable.network.to("cpu").eval()

    graph = exportable.graph or declaration
    draw = exportable.example_inputs or example_inputs or kind.example_inputs

    on_step(f"{name}: converting to ONNX")
    example = draw_inputs(graph, draw, _EXAMPLE_N_BATCH)
    # Differences between PyTorch and the declaration are reported here, before the slow conversion.
    outputs = run_network(network, graph, example)
    widths = {output: array.shape[-1] for output, array in outputs.items()}
    check_labels(graph, exportable.label_files, widths)
    model = to_onnx(network, graph, example)
    add_metadata(model, _metadata(exportable, kind, name))
    content = _serialised(model)

    on_step(f"{name}: comparing with PyTorch")
    session = open_session(content)
    check_signature(session, graph)
    parity = check_parity(network, session, graph, draw)

    reduced: list[Reduced] = []
    if reduction is not None and reduction.precisions and quality is not None:
        on_step(f"{name}: evaluating fp32 on validation data")
        held_out = quality.held_out(reduction.request)
        before = measure(session, held_out, "fp32")
        for precision in reduction.precisions:
            on_step(f"{name}: converting to {precision} and evaluating it on validation data")
            reduced.append(
                reduce_graph(
                    model,
                    content,
                    precision,
                    declaration=graph,
                    quality=quality,
                    held_out=held_out,
                    before=before,
                    draw=draw,
                    max_loss=reduction.max_loss,
                )
            )
    files = {**split_weights(content, MODEL_FILENAME), **labels}
    for each in reduced:
        files |= split_weights(each.content, FILENAMES[each.precision])
    filenames = {each.precision: each.filename for each in reduced}
    configs = config_files(
        declaration,
        name=name,
        filenames=filenames_of(declaration, for_gpu=filenames.get("fp16"), for_cpu=filenames.get("int8")),
        label_files=exportable.label_files,
    )
    return PreparedModel(
        exportable=exportable,
        kind=kind,
        name=name,
        model=model,
        parity=parity,
        reduced=tuple(reduced),
        files=files,
        model_files={**labels, **{file: text.encode() for file, text in configs.items()}},
        seconds=time.monotonic() - start_s,
    )


def write_model(
    prepared: PreparedModel,
    repository: Path,
    *,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    kept: Mapping[Precision, str] | None = None,
) -> ExportResult:
    """Add a prepared model to the repository as the next version.

    Args:
        kept: copied to the result, see `ExportResult.kept`.
    """
    start_s = time.monotonic()

    def version_files(version: int) -> dict[str, bytes]:
        card = build_card(
            prepared.exportable,
            kind=prepared.kind.name,
            name=prepared.name,
            version=version,
            model=prepared.model,
            parity=prepared.parity,
            files=prepared.files,
            precisions={each.precision: each.describe() for each in prepared.reduced},
        )
        return {**prepared.files, CARD_FILENAME: card_bytes(card)}

    path = publish(
        repository / prepared.name,
        version_files=version_files,
        model_files=overridden(prepared.model_files, repository / prepared.name),
        lock_timeout_s=lock_timeout_s,
    )
    seconds = prepared.seconds + time.monotonic() - start_s
    return ExportResult(
        prepared.name, int(path.name), path, prepared.parity, seconds, reduced=prepared.reduced, kept=kept
    )


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
        raise ModelTooLargeError(
            f"the ONNX model is too large: expected less than 2 GiB, got {n_bytes / 2**30:.2f} GiB; "
            f"use a smaller preset or half precision"
        )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def label_text(file: str, labels: Sequence[str]) -> str:
    """Return the content of a label file: one class name per line.

    Raises:
        LabelError: there are no labels, or one is empty, repeated or longer than one line.
    """
    if not labels:
        raise LabelError(f"{file}: expected at least one class name, got none")
    for label in labels:
        if not label.strip() or label != label.strip() or len(label.splitlines()) != 1:
            raise LabelError(
                f"{file}: invalid class name: expected one line of text without spaces at its ends, got {label!r}"
            )
    repeated = sorted({label for label in labels if list(labels).count(label) > 1})
    if repeated:
        raise LabelError(f"{file}: class names must be unique, but these are repeated: {', '.join(repeated)}")
    return "".join(f"{label}\n" for label in labels)


def read_label_files(declaration: Declaration, model_folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the class names in a model's folder, by name of the label file."""
    found = {}
    for tensor in declaration.outputs:
        if tensor.label_file and (path := model_folder / tensor.label_file).is_file():
            found[tensor.label_file] = tuple(path.read_text(encoding="utf-8").splitlines())
    return found


def check_labels(declaration: Declaration, label_files: Mapping[str, Sequence[str]], widths: Mapping[str, int]) -> None:
    """Check that each labelled output has one class name per column.

    Args:
        declaration: declares the label file of each output.
        label_files: class names by name of the label file.
        widths: size of the last axis of each output of the network, by output name.

    Raises:
        LabelError: a label file is missing, belongs to no output, or has too few or too many names.
    """
    wanted = {tensor.label_file: tensor.name for tensor in declaration.outputs if tensor.label_file}
    for file, output in wanted.items():
        if file not in label_files:
            raise LabelError(
                f"output {output!r} is declared with label file {file!r}, but the checkpoint has no such labels"
            )
        if len(label_files[file]) != widths[output]:
            raise LabelError(
                f"{file}: wrong number of class names: expected {widths[output]}, one per column of output {output!r}, "
                f"got {len(label_files[file])}"
            )
    for file in label_files:
        if file not in wanted:
            raise LabelError(f"{file}: the checkpoint has these labels, but no declared output uses them")
