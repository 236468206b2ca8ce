"""Write benchmark results as tables, Markdown, CSV and plots."""

from __future__ import annotations

import csv
import io
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tritone_cli.bench.measurement import BenchResult, LoadResult
from tritone_cli.marked_tables import check_marks, markdown_table, replace_marked

_PARTS: Final = ("queue", "compute_input", "compute_infer", "compute_output")
_COLUMNS: Final = {
    "protocol": "protocol",
    "load": "load",
    "per_s": "inferences/s",
    "of_ceiling": "of in process",
    "p50_ms": "p50 ms",
    "p90_ms": "p90",
    "p95_ms": "p95",
    "p99_ms": "p99",
    "queue_ms": "queue ms",
    "compute_input_ms": "input",
    "compute_infer_ms": "infer",
    "compute_output_ms": "output",
    "mean_batch": "batch",
    "cache_hits": "cache hits",
    "server_cores": "server cores",
    "stub_cores": "stubs",
    "generator_cores": "generator",
    "memory_mb": "MB",
}

_TABLE: Final = "bench"  # name of the marks around the table
_SUMMARY_HEAD: Final = (
    "model",
    "best closed loop",
    "inferences/s",
    "p50, p99 ms",
    "of in process",
    "Poisson arrivals",
    "p50, p99 ms",
)


def cells(result: BenchResult, row: LoadResult) -> dict[str, Any]:
    """Return one result as a flat dict; latency and throughput are None if they were not stable."""
    reading, counts = row.reading, row.counts
    return {
        "model": row.model,
        "protocol": row.protocol,
        "load": str(row.load),
        "concurrency": row.load.concurrency,
        "rate": row.load.rate,
        "request_batch": row.load.batch,
        "per_s": reading and reading.per_s,
        "of_ceiling": result.share_of_ceiling(row),
        **{f"p{number}_ms": reading and getattr(reading, f"p{number}_ms") for number in (50, 90, 95, 99)},
        **{f"{part}_ms": counts.part_ms[part] if counts.n else None for part in _PARTS},
        "mean_batch": counts.mean_batch,
        "batches": " ".join(f"{size}:{n}" for size, n in counts.batches.items()),
        "requests": counts.n,
        "failed": counts.n_failed,
        "cache_hits": counts.n_cache_hits,
        "cache_misses": counts.n_cache_misses,
        "server_cores": row.server_cores,
        "stub_cores": row.stub_cores,
        "generator_cores": row.generator_cores,
        "memory_mb": row.memory_mb,
        "problem": row.problem,
    }


def tables(result: BenchResult) -> dict[str, list[dict[str, str]]]:
    """Return two tables by title: measurements of the client, and measurements of the server."""
    rows = shown(result)
    common = ("protocol", "load")
    inside = tuple(_COLUMNS.values())[8:]
    return {
        f"{result.model}: measured by the client": [
            {title: text for title, text in row.items() if title not in inside} for row in rows
        ],
        f"{result.model}: measured by the server": [
            {title: text for title, text in row.items() if title in common or title in inside} for row in rows
        ],
    }


def shown(result: BenchResult) -> list[dict[str, str]]:
    """Return the rows of a table for people."""
    rows = []
    for row in result.rows:
        flat = cells(result, row)
        found = {title: _short(name, flat[name]) for name, title in _COLUMNS.items()}
        if row.reading is None:
            found[_COLUMNS["per_s"]] = "not stable"
        rows.append(found)
    return rows


def remarks(result: BenchResult) -> list[str]:
    """Return notes on a table: throughput in process, loads without a stable result, cache hits."""
    found = []
    ceiling = result.ceiling
    if ceiling is None:
        found.append(f"not measured in process: {result.no_ceiling}")
    else:
        found.append(
            f"in process, ONNX Runtime: {ceiling.before_per_s:.4g} inferences/s before, {ceiling.after_per_s or 0:.4g} "
            f"after ({ceiling.layout}); perf_analyzer runs on the same cores as the server"
        )
        if not ceiling.is_stable:
            found.append("the two measurements in process differ, so the share of their throughput is left out")
    found += [row.problem for row in result.rows if row.problem]
    found += result.skipped
    n_hits = sum(row.counts.n_cache_hits for row in result.rows)
    if n_hits:
        found.append(
            f"{n_hits} requests were answered from the response cache, so the results are not those of the model"
        )
    return found


def as_json(results: Sequence[BenchResult]) -> dict[str, Any]:
    """Return all results for `--json`."""
    return {
        "models": {
            result.model: {
                "ceiling": result.ceiling
                and {
                    "way": str(result.ceiling.layout),
                    "before_per_s": result.ceiling.before_per_s,
                    "after_per_s": result.ceiling.after_per_s,
                    "stable": result.ceiling.is_stable,
                },
                "no_ceiling": result.no_ceiling,
                "rows": [cells(result, row) for row in result.rows],
                "remarks": remarks(result),
            }
            for result in results
        }
    }


