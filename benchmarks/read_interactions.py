"""Measure time and peak memory of reading, cleaning, counting and splitting a simulated listening log.

    python -m benchmarks.read_interactions [--rows N] [--users U] [--items I] [--parts P] [--folder DIR] [--json]
    python -m benchmarks.read_interactions --engine local --workers 2 [--without-times]

The log is simulated: Parquet parts of rows with a user, an item and a time, where few users and items have most of the
listens; every 50th id is missing or has a blank after it. The parts are generated in this process and read in a fresh
one, whose peak is that of its resident memory (`VmHWM`); without `--engine` it starts no other process. With it, the
workers of an engine read the parts; `engine` says what they used. The peaks of the steps show where memory is needed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

N_ROWS = 200_000
ROWS_A_PART = 5_000_000


def main() -> None:
    """Generate a log, measure, and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=N_ROWS)
    parser.add_argument("--users", type=int, help="default: one for 50 rows")
    parser.add_argument("--items", type=int, help="default: one for 250 rows")
    parser.add_argument("--parts", type=int, help=f"default: one for {ROWS_A_PART:,} rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the log and temporary files; default: TMPDIR")
    parser.add_argument("--without-times", action="store_true", help="leave the column of times out")
    parser.add_argument("--engine", help="local, ray or spark: let its workers read the log")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    n_users = arguments.users or max(1, arguments.rows // 50)
    n_items = arguments.items or max(1, arguments.rows // 250)
    n_parts = arguments.parts or -(-arguments.rows // ROWS_A_PART)
    with tempfile.TemporaryDirectory(prefix="tritone-benchmark-", dir=arguments.folder) as folder:
        log = Path(folder) / "log"
        log.mkdir()
        began = time.perf_counter()
        has_times = not arguments.without_times
        generate(log, arguments.rows, n_users, n_items, n_parts=n_parts, seed=arguments.seed, has_times=has_times)
        generated_s = time.perf_counter() - began
        n_bytes = sum(path.stat().st_size for path in log.iterdir())
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        given = (log, arguments.seed, sender, arguments.engine, arguments.workers)
        process = context.Process(target=_measure, args=given)
        process.start()
        sender.close()
        try:
            measured = receiver.recv()
        except EOFError:
            raise SystemExit("the measured process ended without a result") from None
        finally:
            process.join()
    result = {
        "rows": arguments.rows,
        "users": n_users,
        "items": n_items,
        "parts": n_parts,
        "parquet_mb": round(n_bytes / 1e6, 1),
        "generated_s": round(generated_s, 1),
        "is_simulated": True,
        **measured,
    }
    print(json.dumps(result) if arguments.json else _table(result))


def generate(
    folder: Path, n_rows: int, n_users: int, n_items: int, *, n_parts: int, seed: int = 0, has_times: bool = True
) -> None:
    """Write Parquet parts with a simulated log, which is the same for the same seed and sizes."""
    per_part = -(-n_rows // n_parts)
    # Squares and cubes of uniform numbers: few users and items have most of the rows.
    query = """
        SELECT CASE WHEN h % 1000 = 0 THEN NULL ELSE printf('user-%07d', u) || CASE WHEN h % 50 = 1 THEN ' ' ELSE '' END
            END AS user_id, printf('track-%06d', i) AS track_id {times}
        FROM (SELECT h, CAST(floor(pow((h >> 32) / 4294967296, 1.5) * {users}) AS BIGINT) AS u,
            CAST(floor(pow((g & 4294967295) / 4294967296, 2) * {items}) AS BIGINT) AS i, (g >> 32) % 63072000 AS s
            FROM (SELECT hash(n * 2 + {seed}) AS h, hash(n * 2 + 1 + {seed}) AS g FROM range({first}, {end}) x(n)))
    """
    times = ", TIMESTAMP '2023-01-01' + INTERVAL (s) SECONDS AS played_at" if has_times else ""
    with duckdb.connect(config={"memory_limit": "1GB"}) as database:
        database.execute("SET enable_progress_bar = false")
        for part in range(n_parts):
            first, end = part * per_part, min(n_rows, (part + 1) * per_part)
            rows = query.format(users=n_users, items=n_items, times=times, seed=2 * n_rows * seed, first=first, end=end)
            database.execute(f"COPY ({rows}) TO '{folder / f'part-{part:05d}.parquet'}' (COMPRESSION zstd)")


def _measure(log: Path, seed: int, sender: Any, engine: str | None, workers: int | None) -> None:
    """Load the log as `tritone train recommender` does, and send what was measured."""
    from tritone_training.data.interactions import ListeningFiles, ReadingWorkers, listening
    from tritone_training.kind import TrainRequest
    from tritone_training.kinds.recommender.engines import open_engine

    cleaned: dict[str, Any] = {}

    @contextmanager
    def opened() -> Iterator[Any]:
        with open_engine(TrainRequest(out=Path(), engine=engine, workers=workers)) as running:
            yield running
            cleaned["engine"] = running.describe()

    keep_log = listening.keep_log

    def timed(*given: Any, **options: Any) -> Any:
        stored = keep_log(*given, **options)
        cleaned.update(read_and_clean_s=round(time.perf_counter() - began, 1), peak_read_and_clean_mb=round(_peak_mb()))
        return stored

    listening.keep_log = timed
    before = _peak_mb()
    began = time.perf_counter()
    request = TrainRequest(out=Path(), data=ListeningFiles(interactions=log), seed=seed, progress=False)
    data = listening.load_listening(request, None if engine is None else ReadingWorkers(opened, is_required=True))
    all_s, peak = time.perf_counter() - began, _peak_mb()
    report = data.report["parts"]["log"]
    sequences = data.train.sequences
    sender.send(
        {
            **cleaned,
            "all_s": round(all_s, 1),
            "peak_before_mb": round(before),
            "peak_mb": round(peak),
            "pairs": report["n_used"],
            "users_used": report["n_users"],
            "items_used": report["n_items"],
            "dropped": report["dropped"],
            "train": len(data.train),
            "valid": len(data.valid),
            "test": 0 if data.test is None else len(data.test),
            "train_events": 0 if sequences is None else len(sequences),
            "fingerprint": data.report["fingerprint"],
        }
    )


def _peak_mb() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[1]) * 1024 / 1e6 if found else float("nan")


def _table(result: dict[str, Any]) -> str:
    return "\n".join(
        f"{name:24} {f'{value:,}' if isinstance(value, int | float) and not isinstance(value, bool) else value}"
        for name, value in result.items()
    )


if __name__ == "__main__":
    sys.exit(main())
