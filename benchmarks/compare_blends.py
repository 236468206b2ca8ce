"""Compare ways of combining the recommender's base models: weighted sums, more base models, and a learned ranker.

```
pip install lightgbm    # for the ranker; left out without it
python -m benchmarks.compare_blends --checkpoint runs/lastfm --interactions user_artists_train.dat \
    --valid user_artists_valid.dat --user-column userID --item-column artistID --plays-column weight
```
The checkpoint must have been trained on the log with the same `--valid`, so that tags of its pairs are left out. Every
combination is cross-fitted: learned on the validation listens of one half of the users, and evaluated on those of the
other half, for several random halves. Differences to the weighted sum are paired by user, with standard errors over
users. Choosing among many combinations on the same users favours the luckiest, so small differences need other data.
Shapes: B users with held-out listens, I items, Q candidates of all users, M base models.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.arguments import count
from benchmarks.recommender_members import MEMBERS
from tritone_serving.recommender import RecommendRequest
from tritone_serving.recommender.ensemble import BIAS, log_scaled
from tritone_training.data.interactions import columns_of, load_log
from tritone_training.data.interactions.files import ListeningFiles
from tritone_training.kinds.recommender.ensemble.offline import open_recommender, score_in_chunks
from tritone_training.kinds.recommender.ensemble.weight_fitting import (
    MAY_BE_NEGATIVE,
    SOFTNESS,
    Candidates,
    Collector,
    WeightProblem,
    hits_of_users,
    most_likely,
    problem_of,
    ranks_of,
    scales_of,
)
from tritone_training.kinds.recommender.evaluate import EvaluationUsers, evaluation_users
from tritone_training.kinds.taste_vae.train import weigh_rows
from tritone_training.ranking_metrics import per_user

Floats = npt.NDArray[np.float64]
N_GROUPS = 40  # of items, whose maxima make up the scale of a request
N_RERANKED = 150
N_TIMED = 100
RANKER = {
    "objective": "lambdarank",
    "lambdarank_truncation_level": 40,
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "max_bin": 63,
    "num_threads": 1,
    "deterministic": True,
    "seed": 0,
    "verbose": -1,
}
N_TREES = 80


@dataclass(frozen=True, eq=False)
class Scores:
    """Candidates of all users with the scores of all base models, and what else the combinations use.

    Attributes:
        candidates: the Q candidates.
        tops: base model -> (B,) mean of the largest scores of `N_GROUPS` groups of items.
        popularity_of_history: (B,) mean share of listeners of the items in each history, standardised.
        n_history: (B,) number of items in each history.
        served: names of the base models of the checkpoint.
    """

    candidates: Candidates
    tops: Mapping[str, Floats]
    popularity_of_history: Floats
    n_history: npt.NDArray[np.int64]
    served: tuple[str, ...]


def collect(arguments: argparse.Namespace) -> tuple[Scores, float]:
    """Score the users with held-out listens; also returns the median time of one request, in milliseconds."""
    files = ListeningFiles(
        user_column=arguments.user_column, item_column=arguments.item_column, plays_column=arguments.plays_column
    )
    log, held_out = (load_log(path, columns_of(files)) for path in (arguments.interactions, arguments.valid))
    recommender, taste = open_recommender(arguments.checkpoint)
    people = evaluation_users(recommender, log, held_out)
    known = [recommender.resolver.user(name) for name in people.names]
    if min(known) < 0:
        raise SystemExit("some users of --valid are not in the checkpoint: expected the one trained on --interactions")
    power = float(recommender.artifact.manifest["weighting"]["power"])
    weights = weigh_rows(recommender.artifact.rows("history").to_csr(recommender.artifact.n_items), power)
    more = {name: fit(weights, np.array(known)) for name, fit in MEMBERS.items()}
    shares = np.asarray(recommender.artifact.arrays["popularity.shares"], np.float64)
    is_cold = np.arange(len(shares)) >= recommender.scorer.n_listened
    collector = Collector(people.consumed, people.wanted, people.n_held_out, is_cold)
    tops: dict[str, list[Floats]] = {}
    served: tuple[str, ...] = ()
    requests = [RecommendRequest(user=name) for name in people.names]
    for rows, base_models, _ in score_in_chunks(recommender, taste, requests):
        served = tuple(base_models)
        scores = base_models | {name: each[rows] for name, each in more.items()}
        collector.add(rows, scores)
        for name, each in scores.items():
            tops.setdefault(name, []).append(_tops(each, people, rows))
    times_s = []
    for request in requests[:N_TIMED]:
        began_s = time.perf_counter()
        list(score_in_chunks(recommender, taste, [request]))
        times_s.append(time.perf_counter() - began_s)
    n_history = np.diff(people.consumed.indptr)
    mean = np.asarray(people.consumed.astype(np.bool_) @ shares).ravel() / np.maximum(n_history, 1)
    return Scores(
        collector.finish(),
        {name: np.concatenate(each) for name, each in tops.items()},
        (mean - mean.mean()) / max(float(mean.std()), 1e-9),
        n_history,
        served,
    ), float(np.median(times_s)) * 1e3


def _tops(scores: npt.NDArray[np.float32], people: EvaluationUsers, rows: slice) -> Floats:
    """Return the mean of the largest scores of groups of items (b,), without items of the history."""
    consumed = people.consumed[rows]
    new = np.maximum(scores, 0)
    new[consumed.nonzero()] = 0
    n = len(new[0]) // N_GROUPS * N_GROUPS
    return np.asarray(new[:, :n].reshape(len(new), -1, N_GROUPS).max(1).mean(1), np.float64)


def weighted_sum(scores: Scores, base_models: tuple[str, ...], *, by_request: bool = False) -> WeightProblem:
    """Build the features of a weighted sum.

    Args:
        by_request: divide each base model's scores by a scale of the request instead of one of all requests.
    """
    candidates, scales = scores.candidates, scales_of(scores.candidates)
    problem = problem_of(candidates, base_models, scales)
    columns = dict(problem.columns)
    if by_request:
        for (name, kind), _ in problem.columns.items():
            if name != BIAS and scales[name]:
                tops = SOFTNESS * scores.tops[name]
                scale = np.where(tops > 0, tops, scales[name])[candidates.users]
                logs = log_scaled((candidates.features[name] / scale).astype(np.float32), 1.0)
                columns[name, kind] = np.where(candidates.cold == kind, logs, 0).astype(np.float32)
    return WeightProblem(candidates, columns)


def fitted(problem: WeightProblem, users: npt.NDArray[np.bool_]) -> Floats:
    """Return the scores of all candidates by the weights that are likeliest for some users (Q,)."""
    kept = users[problem.candidates.users]
    columns = {key: column[kept] for key, column in problem.columns.items()}
    part = WeightProblem(problem.candidates.of_users(users), columns)
    return problem.total(most_likely(part, MAY_BE_NEGATIVE))


def ranker_features(scores: Scores, total: Floats, base_models: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """Return the features of the learned ranker (Q, F): scores and ranks of everything, and the user's history."""
    candidates, scales = scores.candidates, scales_of(scores.candidates)
    users = candidates.users
    first = np.flatnonzero(np.diff(users, prepend=-1))
    best = np.maximum.reduceat(total, first)[np.searchsorted(users[first], users)]
    columns = [total, total - best, np.log1p(ranks_of(candidates, total)), candidates.cold]
    for name in base_models:
        features = candidates.features[name]
        columns += [log_scaled(features, scales[name]), np.log1p(ranks_of(candidates, features))]
    columns += [scores.popularity_of_history[users], np.log1p(scores.n_history[users])]
    return np.stack(columns, 1).astype(np.float32)


