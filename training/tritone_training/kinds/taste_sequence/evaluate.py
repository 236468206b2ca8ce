"""Evaluation of `taste_sequence` on the next item of each user, with baselines.

Leave-one-out: without a test file, the target is the last item of each user in the log, and it is predicted by
the network of the first training, which did not see it. With one, the history is the whole log. All items are ranked
except those that the user has listened to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from tritone_training.checkpoint import INFO
from tritone_training.data.interactions import Log, files_of
from tritone_training.evaluation import EvaluationResult, SummaryTable
from tritone_training.exceptions import DataError
from tritone_training.kind import EvaluateRequest
from tritone_training.kinds.taste_sequence.baselines import BASELINES, MOST_PLAYED, Scores, check_size
from tritone_training.kinds.taste_sequence.dataset import EvaluationBatches
from tritone_training.kinds.taste_sequence.export import load_network
from tritone_training.kinds.taste_sequence.loading import load_ordered, read_ordered
from tritone_training.kinds.taste_sequence.sequence_data import NO_TARGET, EventArrays
from tritone_training.ranking_metrics import hits_of, means, per_user, top_items

CUTS: Final = (5, 10, 20)
SELECTION_FOLDER: Final = "selection"  # in a checkpoint: the network that was not trained on the validation items
_AT_ONCE: Final = 128
_NAMES: Final = {"hr": "hit_rate", "ndcg": "ndcg"}


@dataclass(frozen=True, eq=False)
class NextItems:
    """Histories, and the item that follows each.

    Attributes:
        source: description of the data.
        histories: events before the target.
        times: (U,) time of the target, NaN if unknown.
        targets: (U,) index of the target, -1 for none.
        n_unknown: targets of unknown users, or that are no items of the checkpoint; they count as missed.
    """

    source: str
    histories: EventArrays
    times: npt.NDArray[np.float64]
    targets: npt.NDArray[np.int64]
    n_unknown: int = 0

    @property
    def users(self) -> npt.NDArray[np.int64]:
        """Indices of the users with a known target."""
        return np.flatnonzero(self.targets >= 0)


def evaluate(request: EvaluateRequest) -> EvaluationResult:
    """Evaluate the ranking of all users' next items: those of `--test`, else the validation items.

    Raises:
        DataError: the log has no order, or has no items in common with the checkpoint.
    """
    has_test = files_of(request.data).test is not None
    if request.split not in (None, "test" if has_test else "valid"):
        raise DataError(
            f"invalid --split: expected {'test' if has_test else 'valid'}, got {request.split}; "
            + ("leave --test out for the validation items" if has_test else "test items come from a file: --test FILE")
        )
    folder = request.checkpoint if has_test else _selection(request.checkpoint)
    network, info = load_network(folder)
    found = next_items(request, info)
    max_length = int(info["config"]["max_length"])
    n_items = len(info["items"])
    rows = {"taste_sequence": _metrics(found, network_scores(network, found, max_length))}
    if request.baselines:
        check_size(n_items)
        for name, baseline in BASELINES.items():
            rows[name] = _metrics(found, baseline(found.histories, found.users, n_items), masks=name != MOST_PLAYED)
    metrics = rows.pop("taste_sequence")
    table = [{"model": "taste_sequence", **_rounded(metrics)}, *({"model": k, **_rounded(v)} for k, v in rows.items())]
    return EvaluationResult(
        request.checkpoint,
        found.source,
        metrics={**metrics, **({"baselines": rows} if rows else {})},
        details={
            "split": "test" if has_test else "valid",
            "n": len(found.users) + found.n_unknown,
            "n_unknown_items": found.n_unknown,
        },
        summary=[SummaryTable("next item of each user", table)],
    )


def _selection(folder: Path) -> Path:
    """Return the checkpoint to evaluate on validation items."""
    selection = folder / SELECTION_FOLDER
    return selection if (selection / INFO).is_file() else folder


def next_items(request: EvaluateRequest, info: Mapping[str, Any]) -> NextItems:
    """Return the histories and targets of a request.

    Args:
        request: names the log, and the test items if any.
        info: content of checkpoint.json.

    Raises:
        DataError: the log has no order, or no user has a history and a target.
    """
    given = load_ordered(request, seed=int(info["seed"]))
    log = given.log
    index = {name: number for number, name in enumerate(info["items"])}
    known = np.array([index.get(name, -1) for name in log.items], np.int64)
    events = EventArrays.of(given.sequences, len(log.users), known)
    if not len(events.item):
        raise DataError(f"{log.source}: has no items in common with the checkpoint's training data")
    path = files_of(request.data).test
    if path is None:
        held_out = events.last_new()
        has = held_out >= 0
        targets = np.where(has, events.item[held_out], NO_TARGET)
        times = np.where(has, events.time[held_out], np.nan)
        found = NextItems(log.source, events.until(held_out), times, targets)
    else:
        found = _with_test(events, log, index, read_ordered(path, files_of(request.data)))
    if not len(found.users):
        raise DataError(f"{found.source}: expected a next item of at least one user of the log, got none")
    return found


def _with_test(events: EventArrays, log: Log, index: Mapping[str, int], test: Log) -> NextItems:
    """Return whole histories with the first item of each user in the test log that is new to the user."""
    if test.sequences is None:
        raise DataError(
            f"{test.source}: has neither times nor an order: expected lines `user item`, or a column of times"
        )
    rows = {name: number for number, name in enumerate(log.users)}
    targets, times = np.full(len(rows), NO_TARGET, np.int64), np.full(len(rows), np.nan)
    is_known = sparse.csr_matrix(events.listened(len(index)) > 0)
    done: set[str] = set()
    n_unknown = 0
    order = test.sequences.take(~test.sequences.skipped)
    for index_in_test, (user, item) in enumerate(zip(order.user.tolist(), order.item.tolist(), strict=True)):
        name, target = test.users[user], index.get(test.items[item], NO_TARGET)
        row = rows.get(name)
        if name in done or (row is not None and target != NO_TARGET and is_known[row, target]):
            continue
        done.add(name)
        if row is None or target == NO_TARGET:
            n_unknown += 1
        else:
            targets[row] = target
            times[row] = np.nan if order.time is None else order.time[index_in_test]
    return NextItems(f"{log.source}, {test.source}", events, times, targets, n_unknown)


def network_scores(network: torch.nn.Module, found: NextItems, max_length: int) -> Scores:
    """Return the network's scores for each user with a target (users, T), in the order of `found.users`."""
    ends = found.histories.starts[1:]
    batches = EvaluationBatches(
        found.histories, found.targets, ends, found.times, max_length=max_length, batch_size=_AT_ONCE
    )
    row_of = {user: number for number, user in enumerate(found.users.tolist())}
    scores: Scores | None = None
    for number in range(len(batches)):
        batch = batches[number]
        with torch.inference_mode():
            each = network(batch.items, batch.ages, batch.skipped)[0].numpy()
        if scores is None:
            scores = np.zeros((len(row_of), each.shape[1]), np.float32)
        scores[[row_of[user] for user in batch.users.tolist()]] = each
    assert scores is not None  # noqa: S101 - at least one user has a target
    return scores


def _metrics(found: NextItems, scores: Scores, *, masks: bool = True) -> dict[str, float]:
    """Return hr@k and ndcg@k over all users with a target, those with an unknown one included.

    Args:
        found: histories and targets.
        scores: (users, T) in the order of `found.users`; overwritten.
        masks: whether the items of the histories are left out.
    """
    users, n_items = found.users, scores.shape[1]
    consumed = sparse.csr_matrix(found.histories.listened(n_items)[users])
    wanted = sparse.csr_matrix(
        (np.ones(len(users)), (np.arange(len(users)), found.targets[users])), shape=(len(users), n_items)
    )
    hits = hits_of(top_items(scores, consumed if masks else sparse.csr_matrix(consumed.shape), CUTS[-1]), wanted)
    hits = np.concatenate([hits, np.zeros((found.n_unknown, hits.shape[1]), np.bool_)])
    values = means(per_user(hits, np.ones(len(hits), np.int64), CUTS))
    return {f"{short}@{k}": values[f"{name}@{k}"] for short, name in _NAMES.items() for k in CUTS}


def _rounded(values: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.4f}" for name, value in values.items()}
