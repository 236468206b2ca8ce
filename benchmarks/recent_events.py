"""Measure how well recorded events are folded into recommendations, by half-life and boost, on simulated sessions.

    python -m benchmarks.recent_events [--listeners N] [--seed S] [--json]

Listeners, drift, moods, skips and order are simulated (`tritone_training.data.interactions.simulated_sessions`). A
recommender is fitted on the first 70 of 84 days. The events after that are recorded one after the other; before each
play of a piece that is new to the listener, the next piece is recommended from the log and the events so far. NDCG@10
has one relevant item. Half of the listeners choose the parameters, the other half is reported.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from tritone_serving.events import Event
from tritone_serving.recommender import Recommender, RecommendRequest, RecommendResponse, read_key
from tritone_serving.recommender.recent_events import MOST_EVENTS, EventWeighting, RecentEvents
from tritone_training import ListeningFiles, train
from tritone_training.data.interactions.simulated_sessions import BEGIN_S, simulated_sessions

FITTED_S = 70 * 86_400.0
HALF_LIVES_S = (3_600.0, 6 * 3_600.0, 2 * 86_400.0, 7 * 86_400.0)
BOOSTS = (1.0, 2.0, 4.0, 8.0)
K = 10
AT_ONCE = 256


@dataclass(frozen=True)
class Query:
    """A recommendation before a play.

    Attributes:
        events: recorded until then, oldest first.
        at: time of the play, in seconds since the epoch.
        track: that was played.
    """

    user: str
    events: Sequence[Event]
    at: float
    track: str


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listeners", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tritone-events-") as folder:
        result = measure(Path(folder), n_listeners=arguments.listeners, seed=arguments.seed)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    print(f"{result['n_listeners']} simulated listeners, {result['n_queries']} recommendations; NDCG@{K}")
    print(f"{'':38s}  chosen on  reported on")
    for row in result["rows"]:
        print(f"{row['name']:38s}  {row['chosen_on']:9.4f}  {row['reported_on']:9.4f} ± {row['standard_error']:.4f}")


def measure(folder: Path, *, n_listeners: int, seed: int) -> dict[str, object]:
    """Fit a recommender on the first days and return NDCG@10 by weighting."""
    log = simulated_sessions(seed=seed, n_listeners=n_listeners, progress=False).world.log
    sequences = log.sequences
    assert sequences is not None
    assert sequences.time is not None
    table = pd.DataFrame(
        {
            "user": np.array(log.users)[sequences.user],
            "item": np.array(log.items)[sequences.item],
            "time": sequences.time,
            "skipped": sequences.skipped,
        }
    )
    is_fitted = table.time < BEGIN_S + FITTED_S
    fitted = table[is_fitted & ~table.skipped]
    fitted[["user", "item", "time"]].to_csv(folder / "log.csv", index=False)
    listening = ListeningFiles(key=folder / "key", user_column="user", item_column="item", time_column="time")
    checkpoint = folder / "checkpoint"
    train(
        "recommender",
        interactions=folder / "log.csv",
        listening=listening,
        out=checkpoint,
        preset="demo",
        settings={"taste_vae": False, "n_listed": 0},
        seed=seed,
        refit_on_all=True,
        progress=False,
    )
    recommender = Recommender.open(checkpoint / "artifact", key=read_key(folder / "key"))
    queries = list(queries_of(table[~is_fitted], known=fitted.groupby("user").item.agg(set).to_dict()))
    names = sorted({query.user for query in queries})
    chooses = set(np.random.default_rng(seed).permutation(names)[: len(names) // 2].tolist())
    base = EventWeighting.from_manifest(recommender.artifact.manifest)
    variants: dict[str, EventWeighting | None] = {"without events": None}
    variants["plays as in the log, no skips"] = replace(base, half_life_s=math.inf, boost=0.0, skip=0.0)
    for half_life_s in HALF_LIVES_S:
        for boost in BOOSTS:
            name = f"half-life {half_life_s / 3_600:.0f} h, boost {boost:g}"
            variants[name] = replace(base, half_life_s=half_life_s, boost=boost)
    variants["the default"] = base
    variants["the default, no skips"] = replace(base, skip=0.0)
    rows = []
    is_choosing = np.array([query.user in chooses for query in queries])
    for name, weighting in variants.items():
        gains = np.array(list(gains_of(recommender, queries, weighting)))
        reported = gains[~is_choosing]
        rows.append(
            {
                "name": name,
                "chosen_on": float(gains[is_choosing].mean()),
                "reported_on": float(reported.mean()),
                "standard_error": float(reported.std() / math.sqrt(len(reported))),
            }
        )
    return {"n_listeners": n_listeners, "n_queries": len(queries), "seed": seed, "rows": rows}


def queries_of(later: pd.DataFrame, *, known: dict[str, set[str]]) -> Iterator[Query]:
    """Yield a query for each play of a piece that the listener has not played before, except for the first event."""
    for user, events in later.groupby("user"):
        recorded: list[Event] = []
        played = set(known.get(str(user), ()))
        for number, (item, at, skipped) in enumerate(zip(events.item, events.time, events.skipped, strict=True)):
            if not skipped and item not in played and recorded:
                yield Query(str(user), tuple(recorded[-MOST_EVENTS:]), at, item)
            recorded.append(Event(f"{number:032x}", "0" * 32, item, "skip" if skipped else "play", at, received=at))
            if not skipped:
                played.add(item)


def gains_of(recommender: Recommender, queries: Sequence[Query], weighting: EventWeighting | None) -> Iterator[float]:
    """Yield NDCG@10 of each query; events are not used if the weighting is None."""
    for start in range(0, len(queries), AT_ONCE):
        for query in queries[start : start + AT_ONCE]:
            request = RecommendRequest(user=query.user, k=K, at_s=query.at)
            recent = None
            if weighting is not None:
                recommender.resolver.event_weighting = weighting
                recent = RecentEvents([query.events])
            [answer] = recommender.respond(recommender.resolve([request], recent=recent))
            assert isinstance(answer, RecommendResponse)
            yield 1 / math.log2(2 + answer.items.index(query.track)) if query.track in answer.items else 0.0


if __name__ == "__main__":
    main()
