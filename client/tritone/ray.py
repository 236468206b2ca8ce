"""Bulk inference in jobs on Ray: classes for `map_batches`, which call a Tritone server.

```python
import ray
import tritone.ray

files = ray.data.read_binary_files("s3://bucket/music/", include_paths=True)
results = files.map_batches(
    tritone.ray.Classify,
    fn_constructor_kwargs={"server": "triton-0:8001,triton-1:8001"},
    compute=ray.data.ActorPoolStrategy(size=2),
    batch_size=32,
)
results.write_parquet("s3://bucket/genres/")
```

Each actor of the pool has one client, which adapts its number of requests in flight to the server. A row whose
recording cannot be used has `error` and `error_type`, and null in the other columns of the result. If the server cannot
be reached for longer than `wait_s`, the actor's task fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from tritone.bulk_calls import BulkJob, shared_caller
from tritone.bulk_tables import with_results
from tritone.extras import require

if TYPE_CHECKING:
    import pyarrow as pa

require("ray.data", extra="ray", purpose="jobs on Ray")

__all__ = ["Call", "Classify", "Embed"]


class Call(BulkJob):
    """Calls a method of `MusicClient` for each row of a batch; a class for `Dataset.map_batches`.

    The arguments, and the columns of the results, are those of `tritone.bulk_calls.BulkJob`.
    """

    _CONTENT_COLUMN: ClassVar[str] = "bytes"

    def __call__(self, batch: Mapping[str, Any] | pa.Table) -> pa.Table:
        """Return the batch with the columns of the results.

        Args:
            batch: columns by name, as with `batch_format="numpy"`, or a table, as with "pyarrow".

        Raises:
            InvalidInputError: a column is missing, or has the name of a result's column.
            ClientError: the calls cannot succeed for any row; see `tritone.bulk_calls.BulkCaller.rows`.
        """
        return with_results(_table(batch), shared_caller(self._call))


class Classify(Call):
    """Classifies the recording of each row, as `MusicClient.classify` does.

    The columns of a result are those of `tritone batch classify`: `label`, `probability`, `probabilities`, `emotions`,
    `tags`, `duration_s`, `model`, `model_version`, `error` and `error_type`.

    Args:
        path_column: column with the path of each recording, which the worker opens if there is no `bytes_column`.
        options: as for `Call`.
    """

    def __init__(self, *, path_column: str = "path", **options: Any) -> None:
        super().__init__("classify", inputs={"path": path_column}, **options)


class Embed(Call):
    """Embeds the recording of each row, as `MusicClient.embed` does.

    The columns of a result are those of `tritone batch embed`: `embedding` (256 float32), `duration_s`, `model`,
    `model_version`, `error` and `error_type`.

    Args:
        path_column: as for `Classify`.
        options: as for `Call`.
    """

    def __init__(self, *, path_column: str = "path", **options: Any) -> None:
        super().__init__("embed", inputs={"path": path_column}, **options)


def _table(batch: Mapping[str, Any] | pa.Table) -> pa.Table:
    import pyarrow as pa

    if isinstance(batch, pa.Table):
        return batch
    return pa.table({name: pa.array(list(column)) for name, column in batch.items()})
