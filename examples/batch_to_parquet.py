"""Classify every file of a folder into Parquet, resumably, and list the most common labels.

python examples/batch_to_parquet.py my_music results --server localhost:8001

Stop it at any moment and start it again: files that are done are not sent again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import duckdb

from tritone import MusicClient
from tritone.batch import BatchOptions, BatchProgress, run_batch


def main() -> None:
    """Run the job, and read its parts with DuckDB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a folder, a glob, a manifest, or a bucket such as s3://music/in/")
    parser.add_argument("results", type=Path, help="folder of the parts")
    parser.add_argument("--server", default="localhost:8001")
    arguments = parser.parse_args()
    options = BatchOptions(source=arguments.source, out=f"{arguments.results}/part-%05d.parquet", resume=True)

    def show(progress: BatchProgress) -> None:
        print(f"{progress.n_done} of {progress.n_files} files, {progress.files_per_s:.1f}/s", end="\r")

    with MusicClient(arguments.server) as music:
        summary = run_batch(music, options, on_progress=show)
    print(f"{summary.n_done} files, errors: {dict(summary.errors) or 'none'}")
    parts = f"{arguments.results}/part-*.parquet"
    query = "SELECT label, count(*) AS n FROM read_parquet(?) WHERE error IS NULL GROUP BY label ORDER BY n DESC"
    for label, n_files in duckdb.execute(query, [parts]).fetchmany(5):
        print(f"{n_files:6} {label}")


if __name__ == "__main__":
    main()