def reranked(
    lightgbm: Any, scores: Scores, total: Floats, base_models: tuple[str, ...], users: npt.NDArray[np.bool_]
) -> tuple[Floats, float]:
    """Rerank the best candidates of a weighted sum by LambdaMART; returns scores (Q,) and the time of one request, ms.

    The ranker's output is added to the weighted sum, both standardised, because the ranker alone is worse.
    """
    candidates = scores.candidates
    near = ranks_of(candidates, total) < N_RERANKED
    features = ranker_features(scores, total, base_models)
    part = near & users[candidates.users]
    sizes = np.diff(np.flatnonzero(np.diff(candidates.users[part], prepend=-1)), append=int(part.sum()))
    data = lightgbm.Dataset(features[part], candidates.wanted[part].astype(int), group=sizes, free_raw_data=False)
    model = lightgbm.train(RANKER, data, N_TREES)
    added = model.predict(features[near])
    found = total - 1e6
    found[near] = total[near] / total[near].std() + added / added.std()
    one = features[near][:N_RERANKED]
    began_s = time.perf_counter()
    for _ in range(N_TIMED):
        model.predict(one, num_threads=1)
    return found, (time.perf_counter() - began_s) / N_TIMED * 1e3


def compare(scores: Scores, n_seeds: int, without: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    """Return the cross-fitted metrics of every combination, and their differences to the first one.

    Args:
        n_seeds: number of random halves of the users.
        without: base models to leave out, one at a time; None for each of them.
    """
    served = scores.served
    everything = (*served, *MEMBERS)
    sums: dict[str, Callable[[], WeightProblem]] = {
        "weighted sum": partial(weighted_sum, scores, served),
        **{
            f"without {name}": partial(weighted_sum, scores, tuple(each for each in served if each != name))
            for name in (served if without is None else without)
        },
        "scale of each request": partial(weighted_sum, scores, served, by_request=True),
        **{f"with {name}": partial(weighted_sum, scores, (*served, name)) for name in MEMBERS},
        "with all of these": partial(weighted_sum, scores, everything),
    }
    rows = {name: Row.empty(scores.candidates) for name in sums}
    halves = _halves(scores, n_seeds)
    for name, build in sums.items():
        problem = build()
        for users in halves:
            rows[name].add(scores.candidates, fitted(problem, users), ~users, n_seeds)
    lightgbm = _lightgbm()
    problem = sums["weighted sum"]()
    for name, base_models in (("ranker", served), ("ranker, more base models", everything)) if lightgbm else ():
        rows[name] = Row.empty(scores.candidates)
        for users in halves:
            found, took_ms = reranked(lightgbm, scores, fitted(problem, users), base_models, users)
            rows[name].add(scores.candidates, found, ~users, n_seeds)
            rows[name].cost_ms = took_ms
    return [{"combination": name, **row.to_dict(rows["weighted sum"])} for name, row in rows.items()]


def _halves(scores: Scores, n_seeds: int) -> list[npt.NDArray[np.bool_]]:
    """Return the users to learn from (B,), two complementary halves for each seed."""
    n = len(scores.n_history)
    found = []
    for seed in range(n_seeds):
        half = np.random.default_rng(seed).permutation(n) % 2 == 0
        found += [half, ~half]
    return found


def _lightgbm() -> Any:
    try:
        return importlib.import_module("lightgbm")  # not a dependency of the project
    except ImportError:
        return None


@dataclass
class Row:
    """Metrics of one combination by user, means over the seeds.

    Attributes:
        metrics: name -> (B,).
        cost_ms: time that the combination adds to a request; 0 if not measured.
    """

    metrics: dict[str, Floats]
    cost_ms: float = 0.0

    @classmethod
    def empty(cls, candidates: Candidates) -> Row:
        n = len(candidates.n_held_out)
        return cls({name: np.zeros(n) for name in ("ndcg@10", "recall@40")})

    def add(self, candidates: Candidates, total: Floats, users: npt.NDArray[np.bool_], n_seeds: int) -> None:
        """Add the metrics of the users that were not learned from."""
        values = per_user(hits_of_users(candidates, ranks_of(candidates, total)), candidates.n_held_out, (10, 40))
        for name, each in self.metrics.items():
            each[users] += values[name][users] / n_seeds

    def to_dict(self, reference: Row) -> dict[str, Any]:
        """Return means, and differences to another combination with their standard errors."""
        found: dict[str, Any] = {}
        for name, each in self.metrics.items():
            difference = each - reference.metrics[name]
            found |= {
                name: round(float(each.mean()), 4),
                f"{name} difference": round(float(difference.mean()), 4),
                f"{name} standard error": round(float(difference.std()) / len(each) ** 0.5, 4),
            }
        return found | {"added_ms": round(self.cost_ms, 2)}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the comparison as a Markdown table."""
    lines = ["| combination | NDCG@10 | difference | recall@40 | difference |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [
            f"{row[name]:.4f} | {row[f'{name} difference']:+.4f} ± {row[f'{name} standard error']:.4f}"
            for name in ("ndcg@10", "recall@40")
        ]
        lines.append(f"| {' | '.join([row['combination'], *cells])} |")
    return "\n".join(lines)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a trained recommender")
    parser.add_argument("--interactions", type=Path, required=True, help="the log it was trained on")
    parser.add_argument("--valid", type=Path, required=True, help="its held-out listens")
    for name in ("user", "item", "plays"):
        parser.add_argument(f"--{name}-column", help="name of the column, in both files")
    parser.add_argument("--seeds", type=count, default=3, help="number of random halves of the users")
    parser.add_argument("--without", nargs="*", metavar="NAME", help="base models to leave out in turn; default: all")
    parser.add_argument("--json", type=Path, help="write the result to this file, too")
    arguments = parser.parse_args()
    scores, request_ms = collect(arguments)
    unknown = sorted(set(arguments.without or ()) - set(scores.served))
    if unknown:
        parser.error(f"unknown base models {', '.join(unknown)}: expected some of {', '.join(scores.served)}")
    rows = compare(scores, arguments.seeds, None if arguments.without is None else tuple(arguments.without))
    print(markdown(rows))
    print(f"\none request, all base models in this process: {request_ms:.1f} ms (p50)")
    for row in rows:
        if row["added_ms"]:
            print(f"{row['combination']}: {row['added_ms']:.2f} ms more for its trees")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"rows": rows, "request_ms": request_ms}, indent=2) + "\n")


if __name__ == "__main__":
    main()
