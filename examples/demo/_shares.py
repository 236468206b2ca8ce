"""A picture of who says so: each member's share of each recommended piece's score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tritone_cli.demonstration.recommending import Suggestion

# Everybody keeps their colour from picture to picture; the ensemble's own is what re-ranking gave or took.
_COLOURS: Final = {
    "user_knn": "#31688e",
    "item_knn": "#7fb8dc",
    "ease": "#35b779",
    "graph": "#1f7a4d",
    "taste_vae": "#8e6bbf",
    "social": "#e07b39",
    "sound": "#d8a31a",
    "mood": "#f2d16b",
    "tags": "#b5598a",
    "popularity": "#9aa5b1",
    "ensemble": "#444c55",
}
_OTHER: Final = "#c7c2b8"
_LONGEST_TITLE: Final = 40


def draw(suggestions: Sequence[Suggestion], path: Path) -> Path:
    """Write the picture: a bar for each piece, the best on top, in members' colours."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    figure = Figure(figsize=(9, 0.6 + 0.34 * len(suggestions)), layout="constrained")
    axes = figure.add_subplot()
    totals: dict[str, float] = {}
    for each in suggestions:
        for member, amount in each.members.items():
            totals[member] = totals.get(member, 0.0) + abs(amount)
    ends, starts = [0.0] * len(suggestions), [0.0] * len(suggestions)
    for member in sorted(totals, key=lambda name: -totals[name]):
        amounts = [each.members.get(member, 0.0) for each in suggestions]
        lefts = [end if amount >= 0 else start for amount, end, start in zip(amounts, ends, starts, strict=True)]
        axes.barh(
            range(len(suggestions)), amounts, left=lefts, height=0.72, label=member, color=_COLOURS.get(member, _OTHER)
        )
        ends = [end + max(amount, 0.0) for end, amount in zip(ends, amounts, strict=True)]
        starts = [start + min(amount, 0.0) for start, amount in zip(starts, amounts, strict=True)]
    titles = [_short(each.track.title) for each in suggestions]
    axes.set_yticks(range(len(suggestions)), titles, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("score, by member of the ensemble")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _short(title: str) -> str:
    return title if len(title) <= _LONGEST_TITLE else title[: _LONGEST_TITLE - 1].rstrip() + "…"
