"""Batch jobs: run a model on every file of a folder, glob, manifest or bucket, and write Parquet parts.

```python
from tritone import MusicClient
from tritone.batch import BatchOptions, run_batch

with MusicClient("localhost:8001") as music:
    summary = run_batch(music, BatchOptions(source="recordings", out="results/part-%05d.parquet", resume=True))
print(summary.n_done, summary.errors)
```

Each file becomes exactly one row, over all parts and all runs of a job. Parts are written under a temporary name and
renamed, or sent to a bucket in one request; what is done is read from the finished parts, so a job that was killed goes
on where its last part ended. The modules: `sources` (which files), `jobs` (the record of a job beside its parts),
`work` (which files are left), `operations` (calls and columns), `pace` (how many requests run at once), `parts` (the
output) and `runner` (the whole).
"""

from tritone.batch.operations import OPERATIONS
from tritone.batch.options import BatchOptions
from tritone.batch.runner import run_batch
from tritone.batch.summary import BatchProgress, BatchSummary

__all__ = ["OPERATIONS", "BatchOptions", "BatchProgress", "BatchSummary", "run_batch"]
