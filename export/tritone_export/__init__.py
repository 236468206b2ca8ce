"""Export checkpoints to a model repository for Triton, and check such repositories without a server.

```python
from tritone_export import export_kind, lint_repository, write_configs
```
"""

from tritone.exceptions import InvalidModelNameError
from tritone_export._exceptions import (
    ConfigFileError,
    ConversionError,
    DeclarationError,
    DiskFullError,
    DTypeMismatchError,
    ExportError,
    ForgettingError,
    LabelError,
    ModelTooLargeError,
    NameMismatchError,
    NonFiniteError,
    ParityError,
    PrecisionError,
    QualityLossError,
    RankMismatchError,
    RepositoryBusyError,
    RepositoryError,
    ShapeMismatchError,
    StaticAxisError,
    TunedError,
    ValueMismatchError,
)
from tritone_export.forgetting import Forgotten, forget_in_checkpoint, forget_user
from tritone_export.lint import Finding, LintReport, check_embedding_models, check_repository, lint_repository
from tritone_export.models import ExportResult
from tritone_export.parity import BatchParity, Parity
from tritone_export.pipeline import (
    companion_name,
    export_artifact,
    export_kind,
    export_model,
    write_configs,
    write_kind_configs,
)
from tritone_export.precision import Precision, Reduced, Reduction

__all__ = [
    "BatchParity",
    "ConfigFileError",
    "ConversionError",
    "DTypeMismatchError",
    "DeclarationError",
    "DiskFullError",
    "ExportError",
    "ExportResult",
    "Finding",
    "ForgettingError",
    "Forgotten",
    "InvalidModelNameError",
    "LabelError",
    "LintReport",
    "ModelTooLargeError",
    "NameMismatchError",
    "NonFiniteError",
    "Parity",
    "ParityError",
    "Precision",
    "PrecisionError",
    "QualityLossError",
    "RankMismatchError",
    "Reduced",
    "Reduction",
    "RepositoryBusyError",
    "RepositoryError",
    "ShapeMismatchError",
    "StaticAxisError",
    "TunedError",
    "ValueMismatchError",
    "check_embedding_models",
    "check_repository",
    "companion_name",
    "export_artifact",
    "export_kind",
    "export_model",
    "forget_in_checkpoint",
    "forget_user",
    "lint_repository",
    "write_configs",
    "write_kind_configs",
]
