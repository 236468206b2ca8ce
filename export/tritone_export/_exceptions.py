"""Exceptions raised by the export package.

```
ExportError
├── DeclarationError             a declaration contradicts itself or needs what Triton cannot do
├── ConversionError              PyTorch, the ONNX checker or ONNX Runtime rejected the model
│   └── ModelTooLargeError       the weights exceed the size limit of one ONNX file
├── LabelError                   class names are missing, or their number differs from the output's size
├── ParityError                  the ONNX model differs from its declaration or from PyTorch
│   ├── NameMismatchError        ... in the names of its tensors
│   ├── DTypeMismatchError       ... in an element type
│   ├── RankMismatchError        ... in the number of axes
│   ├── StaticAxisError          ... in an axis of variable size (usually batch) that was exported with a fixed size
│   ├── ShapeMismatchError       ... in the size of an axis
│   ├── ValueMismatchError       ... in the values of an output
│   └── NonFiniteError           an output holds NaN or infinity
├── PrecisionError               a graph cannot be converted to the requested precision
│   └── QualityLossError         ... because its quality would drop below the limit
├── ForgettingError              a user cannot be removed from the recommender
├── TunedError                   serving.json (from `tritone optimize`) is invalid or does not fit the model
└── RepositoryError              the model repository cannot be read or written
    ├── ConfigFileError          a config.pbtxt cannot be read
    ├── DiskFullError            no space left, or a quota or file size limit was reached
    └── RepositoryBusyError      another export or publication holds the lock
```

Model names are checked by `tritone.arguments.check_model_name`, which raises `InvalidModelNameError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tritone import TritoneError


class ExportError(TritoneError):
    """Base class of the exceptions of this package."""


class DeclarationError(ExportError, ValueError):
    """Raised when a declaration contradicts itself or needs what Triton cannot do."""


class ConversionError(ExportError):
    """Raised when PyTorch's exporter, the ONNX checker or ONNX Runtime rejects the model."""


class ModelTooLargeError(ConversionError):
    """Raised when the weights do not fit into one ONNX file (2 GiB, the limit of protobuf)."""


class LabelError(ExportError):
    """Raised when class names are missing or repeated, or their number differs from the size of the output."""


class ParityError(ExportError):
    """Raised when the ONNX model differs from its declaration or from PyTorch.

    Attributes:
        tensor: name of the input or output; None if the error concerns all of them.
    """

    def __init__(self, message: str, *, tensor: str | None = None) -> None:
        super().__init__(message)
        self.tensor = tensor


class NameMismatchError(ParityError):
    """Raised when a declared tensor is missing or a tensor is not declared."""


class DTypeMismatchError(ParityError):
    """Raised when a tensor has another element type than declared."""


class RankMismatchError(ParityError):
    """Raised when a tensor has more or fewer axes than declared."""


class StaticAxisError(ParityError):
    """Raised when an axis of variable size was fixed at the size of the example.

    Attributes:
        axis: name of the axis in the declaration, usually `batch`.
    """

    def __init__(self, message: str, *, tensor: str, axis: str) -> None:
        super().__init__(message, tensor=tensor)
        self.axis = axis


class ShapeMismatchError(ParityError):
    """Raised when the size of an axis differs from the declaration or from the output of PyTorch."""


class ValueMismatchError(ParityError):
    """Raised when an output differs from that of PyTorch by more than the declared tolerance.

    Attributes:
        n_batch: batch size at which the output differs.
        max_abs_difference: largest absolute difference.
        index: index of the largest difference, batch axis first.
        tolerance: largest absolute difference that the declaration allows.
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
    """Raised when an output holds NaN or infinity.

    Attributes:
        source: where the value comes from: `PyTorch`, `ONNX Runtime` or `both`.
        index: index of the first such value, batch axis first.
    """

    def __init__(self, message: str, *, tensor: str, source: str, index: tuple[int, ...]) -> None:
        super().__init__(message, tensor=tensor)
        self.source = source
        self.index = index


class PrecisionError(ExportError):
    """Raised when a graph cannot be converted to a precision, or the loss of quality cannot be measured."""


class QualityLossError(PrecisionError):
    """Raised when the converted graph loses more quality on validation data than allowed.

    Attributes:
        metric: name of the metric.
        before: its value in single precision.
        after: its value in the requested precision.
        max_loss: largest allowed loss.
    """

    def __init__(self, message: str, *, metric: str, before: float, after: float, max_loss: float) -> None:
        super().__init__(message)
        self.metric = metric
        self.before = before
        self.after = after
        self.max_loss = max_loss


class ForgettingError(ExportError):
    """Raised when a user cannot be removed from the recommender."""


class TunedError(ExportError, ValueError):
    """Raised when a model's `serving.json` cannot be read or does not fit the model."""


class RepositoryError(ExportError):
    """Raised when the model repository cannot be read or written."""


class ConfigFileError(RepositoryError):
    """Raised when a model's configuration file cannot be read.

    Attributes:
        path: the file.
    """

    def __init__(self, message: str, *, path: Path) -> None:
        super().__init__(message)
        self.path = path


class DiskFullError(RepositoryError):
    """Raised when the disk has no space left for a new version; existing versions are unchanged."""


class RepositoryBusyError(RepositoryError):
    """Raised when another export or publication holds the lock for longer than the timeout."""


@contextmanager
def translating(step: str) -> Iterator[None]:
    """Translate exceptions of PyTorch, ONNX and ONNX Runtime during `step` into `ConversionError`.

    All exceptions are caught, because those of the three libraries have no common base class.
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
