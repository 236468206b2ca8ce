"""Pictures of an evaluation: members beside the ensemble, accuracy against novelty, segments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritone_training.kinds.music_vae.report import picture


def write(folder: Path, figures: Mapping[str, Any]) -> list[str]:
    """Write the report's pictures; answers their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _draw_members(folder / "members.png", figures),
        _draw_novelty(folder / "novelty.png", figures),
        _draw_segments(folder / "segments.png", figures),
    ]


def _all(figures: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    ranked = sorted(figures["members"].items(), key=lambda entry: entry[1]["ndcg@10"])
    return {**dict(ranked), "ensemble": figures["ensemble"]}


def _draw_members(path: Path, figures: Mapping[str, Any]) -> str:
    rows = _all(figures)
    with picture(path, (4.5, 0.35 * len(rows) + 1), 1, 2) as axes:
        for axis, metric in zip(axes[0], ("ndcg@10", "recall@40"), strict=True):
            colours = ["C0"] * (len(rows) - 1) + ["C1"]
            axis.barh(list(rows), [each[metric] for each in rows.values()], color=colours)
            axis.set_xlabel(metric)
    return str(path)


def _draw_novelty(path: Path, figures: Mapping[str, Any]) -> str:
    with picture(path, (5, 4), 1, 1) as axes:
        axis = axes[0][0]
        for name, each in _all(figures).items():
            axis.scatter(each["novelty@10"], each["ndcg@10"], color="C1" if name == "ensemble" else "C0")
            axis.annotate(name, (each["novelty@10"], each["ndcg@10"]), fontsize=7)
        axis.set_xlabel("novelty@10 (bits)")
        axis.set_ylabel("ndcg@10")
    return str(path)


def _draw_segments(path: Path, figures: Mapping[str, Any]) -> str:
    rows = figures["segments"]
    with picture(path, (5, 3.5), 1, 1) as axes:
        axis = axes[0][0]
        labels = [f"{row['items_heard']}\n({row['n_users']})" for row in rows]
        axis.bar(labels, [row["ndcg@10"] for row in rows])
        axis.set_xlabel("items in the history (users)")
        axis.set_ylabel("ndcg@10")
    return str(path)
