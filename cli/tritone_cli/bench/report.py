"""What a bench found, as rows for people, Markdown, CSV and pictures."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tritone_cli.benching.measuring import ModelResult, Row

_PARTS: Final = ("queue", "compute_input", "compute_infer", "compute_output")
_COLUMNS: Final = {
    "protocol": "protocol",
    "load": "load",
    "per_s": "a second",
    "of_ceiling": "of the ceiling",
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


def cells(result: ModelResult, row: Row) -> dict[str, Any]:
    """One load, flat; latencies and throughput are None where there is no stable figure."""
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


def tables(result: ModelResult) -> dict[str, list[dict[str, str]]]:
    """The same rows twice, by title, so that they fit a terminal: as a client sees it, and inside the server."""
    rows = shown(result)
    common = ("protocol", "load")
    inside = tuple(_COLUMNS.values())[8:]
    return {
        f"{result.model}: as a client sees it": [
            {title: text for title, text in row.items() if title not in inside} for row in rows
        ],
        f"{result.model}: inside the server": [
            {title: text for title, text in row.items() if title in common or title in inside} for row in rows
        ],
    }


def shown(result: ModelResult) -> list[dict[str, str]]:
    """Rows for a table for people."""
    rows = []
    for row in result.rows:
        flat = cells(result, row)
        found = {title: _short(name, flat[name]) for name, title in _COLUMNS.items()}
        if row.reading is None:
            found[_COLUMNS["per_s"]] = "no figure"
        rows.append(found)
    return rows


def remarks(result: ModelResult) -> list[str]:
    """What belongs beside the table: the ceiling, what has no figure, and caches that answered for the model."""
    found = []
    ceiling = result.ceiling
    if ceiling is None:
        found.append(f"no in-process ceiling: {result.no_ceiling}")
    else:
        found.append(
            f"in process, ONNX Runtime: {ceiling.before_per_s:.4g} a second before, {ceiling.after_per_s or 0:.4g} "
            f"after ({ceiling.way}); perf_analyzer runs on the same cores as the server"
        )
        if not ceiling.is_stable:
            found.append("the machine was not the same before and after: no share of the ceiling is told")
    found += [row.problem for row in result.rows if row.problem]
    found += result.skipped
    n_hits = sum(row.counts.n_cache_hits for row in result.rows)
    if n_hits:
        found.append(f"the response cache answered {n_hits} requests: these are not the model's own figures")
    return found


def as_json(results: Sequence[ModelResult]) -> dict[str, Any]:
    """Everything, for `--json`."""
    return {
        "models": {
            result.model: {
                "ceiling": result.ceiling
                and {
                    "way": str(result.ceiling.way),
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


def write(results: Sequence[ModelResult], folder: Path, *, facts: Mapping[str, Any]) -> list[Path]:
    """Write `bench.md`, `bench.csv` and a picture per model.

    Args:
        facts: what was measured with what, for the head of the Markdown.
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
    results: Sequence[ModelResult], *, facts: Mapping[str, Any], pictures: Mapping[str, Path] | None = None
) -> str:
    """A heading per model, with its table and remarks."""
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
        lines += [f"- batches at {row.load} over {row.protocol} (size:times): {said}" for row, said in batches]
        if pictures and result.model in pictures:
            lines += ["", f"![latency against throughput of {result.model}]({pictures[result.model].name})"]
    return "\n".join(lines) + "\n"


def as_csv(results: Sequence[ModelResult]) -> str:
    """One line a load."""
    rows = [cells(result, row) for result in results for row in result.rows]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def draw(result: ModelResult, path: Path) -> None:
    """Latency against throughput: a line per protocol, p50 and p99, open loops as open circles."""
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
    axes.set(xlabel="inferences a second", ylabel="latency, ms", title=result.model, yscale="log")
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
