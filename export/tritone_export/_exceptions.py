"""The export package's errors.

```
ExportError
├── DeclarationError             the declaration itself cannot be served
├── InvalidModelNameError        a model name that is unsafe as a folder or unusable in a URL
├── ConversionError              PyTorch, the ONNX checker or ONNX Runtime refused the model
│   └── ModelTooLargeError       more than one protobuf file can hold
├── LabelError                   class names are missing, or are not one per column of their output
├── ParityError                  the ONNX model is not what was declared, or not what PyTorch computes
│   ├── NameMismatchError        ... in the names of its tensors
│   ├── DTypeMismatchError       ... in their types
│   ├── RankMismatchError        ... in how many axes they have
│   ├── StaticAxisError          ... an axis (batch, most often) is frozen where it must stay free
│   ├── ShapeMismatchError       ... in the size of an axis
│   ├── ValueMismatchError       ... in the numbers
│   └── NonFiniteError           NaN or infinity came out
├── PrecisionError               a graph cannot be served in the precision that was asked for
│   └── QualityLossError         ... because it would lose more than may be lost
├── ForgettingError              a user cannot be removed
├── TunedError                   serving.json, what `tritone optimize` found, is nonsense or does not fit
└── RepositoryError              the repository cannot be written
    ├── ConfigFileError          a config.pbtxt cannot be read
    ├── DiskFullError            no room (or a quota or file size limit)
    └── RepositoryBusyError      another export held the model for too long
```
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tritone import TritoneError


class ExportError(TritoneError):
    """Root of what exporting and linting raise on purpose."""


class DeclarationError(ExportError, ValueError):
    """The declaration contradicts itself or asks for what Triton cannot do."""


class InvalidModelNameError(ExportError, ValueError):
    """The model name cannot be a folder of the repository and a part of a URL."""


class ConversionError(ExportError):
    """PyTorch's exporter, the ONNX checker or ONNX Runtime refused the model."""


class ModelTooLargeError(ConversionError):
    """The weights do not fit into one ONNX file (2 GiB, protobuf's limit)."""


class LabelError(ExportError):
    """Class names are missing, repeated, or not as many as their output is wide."""


class ParityError(ExportError):
    """The ONNX model differs from its declaration or from PyTorch.

    Attributes:
        tensor: name of the input or output concerned, None if it concerns all of them.
    """

    def __init__(self, message: str, *, tensor: str | None = None) -> None:
        super().__init__(message)
        self.tensor = tensor


class NameMismatchError(ParityError):
    """Tensors are missing, too many, or named otherwise than declared."""


class DTypeMismatchError(ParityError):
    """A tensor's type differs from the declared one."""


class RankMismatchError(ParityError):
    """A tensor has more or fewer axes than declared."""


class StaticAxisError(ParityError):
    """An axis that must differ between calls was frozen at the size of the example.

    Attributes:
        axis: its word in the declaration, `batch` most often.
    """

    def __init__(self, message: str, *, tensor: str, axis: str) -> None:
        super().__init__(message, tensor=tensor)
        self.axis = axis


class ShapeMismatchError(ParityError):
    """An axis has another size than declared, or than in PyTorch's answer."""


class ValueMismatchError(ParityError):
    """The numbers differ by more than the declared tolerance.

    Attributes:
        n_batch: the batch size at which they do.
        max_abs_difference: the largest difference.
        index: where it is, batch axis first.
        tolerance: what the declaration allows.
    """

    def __init__(
        self,
        message: str,
        *,
        tensor: str,
        n_batch: int,
        max_abs_difference: float,
        index: tuple[int, ...],
        tolerance: float,
    ) -> None:
        super().__init__(message, tensor=tensor)
        self.n_batch = n_batch
        self.max_abs_difference = max_abs_difference
        self.index = index
        self.tolerance = tolerance


class NonFiniteError(ParityError):
    """An output holds NaN or infinity.

    Attributes:
        source: `PyTorch`, `ONNX Runtime`, or `both`.
        index: the first such place, batch axis first.
    """

    def __init__(self, message: str, *, tensor: str, source: str, index: tuple[int, ...]) -> None:
        super().__init__(message, tensor=tensor)
        self.source = source
        self.index = index


class PrecisionError(ExportError):
    """The graph cannot be converted to this precision, or what that costs cannot be measured."""


class QualityLossError(PrecisionError):
    """On validation data the reduced graph is worse than the bound allows.

    Attributes:
        metric: which figure.
        before: in single precision.
        after: in the precision that was asked for.
        max_loss: how much it may lose.
    """

    def __init__(self, message: str, *, metric: str, before: float, after: float, max_loss: float) -> None:
        super().__init__(message)
        self.metric = metric
        self.before = before
        self.after = after
        self.max_loss = max_loss


class ForgettingError(ExportError):
    """A user cannot be removed from the recommender."""


class TunedError(ExportError, ValueError):
    """A model's `serving.json` cannot be read, or asks for what the model cannot do."""


class RepositoryError(ExportError):
    """The model repository cannot be read or written."""


class ConfigFileError(RepositoryError):
    """A model's configuration file cannot be read.

    Attributes:
        path: the file.
    """

    def __init__(self, message: str, *, path: Path) -> None:
        super().__init__(message)
        self.path = path


class DiskFullError(RepositoryError):
    """There is no room for the new version; the old one is untouched."""


class RepositoryBusyError(RepositoryError):
    """Another export of the same model did not finish in time."""


@contextmanager
def translating(step: str) -> Iterator[None]:
    """Turn whatever PyTorch, ONNX or ONNX Runtime raise during `step` into a `ConversionError`.

    Their exceptions share no root (ONNX Runtime's derive from `Exception` directly), hence the wide net.
    """
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        raise ConversionError(f"{step} failed: {type(error).__name__}: {_first_lines(error)}") from error


def _first_lines(error: Exception, n_chars: int = 600) -> str:
    text = str(error).strip()
    return text if len(text) <= n_chars else f"{text[:n_chars]} ..."
