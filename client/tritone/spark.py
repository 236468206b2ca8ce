"""Bulk inference in jobs on Spark: functions for `mapInPandas`, `mapInArrow` and columns, which call a Tritone server.

```python
import tritone.spark

files = spark.read.format("binaryFile").load("s3a://bucket/music/").select("path", "content")
classify = tritone.spark.Classify(server="triton-0:8001,triton-1:8001")
results = files.mapInPandas(classify, classify.schema(files))
results.write.parquet("s3a://bucket/genres/")
```

Each Python worker of an executor has one client for all partitions that it reads; the client adapts its number of
requests in flight to the server. A row whose recording cannot be used has `error` and `error_type`, and null in the
other columns of the result. If the server cannot be reached for longer than `wait_s`, the task fails, and Spark starts
it again (`spark.task.maxFailures`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from tritone.bulk_calls import ERROR_COLUMNS, BulkJob, shared_caller
from tritone.bulk_tables import frame_with_results, kept_columns, with_results
from tritone.constants import EMBEDDING_SIZE
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


class Call(BulkJob):
    """Calls a method of `MusicClient` for each row; a function for `DataFrame.mapInPandas` and `mapInArrow`.

    The arguments, and the columns of the results, are those of `tritone.bulk_calls.BulkJob`.
    """

    _CONTENT_COLUMN: ClassVar[str] = "content"

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
