"""Bulk inference in jobs on Spark: functions for `mapInPandas`, `mapInArrow` and columns, which call a Tritone server.

```python
import tritone.spark

files = spark.read.format("binaryFile").load("s3a://bucket/music/").select("path", "content")
classify = tritone.spark.Classify(server="triton-0:8001,triton-1:8001")
results = files.mapInPandas(classify, classify.schema(files))
results.write.parquet("s3a://bucket/genres/")
```

Each Python worker of an executor has one client, for all partitions that it reads. A row whose recording cannot be used
has `error` and `error_type`, and null in the other columns of the result. If the server cannot be reached for longer
than `wait_s`, the task fails, and Spark starts it again (`spark.task.maxFailures`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tritone.bulk_calls import ERROR_COLUMNS, BulkCall, Server, shared_caller
from tritone.bulk_tables import frame_with_results, kept_columns, with_results
from tritone.constants import EMBEDDING_SIZE
from tritone.endpoints import DEFAULT_URL
from tritone.extras import require

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyspark.sql import DataFrame
    from pyspark.sql.types import DataType, StructType

    BATCH = TypeVar("BATCH", pd.DataFrame, pa.RecordBatch)

EMBEDDED: Final = ("embedding", *ERROR_COLUMNS)

require("pyspark.sql", extra="spark", purpose="jobs on Spark")
require("pyarrow", extra="spark", purpose="jobs on Spark")

__all__ = ["Call", "Classify", "Embed", "embed_udf"]


class Call:
    """Calls a method of `MusicClient` for each row; a function for `DataFrame.mapInPandas` and `mapInArrow`.

    All columns are kept, except `bytes_column`. The columns of a result are those of `tritone batch`; for
    operations that it does not have, the column `result` is the method's result as JSON text. The object is
    sent to the workers and has no connections.

    Args:
        operation: an operation of `tritone batch`, such as `compose`; or `playlist`, `recommend`, `search`, `similar`.
        inputs: the column with the value, by parameter of the method, as in `{"user_id": "user"}`; `{"path": COLUMN}`
            for an operation of `tritone batch`.
        bytes_column: column with the content of a recording or score, as Spark's source `binaryFile` reads it, which is
            used instead of its path where a frame has the column.
        server: address as for `MusicClient`: one server, or several with the same models. `$NAME` in it is an
            environment variable of the worker, as in "$NODE_IP:8001"; a function is called on the worker. Both find a
            server on the worker's own node.
        arguments: further arguments of the method, equal for all rows.
        concurrency: calls at once in each worker, 1 to 256.
        wait_s: how long a worker waits for a server that cannot be reached or is overloaded, in seconds.
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
        bytes_column: str | None = "content",
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

    def schema(self, frame: DataFrame) -> StructType:
        """Return the schema of the result for a frame: the columns that are kept, and those of the results.

        Raises:
            InvalidInputError: a column is missing, or has the name of a result's column.
        """
        from pyspark.sql.types import StructField, StructType

        kept = [frame.schema[name] for name in kept_columns(frame.columns, self._call)]
        results = [StructField(name, _type(kind)) for name, kind in self._call.columns.items()]
        return StructType([*kept, *results])

    def __call__(self, batches: Iterator[BATCH]) -> Iterator[BATCH]:
        """Yield each batch with the columns of the results; data frames of pandas, or batches of Arrow.

        Raises:
            InvalidInputError: as `schema`.
            ClientError: the calls cannot succeed for any row; see `tritone.bulk_calls.BulkCaller.rows`.
        """
        import pyarrow as pa

        caller = shared_caller(self._call)
        for batch in batches:
            if isinstance(batch, pa.RecordBatch):
                yield from with_results(pa.Table.from_batches([batch]), caller).combine_chunks().to_batches()
            else:
                yield frame_with_results(batch, caller)


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


def embed_udf(*, batch_size: int = 32, **options: Any) -> Callable[..., Any]:
    """Return a function of a column of paths or of file contents: a struct of `embedding`, `error` and `error_type`.

    It is one of `pyspark.ml.functions.predict_batch_udf`, whose arrays cannot be null: where there is an error, the
    embedding is 256 times NaN.

    ```python
    embed = tritone.spark.embed_udf(server="localhost:8001")
    songs.withColumn("sound", embed("path")).select("path", "sound.embedding", "sound.error")
    ```

    Args:
        batch_size: largest number of rows at once.
        options: as for `Embed`, without the names of columns.

    Raises:
        InvalidInputError: an argument is invalid.
    """
    import numpy as np
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql.types import StructField, StructType

    call = Embed(**options)._call

    def make_predict_fn() -> Callable[[Any], Mapping[str, Any]]:
        caller = shared_caller(call)

        def predict(recordings: Any) -> Mapping[str, Any]:
            rows = caller.rows([{"path": recording} for recording in recordings])
            unknown = [math.nan] * EMBEDDING_SIZE
            columns = {name: np.array([row[name] for row in rows], object) for name in ERROR_COLUMNS}
            vectors = [unknown if row["embedding"] is None else row["embedding"] for row in rows]
            return {"embedding": np.array(vectors, np.float32), **columns}

        return predict

    fields = [StructField(name, _type(kind)) for name, kind in call.columns.items() if name in EMBEDDED]
    udf: Callable[..., Any] = predict_batch_udf(make_predict_fn, return_type=StructType(fields), batch_size=batch_size)
    return udf


def _type(kind: str) -> DataType:
    from pyspark.sql import types

    return {
        "VARCHAR": types.StringType(),
        "VARCHAR[]": types.ArrayType(types.StringType()),
        "FLOAT": types.FloatType(),
        "DOUBLE": types.DoubleType(),
        "BIGINT": types.LongType(),
        "BLOB": types.BinaryType(),
        "FLOAT[]": types.ArrayType(types.FloatType()),
        "MAP(VARCHAR, FLOAT)": types.MapType(types.StringType(), types.FloatType()),
    }[kind]
