"""Summary, plots and tables of an evaluation: base models and ensemble, in total and by length of history."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tritone_serving.recommender.ensemble import SEGMENTS, SESSION
from tritone_training.evaluation import SummaryTable
from tritone_training.plots import saved_figure
from tritone_training.ranking_metrics import MAIN_METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BASE_MODEL_METRICS: Final = ("ndcg@10", "recall@40", "hit_rate@10")  # fit in 80 columns with a name
_BASE_MODEL: Final = "#7a9cc6"
_ENSEMBLE: Final = "#d95f02"
_TABLE: Final = ("ndcg@10", "recall@10", "map@10", "mrr@10", "hit_rate@10", "ndcg@40", "recall@40")
_BEYOND: Final = {
    "coverage@10": "coverage@10 (share of the catalogue)",
    "novelty@10": "novelty@10 (bits)",
    "diversity@10": "diversity@10 (cosine distance)",
}
_SEGMENT_WORDS: Final = {"cold": "no history", "short": "short history", "warm": "long history", SESSION: "session"}


def summarize(metrics: Mapping[str, Any], *, split: str) -> list[str | SummaryTable]:
    """Return the metrics of the ensemble, the base models, by length of history, and of cold-start users and items."""
    ensemble = metrics["ensemble"]
    shown = ("n_items_listened", "n_users", "ndcg@10", "recall@40")
    found: list[str | SummaryTable] = [
        f"{split}: {metrics['n_users']} users, {metrics['n_held_out']} held-out listens",
        "ensemble: " + ", ".join(f"{name} {ensemble[name]:.4f}" for name in MAIN_METRICS),
        ", ".join(f"{name}@10 {ensemble[name + '@10']:.3f}" for name in ("coverage", "novelty", "diversity")),
        base_models_table(metrics["base_models"]),
        SummaryTable("by history", [{name: row[name] for name in shown} for row in metrics["segments"]]),
    ]
    if by_friends := metrics["cold_users"]["by_friends"]:
        ratio = by_friends["times_popularity"]
        found.append(f"cold-start users, by friends: ndcg@10 {by_friends['ndcg@10']:.4f}, {ratio:.1f} x popularity")
    if (recall := metrics["cold_items"]["recall@40"]) is not None:
        found.append(f"items without listens in the log: recall@40 {recall:.3f}")
    return found


def base_models_table(base_models: Mapping[str, Mapping[str, float]]) -> SummaryTable:
    """Return a table of the base models, the best first."""
    rows = sorted(base_models.items(), key=lambda entry: -entry[1]["ndcg@10"])
    shown = [
        {"base model": name, **{key: each[key] for key in _BASE_MODEL_METRICS if key in each}} for name, each in rows
    ]
    return SummaryTable("base models", shown)


def write(folder: Path, metrics: Mapping[str, Any], *, data: str, split: str) -> list[str]:
    """Write the plots and tables of an evaluation; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _draw_base_models(folder / "base_models.png", metrics),
        _draw_segments(folder / "segments.png", metrics),
        _draw_weights(folder / "weights.png", metrics),
        _draw_beyond(folder / "beyond_accuracy.png", metrics),
        _write_csv(folder / "metrics.csv", metrics),
        _write_markdown(folder / "report.md", metrics, f"{data}; {split}"),
    ]


