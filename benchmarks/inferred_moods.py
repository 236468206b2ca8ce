"""Measure recommendations with moods that are given, inferred from the last plays, or unknown, on simulated sessions.

    python -m benchmarks.inferred_moods [--listeners 800] [--seeds 3] [--out docs/benchmarks] [--json]

Half of the simulated listeners choose by a mood that follows the hour, the others do not. Training and test are divided
by time. A query asks for the next new item of a listener who played something in the last two hours, and the metric is
NDCG@10 over all items, by listeners with and without moods. The strength of inferred moods is chosen on the validation
split, as in `tritone train recommender`. The moods of the items are the simulated ones with noise, so that their
correlation with the truth is about that of `genre_cnn` with listeners' answers (0.4 to 0.5). `taste_vae` is left out.

    none       moods are ignored
    inferred   from the last plays, with the chosen strength
    given      the true mood of the session, with a strength of 1
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone.constants import EMOTIONS
from tritone_serving.recommender import Recommender, write_artifact
from tritone_serving.recommender.artifact import INFERRED_MOOD
from tritone_training.data.interactions.listening import of_world
from tritone_training.data.interactions.simulated_sessions import SimulatedSessions, simulated_sessions
from tritone_training.hyperparameters import from_preset
from tritone_training.kinds.recommender.config import PRESETS
from tritone_training.kinds.recommender.ensemble.inferred_moods import (
    STRENGTHS,
    MoodQueries,
    gains_by_strength,
    inference_of_strength_1,
    mood_queries,
    select_mood_inference,
)
from tritone_training.kinds.recommender.ensemble.model_selection import NOTHING_LEARNED, select_ensemble
from tritone_training.kinds.recommender.fitting.base_models import fit_base_models, manifest_of
from tritone_training.kinds.recommender.fitting.interaction_dataset import build_dataset

KEY = b"a key for simulated listeners"
RESULT = "inferred-moods.json"
NOISE = 2.0  # standard deviations, for a correlation of 0.45
WITHIN_S = 7_200.0


def measure(sessions: SimulatedSessions, seed: int) -> dict[str, Any]:
    """Fit on the training split, choose on validation, and return NDCG@10 on the test split by way and segment."""
    listening = of_world(sessions.world, seed=seed)
    assert listening.test is not None
    config = from_preset(PRESETS, "default", {"taste_vae": False})
    dataset = build_dataset(listening, config, KEY)
    parts = fit_base_models(dataset, config, metadata=listening.metadata, on_step=lambda step: lambda done, total: None)
    parts.arrays["items.moods"] = noisy_moods(sessions, dataset.items, seed)
    parts.base_models["mood"] = {"kind": "mood"}
    manifest = manifest_of(parts, dataset, config, KEY)
    with tempfile.TemporaryDirectory(prefix="tritone-moods-") as temporary:
        folder = Path(temporary)
        write_artifact(folder, {**manifest, "ensembles": NOTHING_LEARNED}, parts.arrays)
        chosen = select_ensemble(
            Recommender.open(folder, key=KEY), {}, listening, dataset, config, seed=seed, on_progress=lambda *_: None
        )
        for name, scale in chosen.scales.items():
            parts.base_models[name]["scale"] = scale
        learned = {**manifest, "ensembles": chosen.ensembles, INFERRED_MOOD: inference_of_strength_1()}
        write_artifact(folder, learned, parts.arrays)
        recommender = Recommender.open(folder, key=KEY)
        selected = select_mood_inference(recommender, {}, listening.train, listening.valid, seed=seed)
        assert selected is not None
        before = listening.train
        queries = mood_queries(recommender, before, listening.test, WITHIN_S)
        gains = gains_by_strength(recommender, {}, queries)
        given = gains_by_strength(recommender, {}, with_true_moods(queries, sessions))
    column = STRENGTHS.index(selected["strength"])
    ways = {"none": gains[:, 0], "inferred": gains[:, column], "given": given[:, STRENGTHS.index(1.0)]}
    numbers = {name: number for number, name in enumerate(sessions.world.log.users)}
    names = listening.test.users
    mooded = np.array([sessions.has_moods[numbers[names[user]]] for user in queries.users.tolist()])
    segments = {"with moods": mooded, "without moods": ~mooded}
    return {
        "strength": selected["strength"],
        "validation": selected["ndcg@10"],
        **{
            segment: {
                "n": int(kept.sum()),
                **{way: round(float(each[kept].mean()), 4) for way, each in ways.items()},
                "gain": round(float((ways["inferred"] - ways["none"])[kept].mean()), 4),
                "error": round(standard_error((ways["inferred"] - ways["none"])[kept], queries.users[kept]), 4),
            }
            for segment, kept in segments.items()
        },
    }


def noisy_moods(sessions: SimulatedSessions, items: list[str] | tuple[str, ...], seed: int) -> npt.NDArray[np.float32]:
    """Return the standardised moods of the items with noise (I, 9), as a network would predict them."""
    truth = sessions.item_moods
    indices = {name: index for index, name in enumerate(sessions.world.log.items)}
    known = np.array([indices[name] for name in items])
    fits = ((truth - truth.mean(0)) / truth.std(0))[known]
    noisy = fits + np.random.default_rng(seed + 1_000).normal(0, NOISE, fits.shape)
    moods: npt.NDArray[np.float32] = ((noisy - noisy.mean(0)) / noisy.std(0)).astype(np.float32)
    return moods


def with_true_moods(queries: MoodQueries, sessions: SimulatedSessions) -> MoodQueries:
    """Return the queries with the mood of the session in which the listener played the target."""
    log = sessions.world.log
    assert log.sequences is not None
    assert log.sequences.time is not None
    keys = zip(log.sequences.user.tolist(), log.sequences.time.tolist(), strict=True)
    moods = dict(zip(keys, sessions.mood.tolist(), strict=True))
    numbers = {name: number for number, name in enumerate(log.users)}
    requests = [
        replace(each, mood=EMOTIONS[moods[numbers[str(each.user)], float(each.at_s or 0)]]) for each in queries.requests
    ]
    return replace(queries, requests=requests)


def standard_error(values: npt.NDArray[np.float64], users: npt.NDArray[np.int64]) -> float:
    """Return the standard error of the mean of a difference, by users."""
    _, index = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(index, values), np.bincount(index)
    off = sums - values.mean() * counts
    return float(np.sqrt((off**2).sum()) / counts.sum())


def main() -> None:
    """Measure, print a table, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listeners", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3, help="number of simulations")
    parser.add_argument("--out", type=Path, help=f"folder for {RESULT}")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for seed in range(options.seeds):
        sessions = simulated_sessions(seed=seed, n_listeners=options.listeners, mood_share=0.5, progress=False)
        results.append({"seed": seed, **measure(sessions, seed)})
        if not options.json:
            print(json.dumps(results[-1]), flush=True)
    if options.out is not None:
        (options.out / RESULT).write_text(
            json.dumps({"listeners": options.listeners, "runs": results}, indent=1) + "\n"
        )
    if options.json:
        sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
