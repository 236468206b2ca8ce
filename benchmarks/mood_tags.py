"""Measure whether tags tell the mood of items: do the tags of one half of the users agree with those of the other half?

    python -m benchmarks.mood_tags --item-tags FILE [--tag-names FILE] [--item-column NAME] [--json]

The mood of an item is the share of its tags that name each of the nine emotions, shrunk towards 0 for items with few
tags. The users are divided into halves at random; the correlation of the two halves over items with at least 10 tags
in each is the reliability of an emotion (1: both halves say the same, 0: they have nothing in common).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.constants import EMOTIONS
from tritone_training.data.interactions import TagTable, load_tags
from tritone_training.data.interactions.columns import Columns

SHRINKAGE: Final = 10.0  # tags that name no emotion, added to those of each item
LEAST_TAGS: Final = 10  # of an item, in each half
# Only tags that name a feeling; genres do not count.
TAGS_OF_EMOTIONS: Final[Mapping[str, frozenset[str]]] = {
    "amazement": frozenset({"ethereal", "magical", "mesmerizing", "breathtaking", "goosebumps", "uplifting"}),
    "solemnity": frozenset({"solemn", "spiritual", "sacred", "meditative", "meditation", "reverent"}),
    "tenderness": frozenset({"tender", "romantic", "gentle", "sweet", "intimate", "love songs", "love", "soft"}),
    "nostalgia": frozenset({"nostalgic", "nostalgia", "wistful", "bittersweet", "memories", "dreamy"}),
    "calmness": frozenset(
        {"calm", "calming", "chill", "chillout", "chill out", "relax", "relaxing", "mellow", "peaceful", "soothing"}
    ),
    "power": frozenset({"powerful", "epic", "energetic", "energy", "anthemic", "triumphant", "heroic"}),
    "joyful_activation": frozenset(
        {"happy", "joyful", "fun", "party", "upbeat", "cheerful", "feel good", "feelgood", "danceable", "groovy"}
    ),
    "tension": frozenset({"tense", "dark", "angry", "anger", "aggressive", "eerie", "creepy", "haunting", "intense"}),
    "sadness": frozenset(
        {"sad", "sadness", "melancholic", "melancholy", "depressing", "depressive", "gloomy", "heartbreaking", "sorrow"}
    ),
}


def mood_shares(
    tags: TagTable, kept: npt.NDArray[np.bool_], items: Mapping[str, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the shrunk share of each item's tags that name each emotion (I, 9), and its number of tags (I,).

    Args:
        tags: assignments of tags.
        kept: which of the assignments to use.
        items: id -> index.
    """
    places = {
        tag: [place for place, name in enumerate(EMOTIONS) if tag in TAGS_OF_EMOTIONS[name]]
        for tag in frozenset().union(*TAGS_OF_EMOTIONS.values())
    }
    counts, totals = np.zeros((len(items), len(EMOTIONS))), np.zeros(len(items), np.int64)
    for assignment in np.flatnonzero(kept).tolist():
        index = items[tags.items[assignment]]
        totals[index] += 1
        tag = " ".join(tags.tags[assignment].casefold().replace("-", " ").split())
        counts[index, places.get(tag, [])] += 1
    return counts / (totals + SHRINKAGE)[:, None], totals


def measure(tags: TagTable, seed: int) -> dict[str, Any]:
    """Return the reliability of each emotion, and the number of items with such a tag."""
    items = {name: index for index, name in enumerate(sorted(set(tags.items)))}
    users = sorted(set(tags.users))
    half = dict(zip(users, np.random.default_rng(seed).random(len(users)) < 0.5, strict=True))
    first = np.array([half[user] for user in tags.users], np.bool_)
    (one, n_one), (other, n_other) = mood_shares(tags, first, items), mood_shares(tags, ~first, items)
    enough = (n_one >= LEAST_TAGS) & (n_other >= LEAST_TAGS)
    found = {}
    for place, name in enumerate(EMOTIONS):
        a, b = one[enough, place], other[enough, place]
        varies = len(a) > 1 and a.std() > 0 and b.std() > 0
        found[name] = {
            "n_items": int(((one + other)[:, place] > 0).sum()),
            "reliability": round(float(np.corrcoef(a, b)[0, 1]), 2) if varies else None,
        }
    return {"n_items": len(items), "n_compared": int(enough.sum()), "emotions": found}


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--item-tags", type=Path, required=True, help="tags of items with the users who gave them")
    parser.add_argument("--tag-names", type=Path, help="names of the tags, if the table has ids of tags")
    parser.add_argument("--item-column", help="column of the item's id")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tags = load_tags(options.item_tags, Columns(item=options.item_column), names=options.tag_names)
    result = measure(tags, options.seed)
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    print(f"{result['n_items']:,} items, {result['n_compared']:,} with {LEAST_TAGS} tags by each half of the users")
    for name, each in result["emotions"].items():
        print(f"{name:18s} {each['n_items']:6,} items  reliability {each['reliability']}")


if __name__ == "__main__":
    main()
