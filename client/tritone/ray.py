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

Each actor of the pool has one client. A row whose recording cannot be used has `error` and `error_type`, and null in
the other columns of the result. If the server cannot be reached for longer than `wait_s`, the actor's task fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tritone.bulk_calls import BulkCall, BulkCaller, Server
from tritone.bulk_tables import with_results
from tritone.endpoints import DEFAULT_URL
from tritone.extras import require

if TYPE_CHECKING:
    import pyarrow as pa

require("ray.data", extra="ray", purpose="jobs on Ray")

__all__ = ["Call", "Classify", "Embed"]


class Call:
    """Calls a method of `MusicClient` for each row of a batch; a class for `Dataset.map_batches`.

    All columns of the batch are kept, except `bytes_column`. The columns of a result are those of `tritone batch`; for
    operations that it does not have, the column `result` is the method's result as JSON text.

    Args:
        operation: an operation of `tritone batch`, such as `compose`; or `playlist`, `recommend`, `search`, `similar`.
        inputs: the column with the value, by parameter of the method, as in `{"user_id": "user"}`; `{"path": COLUMN}`
            for an operation of `tritone batch`.
        bytes_column: column with the content of a recording or score, as `ray.data.read_binary_files` reads it, which
            is used instead of its path where a batch has the column.
        server: address as for `MusicClient`: one server, or several with the same models. `$NAME` in it is an
            environment variable of the worker, as in "$NODE_IP:8001"; a function is called on the worker. Both find a
            server on the worker's own node.
        arguments: further arguments of the method, equal for all rows.
        concurrency: calls at once in each actor, 1 to 256.
        wait_s: how long an actor waits for a server that cannot be reached or is overloaded, in seconds.
        client: further arguments of `MusicClient`. Secrets only as files (`api_key_file`, `service_key_file`), which
            must exist on each node. The priority is "batch" if none is given.

    Raises:
        InvalidInputError: an argument is invalid.
    """

    def __init__(
        self,
        operation: str,
        *,
        inputs: Mapping[str, str],
        bytes_column: str | None = "bytes",
        server: Server = DEFAULT_URL,
        arguments: Mapping[str, Any] | None = None,
        concurrency: int = 8,
        wait_s: float = 300.0,
        **client: Any,
    ) -> None:
        self._call = BulkCall(
            operation,
            inputs=inputs,
            bytes_column=bytes_column,
            server=server,
            client=client,
            arguments=arguments or {},
            concurrency=concurrency,
            wait_s=wait_s,
        )
        self._caller = BulkCaller(self._call)

    def __call__(self, batch: Mapping[str, Any] | pa.Table) -> pa.Table:
        """Return the batch with the columns of the results.

        Args:
            batch: columns by name, as with `batch_format="numpy"`, or a table, as with "pyarrow".

        Raises:
            InvalidInputError: a column is missing, or has the name of a result's column.
            ClientError: the calls cannot succeed for any row; see `tritone.bulk_calls.BulkCaller.rows`.
        """
        return with_results(_table(batch), self._caller)


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