def write(results: Sequence[BenchResult], folder: Path, *, facts: Mapping[str, Any]) -> list[Path]:
    """Write `bench.md`, `bench.csv` and a plot per model.

    Args:
        facts: command and tools, for the head of the Markdown file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        result.model: folder / f"{result.model}.png" for result in results if any(r.reading for r in result.rows)
    }
    for result in results:
        if result.model in pictures:
            draw(result, pictures[result.model])
    markdown, table = folder / "bench.md", folder / "bench.csv"
    markdown.write_text(as_markdown(results, facts=facts, pictures=pictures), encoding="utf-8")
    table.write_text(as_csv(results), encoding="utf-8")
    return [markdown, table, *pictures.values()]


def as_markdown(
    results: Sequence[BenchResult], *, facts: Mapping[str, Any], pictures: Mapping[str, Path] | None = None
) -> str:
    """Return Markdown with a section per model."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = ["# Bench", "", f"{when}, {platform.machine()}, Python {platform.python_version()}."]
    lines += [f"{name}: {value}." for name, value in facts.items()]
    for result in results:
        lines += ["", f"## {result.model}", ""]
        if rows := shown(result):
            lines += ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
            lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
            lines.append("")
        lines += [f"- {remark}" for remark in remarks(result)]
        batches = [(row, cells(result, row)["batches"]) for row in result.rows if row.counts.batches]
        lines += [f"- batches at {row.load} over {row.protocol} (size:count): {counts}" for row, counts in batches]
        if pictures and result.model in pictures:
            lines += ["", f"![latency against throughput of {result.model}]({pictures[result.model].name})"]
    return "\n".join(lines) + "\n"


def as_csv(results: Sequence[BenchResult]) -> str:
    """Return CSV with one line per load."""
    rows = [cells(result, row) for result in results for row in result.rows]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def draw(result: BenchResult, path: Path) -> None:
    """Plot latency against throughput: lines of p50 and p99 per protocol, open loops as open circles."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for colour, protocol in zip(("tab:blue", "tab:orange"), ("grpc", "http"), strict=True):
        for name, style in (("p50", "-"), ("p99", "--")):
            for is_open in (False, True):
                points = [
                    (row.reading.per_s, getattr(row.reading, f"{name}_ms"))
                    for row in result.rows
                    if row.reading and row.protocol == protocol and (row.load.rate is not None) == is_open
                ]
                if not points:
                    continue
                label = f"{protocol} {name}" + (", Poisson arrivals" if is_open else "")
                axes.plot(
                    *zip(*points, strict=True),
                    marker="o" if name == "p50" else "s",
                    fillstyle="none" if is_open else "full",
                    linestyle="none" if is_open else style,
                    color=colour,
                    label=label,
                )
    if result.ceiling is not None and result.ceiling.is_stable:
        axes.axvline(result.ceiling.per_s, color="grey", linestyle=":", label="ONNX Runtime in process")
    axes.set(xlabel="inferences per second", ylabel="latency, ms", title=result.model, yscale="log")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _short(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "of_ceiling":
        return f"{value:.2f}"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def check_table_file(path: Path) -> None:
    """Check that a file has the marks of the table, before the measurement.

    Raises:
        TableMarksError: the marks are missing or in the wrong order.
    """
    check_marks(path, _TABLE)


def replace_table(path: Path, results: Sequence[BenchResult], *, command: str) -> None:
    """Replace the table between the marks; the file is replaced atomically.

    Raises:
        TableMarksError: the marks are missing or in the wrong order.
    """
    replace_marked(path, _TABLE, table_lines(results, command=command))


def table_lines(results: Sequence[BenchResult], *, command: str) -> list[str]:
    """Return the lines of the table and a line about its origin."""
    table = markdown_table(_SUMMARY_HEAD, [_summary_cells(result) for result in results])
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    return [*table, "", f"{when}, {os.cpu_count()} cores, shared with the load generator: {command}."]


def _summary_cells(result: BenchResult) -> tuple[str, ...]:
    best = result.best
    is_open = [row for row in result.rows if row.reading is not None and row.load.rate is not None]
    # The open loop with the protocol and the batch size of the best closed loop, and the highest rate.
    comparable = [row for row in is_open if best and (row.protocol, row.load.batch) == (best.protocol, best.load.batch)]
    arrivals = max(comparable or is_open, key=lambda row: row.load.rate or 0.0, default=None)
    if best is None or best.reading is None:
        first: tuple[str, ...] = ("not stable", "-", "-", "-")
    else:
        share = result.share_of_ceiling(best)
        first = (
            f"{best.protocol}, {best.load}",
            f"{best.reading.per_s:.4g}",
            _latency(best),
            "-" if share is None else f"{share:.2f}",
        )
    second = ("-", "-") if arrivals is None else (f"{arrivals.protocol}, {arrivals.load}", _latency(arrivals))
    return (f"`{result.model}`", *first, *second)


def _latency(row: LoadResult) -> str:
    return "-" if row.reading is None else f"{row.reading.p50_ms:.3g}, {row.reading.p99_ms:.3g}"