def _all(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Return the metrics of the base models in ascending order of NDCG@10, followed by the ensemble."""
    ranked = sorted(metrics["base_models"].items(), key=lambda entry: entry[1]["ndcg@10"])
    return {**dict(ranked), "ensemble": metrics["ensemble"]}


def _bars(axis: Axes, rows: Mapping[str, float], label: str, form: str = "{:.3f}") -> None:
    """Draw a labelled bar for each row, the ensemble in its own colour."""
    colours = [_ENSEMBLE if name == "ensemble" else _BASE_MODEL for name in rows]
    bars = axis.barh(list(rows), list(rows.values()), color=colours)
    axis.bar_label(bars, fmt=form.format, padding=3, fontsize=8)
    axis.set_xlabel(label)
    axis.set_xlim(0, 1.18 * max(*rows.values(), 1e-9))
    axis.spines[["top", "right"]].set_visible(False)


def _draw_base_models(path: Path, metrics: Mapping[str, Any]) -> str:
    rows = _all(metrics)
    with saved_figure(path, (10, 0.36 * len(rows) + 1), 1, 2) as axes:
        for axis, metric in zip(axes[0], ("ndcg@10", "recall@40"), strict=True):
            _bars(axis, {name: each[metric] for name, each in rows.items()}, metric)
        axes[0][1].set_yticklabels([])
    return str(path)


def _draw_segments(path: Path, metrics: Mapping[str, Any]) -> str:
    """Draw the NDCG@10 of each base model and the ensemble by length of history."""
    rows = metrics["segments"]
    names = list(reversed(_all(metrics)))
    values = np.array(
        [[(row if name == "ensemble" else row["base_models"][name])["ndcg@10"] for row in rows] for name in names]
    )
    columns = [f"{row['n_items_listened']}\n(users: {row['n_users']})" for row in rows]
    with saved_figure(path, (2.2 + 1.2 * len(rows), 0.36 * len(names) + 1.6), 1, 1) as axes:
        _draw_table(axes[0][0], values, names, columns)
        axes[0][0].set_title("ndcg@10 by items in the history", fontsize=10)
    return str(path)


def _draw_weights(path: Path, metrics: Mapping[str, Any]) -> str:
    """Draw the weight of each base model in each ensemble."""
    ensembles = metrics["ensembles"]
    names = list(reversed([name for name in _all(metrics) if name != "ensemble"]))
    with saved_figure(path, (2.2 + 3.6 * len(ensembles), 0.36 * len(names) + 1.6), 1, len(ensembles)) as axes:
        for axis, (arm, described) in zip(axes[0], ensembles.items(), strict=True):
            segments = [segment for segment in (*SEGMENTS, SESSION) if segment in described["weights"]]
            tables = [described["weights"][segment] for segment in segments]
            values = np.array([[table.get(name, 0.0) for table in tables] for name in names])
            _draw_table(axis, values, names, [_SEGMENT_WORDS[segment].replace(" ", "\n") for segment in segments])
            axis.set_title(f"weights of ensemble {arm}\n({described.get('how', 'given')})", fontsize=10)
    return str(path)


def _draw_table(axis: Axes, values: np.ndarray[Any, Any], rows: Sequence[str], columns: Sequence[str]) -> None:
    axis.imshow(values, cmap="Blues", vmin=0, vmax=max(float(values.max(initial=0)), 1e-9), aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > 0.6 * values.max() else "black"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axis.set_xticks(range(len(columns)), columns, fontsize=8)
    axis.set_yticks(range(len(rows)), rows)


def _draw_beyond(path: Path, metrics: Mapping[str, Any]) -> str:
    rows = _all(metrics)
    shown = {metric: label for metric, label in _BEYOND.items() if metric in metrics["ensemble"]}
    with saved_figure(path, (4.2 * len(shown) + 1, 0.36 * len(rows) + 1), 1, len(shown)) as axes:
        for number, (metric, label) in enumerate(shown.items()):
            _bars(axes[0][number], {name: each[metric] for name, each in rows.items()}, label, "{:.2f}")
            if number:
                axes[0][number].set_yticklabels([])
    return str(path)


def _write_csv(path: Path, metrics: Mapping[str, Any]) -> str:
    """Write all metrics, with a row for each base model and segment."""
    rows: list[tuple[str, str, int, Mapping[str, Any]]] = []
    for name, each in reversed(_all(metrics).items()):
        rows.append((name, "all", metrics["n_users"], each))
        for segment in metrics["segments"]:
            values = segment if name == "ensemble" else segment["base_models"][name]
            rows.append((name, segment["n_items_listened"], segment["n_users"], values))
    columns = list(metrics["ensemble"])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["who", "n_items_listened", "n_users", *columns])
        for name, n_listened, n_users, each in rows:
            cells = (each.get(column) for column in columns)
            writer.writerow([name, n_listened, n_users, *("" if value is None else f"{value:.6f}" for value in cells)])
    return str(path)


def _write_markdown(path: Path, metrics: Mapping[str, Any], data: str) -> str:
    models = dict(reversed(_all(metrics).items()))
    lines = [
        "# Evaluation of the recommender",
        "",
        f"{data}: {metrics['n_users']} users, {metrics['n_held_out']} held-out listens, "
        f"{metrics['n_items']} items. All items are ranked, except those in the user's log.",
        "",
        *_table(("", *_TABLE), [(name, *(each[metric] for metric in _TABLE)) for name, each in models.items()]),
        "",
        "![base models](base_models.png)",
        "",
        "## By length of history",
        "",
        *_table(
            ("items in the history", "users", "ndcg@10", "recall@40"),
            [
                (row["n_items_listened"], row["n_users"], row["ndcg@10"], row["recall@40"])
                for row in metrics["segments"]
            ],
        ),
        "",
        "![by length of history](segments.png)",
        "",
        "## Weights of the base models",
        "",
        "![weights](weights.png)",
        "",
        "## Beyond accuracy",
        "",
        "Coverage: share of the catalogue recommended to at least one user. Novelty: mean information of the items "
        "in bits. Diversity: mean pairwise cosine distance of the items in a list.",
        "",
        "![coverage, novelty, diversity](beyond_accuracy.png)",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    texts = [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    ruler = ["---", *("---:" for _ in header[1:])]
    return ["| " + " | ".join(cells) + " |" for cells in (header, ruler, *texts)]
