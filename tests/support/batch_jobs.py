"""The command line of a batch job, and the rows that it wrote."""

from __future__ import annotations

import sys

import duckdb
import pandas as pd


def command(source: object, server: str, out: object, *further: object) -> list[str]:
    parts = [sys.executable, "-m", "tritone_cli", "batch", "classify", source, "--server", server]
    return [str(part) for part in (*parts, "--out", f"{out}/part-%05d.parquet", "--resume", *further)]


def rows(out: object) -> pd.DataFrame:
    return duckdb.sql(f"SELECT * FROM read_parquet('{out}/part-*.parquet') ORDER BY path").df()  # noqa: S608 - a path of the test
