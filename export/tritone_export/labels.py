"""Class names of outputs: label files, as Triton reads them, and the parameter `labels` of config.pbtxt for clients.

A label file has one class name per line, in the order of the last axis of its output. Triton offers no request for it,
so that the configuration repeats the names: `{"emotions": ["amazement", ...], "probabilities": ["classical", ...]}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tritone_export._exceptions import LabelError

if TYPE_CHECKING:
    from tritone_training.declaration import Declaration


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
