"""Results of a search as tables, Markdown and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tritone_cli.optimize.search import STAGES, SearchResult, SettingTrial

_LEGEND: Final = (
    "inst.: instances; threads: threads of each instance, `shared` means all cores; batches: preferred batch sizes; "
    "us: queue delay; /s: median inferences per second of n rounds; gain: median over the rounds of the throughput "
    "relative to the current settings in the same round."
)


def cells(found: SearchResult) -> list[dict[str, Any]]:
    """Return each setting of each stage as a flat dict; values that could not be measured are None."""
    rows = []
    for trial in found.trials:
        base = next(each for each in found.trials if each.stage == trial.stage)
        gain = trial.gain(base)
        rows.append(
            {
                "stage": trial.stage,
                **trial.setting.as_json(),
                "per_s": _rounded(trial.per_s),
                "p50_ms": _rounded(trial.p50_ms),
                "p99_ms": _rounded(trial.p99_ms),
                "gain": None if gain is None else round(gain, 4),
                "per_s_by_round": [reading and _rounded(reading.per_s) for reading in trial.readings],
                "in_force": trial.setting == found.in_force,
                "problem": trial.problem,
            }
        )
    return rows


def tables(found: SearchResult) -> dict[str, list[dict[str, str]]]:
    """Return the rows of a table for people by stage."""
    return {
        stage: [_shown(trial, found) for trial in found.trials if trial.stage == stage]
        for stage in STAGES
        if any(trial.stage == stage for trial in found.trials)
    }


def _shown(trial: SettingTrial, found: SearchResult) -> dict[str, str]:
    base = next(each for each in found.trials if each.stage == trial.stage)
    gain, setting = trial.gain(base), trial.setting
    remark = "current" if setting == found.in_force else ""
    if setting == found.best and found.changes:
        remark = "best"
    return {
        "inst.": str(setting.instances),
        "threads": "-" if setting.threads is None else "shared" if setting.threads == 0 else str(setting.threads),
        "batches": " ".join(map(str, setting.preferred_batch_sizes)) or "none",
        "us": str(setting.max_queue_delay_microseconds),
        "/s": _shortened(trial.per_s),
        "p50": _shortened(trial.p50_ms),
        "p99 ms": _shortened(trial.p99_ms),
        "gain": "-" if gain is None else f"{gain:+.1%}",
        "n": str(sum(reading is not None for reading in trial.readings)),
        "": remark or ("not measured" if trial.per_s is None else ""),
    }


def measured(found: SearchResult, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measurements for `serving.json` and `--json`."""
    return {
        **facts,
        "why": found.why,
        "gain": None if found.gain is None else round(found.gain, 4),
        "spread": None if found.spread is None else round(found.spread, 4),
        "table": cells(found),
    }


def write(found: SearchResult, model: str, folder: Path, *, facts: Mapping[str, Any]) -> list[Path]:
    """Write `MODEL-optimize.md` and a plot."""
    folder.mkdir(parents=True, exist_ok=True)
    picture, markdown = folder / f"{model}-optimize.png", folder / f"{model}-optimize.md"
    draw(found, model, picture)
    lines = [f"# Settings of {model}", "", *(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items())]
    lines += ["", f"Best: {found.best} ({found.why}).", "", f"![throughput and p99]({picture.name})", "", _LEGEND]
    for stage, rows in tables(found).items():
        lines += ["", f"## {stage.capitalize()}", "", _row(rows[0]), _row(dict.fromkeys(rows[0], "---"), values=True)]
        lines += [_row(row, values=True) for row in rows]
    problems = dict.fromkeys(f"- {trial.setting}: {trial.problem}" for trial in found.trials if trial.problem)
    lines += ["", *problems]
    markdown.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return [markdown, picture]


def draw(found: SearchResult, model: str, path: Path) -> None:
    """Plot throughput against p99, a point for each setting of each stage."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for stage in STAGES:
        trials = [trial for trial in found.trials if trial.stage == stage]
        points = [
            (trial.per_s, trial.p99_ms) for trial in trials if trial.per_s is not None and trial.p99_ms is not None
        ]
        if points:
            axes.scatter(*zip(*points, strict=True), label=stage, alpha=0.7)
    for setting, name in {found.best: "best", found.in_force: "current"}.items():
        last = next(trial for trial in reversed(found.trials) if trial.setting == setting)
        if last.per_s is not None and last.p99_ms is not None:
            axes.annotate(name, (last.per_s, last.p99_ms), xytext=(6, 6), textcoords="offset points")
    axes.set(xlabel="inferences per second", ylabel="p99, ms", title=f"{model}: settings under one load")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _row(row: Mapping[str, str], *, values: bool = False) -> str:
    return "| " + " | ".join(row.values() if values else row.keys()) + " |"


def _shortened(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
