"""Batch jobs: run a model on every file of a folder, glob, manifest or bucket, and write Parquet parts.

```python
from tritone import MusicClient
from tritone.batch import BatchOptions, run_batch

with MusicClient("localhost:8001") as music:
    summary = run_batch(music, BatchOptions(source="recordings", out="results/part-%05d.parquet", resume=True))
print(summary.n_done, summary.errors)
```

Each file becomes exactly one row, over all parts and all runs of a job. Parts are written under a temporary name and
renamed, or sent to a bucket in one request; the files that are done are read from the completed parts, so a killed job
continues after its last complete part. The modules: `sources` (the files of a source), `jobs` (job metadata next to the
parts), `file_list` (files that are pending or done), `operations` (calls and columns), `file_calls` (the call for one
file or a group of files), `failures` (error handling), `workers` (the threads that make the calls),
`concurrency_limit`, `parts` (the output) and `runner` (`run_batch`).
"""

from tritone.batch.operations import OPERATIONS
from tritone.batch.options import BatchOptions
from tritone.batch.runner import run_batch
from tritone.batch.summary import BatchProgress, BatchSummary

__all__ = ["OPERATIONS", "BatchOptions", "BatchProgress", "BatchSummary", "run_batch"]
