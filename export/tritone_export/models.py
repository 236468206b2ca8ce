"""One model on its way into a repository: converted, compared, reduced if asked; and then written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritone_export._exceptions import LabelError, ModelTooLargeError
from tritone_export.card import CARD_FILENAME, build_card, card_bytes, package_versions
from tritone_export.config import MODEL_FILENAME, config_files, filenames_of
from tritone_export.convert import MAX_N_BYTES, add_metadata, to_onnx
from tritone_export.parity import Arrays, Parity, check_parity, check_signature, draw_inputs, open_session, run_network
from tritone_export.precision import FILENAMES, Precision, Reduced, Reduction, measure, reduce_graph
from tritone_export.repository import LOCK_TIMEOUT_S, check_model_name, publish
from tritone_export.tuned import overridden

if TYPE_CHECKING:
    import onnx

    from tritone_training.declaration import Declaration
    from tritone_training.kind import Exportable, ModelKind
    from tritone_training.quality import Quality

_EXAMPLE_N_BATCH = 2


@dataclass(frozen=True)
class ExportResult:
    """A version that is in place.

    Attributes:
        path: the version's folder.
        parity: how far it is from PyTorch; None where there is no network.
        seconds: how long the whole export took.
        warning: what has to be done before it can be served, None if nothing.
        reduced: its graphs in less than single precision.
        kept: precision that was asked for -> why this model is served in fp32 all the same.
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
    """A model that has passed everything, and is not written yet.

    Attributes:
        files: of the version, but for its card.
        model_files: beside the versions.
        seconds: how long it took.
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
    """Convert, check against PyTorch, and reduce; see `export_model`.

    Args:
        quality: how this model is judged; needed where `reduction` asks for a precision.
        reduction: with those precisions alone that this model can have.
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

    reduced: list[Reduced] = []
    if reduction is not None and reduction.precisions and quality is not None:
        on_step(f"{name}: judging fp32 on validation data")
        held_out = quality.held_out(reduction.request)
        before = measure(session, held_out, "fp32")
        for precision in reduction.precisions:
            on_step(f"{name}: converting to {precision}, and judging that on validation data")
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
        files={MODEL_FILENAME: content, **{FILENAMES[each.precision]: each.content for each in reduced}, **labels},
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
        kept: for the result.
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
        raise ModelTooLargeError(f"the ONNX model takes {n_bytes / 2**30:.2f} GiB; one file holds less than 2 GiB")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def label_text(file: str, labels: Sequence[str]) -> str:
    """Write a label file's text.

    Raises:
        LabelError: no labels, an empty or repeated one, or one that would not stay on its line.
    """
    if not labels:
        raise LabelError(f"{file}: holds no class names")
    for label in labels:
        if not label.strip() or label != label.strip() or len(label.splitlines()) != 1:
            raise LabelError(
                f"{file}: {label!r} cannot be a class name: expected one line of text without blanks at its ends"
            )
    repeated = sorted({label for label in labels if list(labels).count(label) > 1})
    if repeated:
        raise LabelError(f"{file}: names {', '.join(repeated)} more than once; each class needs a name of its own")
    return "".join(f"{label}\n" for label in labels)


def read_label_files(declaration: Declaration, model_folder: Path) -> dict[str, tuple[str, ...]]:
    """Read the label files that a model has in a repository: file name -> class names."""
    found = {}
    for tensor in declaration.outputs:
        if tensor.label_file and (path := model_folder / tensor.label_file).is_file():
            found[tensor.label_file] = tuple(path.read_text(encoding="utf-8").splitlines())
    return found


def check_labels(declaration: Declaration, label_files: Mapping[str, Sequence[str]], widths: Mapping[str, int]) -> None:
    """Hold the class names against the outputs that they name.

    Args:
        declaration: says which output each file labels.
        label_files: file name -> class names.
        widths: output name -> size of its last axis, as the exported model answers it.

    Raises:
        LabelError: a file is missing, belongs to no output, or has too few or too many names.
    """
    wanted = {tensor.label_file: tensor.name for tensor in declaration.outputs if tensor.label_file}
    for file, output in wanted.items():
        if file not in label_files:
            raise LabelError(f"output {output!r} is labelled by {file!r}, but the checkpoint brings no such labels")
        if len(label_files[file]) != widths[output]:
            raise LabelError(
                f"{file}: names {len(label_files[file])} classes, but output {output!r} has {widths[output]} columns"
            )
    for file in label_files:
        if file not in wanted:
            raise LabelError(f"{file}: the checkpoint brings these labels, but no declared output is labelled by them")
