"""The options of a batch job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tritone.arguments import check_count
from tritone.batch.operations import OPERATIONS
from tritone.constants import PRIORITIES, Priority
from tritone.exceptions import InvalidInputError

MAX_CONCURRENCY: Final = 256
DEFAULT_CONCURRENCY: Final = 8
DEFAULT_CALL_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """What to run on which files, and where the results go.

    Attributes:
        source: a folder, a glob, a single file, or a manifest (a `.txt` file with one path or URL per line, or a `.csv`
            file with a column `path`); local, `s3://` or `gs://`.
        out: path pattern of the Parquet files, with one number, such as `results/part-%05d.parquet`; local, `s3://` or
            `gs://`.
        operation: a name in `OPERATIONS`.
        model: name of the model; that of the operation if None.
        arguments: further arguments of the operation's call, such as `{"bars": 4}`.
        shard: (K, N) processes shard K of N, 1 <= K <= N. Each shard is a job of its own, and all may write to the same
            `out`.
        resume: continue an earlier job with the same `out`; start a new one if there is none.
        rows_per_part: maximum number of rows in a part.
        part_s: longest time between two parts in seconds; a killed job loses at most the work since the last part. The
            first parts of a run are written earlier.
        concurrency: maximum number of concurrent requests; the job uses fewer if more would not be faster.
        priority: in the queues of the server.
        timeout_s: time limit of one call in seconds; a file is called up to three times.
        retry_s: stop the job after this many seconds without a successful call or read.
        max_duration_s: maximum length of a recording in seconds; longer ones get an error row. None for no limit.
    """

    source: str
    out: str
    operation: str = "classify"
    model: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    shard: tuple[int, int] = (1, 1)
    resume: bool = False
    rows_per_part: int = 10_000
    part_s: float = 60.0
    concurrency: int = DEFAULT_CONCURRENCY
    priority: Priority = "batch"
    timeout_s: float = DEFAULT_CALL_TIMEOUT_S
    retry_s: float = 600.0
    max_duration_s: float | None = 14_400.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InvalidInputError: a value is invalid.
        """
        if self.operation not in OPERATIONS:
            raise InvalidInputError(
                f"unknown operation: expected one of {', '.join(OPERATIONS)}, got {self.operation!r}",
                argument="operation",
            )
        OPERATIONS[self.operation].check_arguments(self.arguments)
        check_count("concurrency", self.concurrency, least=1, most=MAX_CONCURRENCY)
        check_count("rows_per_part", self.rows_per_part, least=1, most=10_000_000)
        k, n = self.shard
        if not 1 <= k <= n:
            raise InvalidInputError(f"invalid shard: expected K/N with 1 <= K <= N, got {k}/{n}", argument="shard")
        if self.priority not in PRIORITIES:
            raise InvalidInputError(
                f"unknown priority: expected one of {', '.join(PRIORITIES)}, got {self.priority!r}",
                argument="priority",
            )
        for name in ("part_s", "timeout_s", "retry_s", "max_duration_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InvalidInputError(f"invalid {name}: expected seconds above 0, got {value!r}", argument=name)

    @property
    def model_name(self) -> str:
        """Return the name of the model that runs."""
        return self.model or OPERATIONS[self.operation].model
