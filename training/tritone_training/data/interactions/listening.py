"""The listening data of a training run: the log with its splits, friends, tags and metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tritone_training.data.interactions.columns import Columns
from tritone_training.data.interactions.files import ListeningFiles, files_of
from tritone_training.data.interactions.log import Log, MetadataTable, TagTable, merge_logs, pair_keys
from tritone_training.data.interactions.log_reading import keep_log, load_log
from tritone_training.data.interactions.parts_staging import ReadingWorkers
from tritone_training.data.interactions.reading import load_metadata, load_tags, read_friends
from tritone_training.data.interactions.simulated import SimulatedWorld, simulated_world
from tritone_training.data.interactions.simulated_sessions import simulated_sessions
from tritone_training.data.interactions.splitting import LogColumns, LogSelection, split_log, split_part
from tritone_training.exceptions import DataError

if TYPE_CHECKING:
    from tritone_training.kind import TrainRequest

HELD_OUT: Final = 0.1  # of the listens, once for validation and once for testing
_MOST_IN_MEMORY: Final = 5_000_000  # pairs of a log that is kept in memory besides its splits
SESSIONS: Final = "simulated:sessions"  # named in place of a log
_NO_TAGS: Final = TagTable((), (), ())


@dataclass(frozen=True, eq=False)
class ListeningData:
    """A listening log with its splits, friends, tags and metadata.

    Attributes:
        train: the training split.
        valid: the validation split, for model selection; never trained on.
        test: the test split; None if there is none.
        friends: pairs of raw user ids.
        tags: without those of held-out (user, item) pairs, which would leak the held-out listens.
        metadata: item id -> column -> text.
        report: what was read and used of each table.
        held_out_tags: the tags of held-out pairs that `tags` lacks.
        whole_log: the log that was split, large ones in files; None if the validation split is a file of its own.
    """

    train: Log
    valid: Log
    test: Log | None
    friends: list[tuple[str, str]]
    tags: TagTable
    metadata: Mapping[str, Mapping[str, str]]
    report: Mapping[str, Any] = field(default_factory=dict)
    held_out_tags: TagTable = _NO_TAGS
    whole_log: LogColumns | None = None

    def load_log(self) -> Log | None:
        """Return the log that was split, read again if it is in files; None without one (see `whole_log`)."""
        whole = self.whole_log
        return whole if whole is None or isinstance(whole, Log) else LogSelection(whole).load()

    def whole(self) -> ListeningData:
        """Return the data with all listens and tags in the training split; the other splits are unchanged."""
        held_out = [self.valid, *([] if self.test is None else [self.test])]
        log = self.load_log()
        train = merge_logs([self.train, *held_out]) if log is None else log
        return replace(
            self,
            train=train,
            tags=_joined(self.tags, self.held_out_tags),
            held_out_tags=_NO_TAGS,
            report={**self.report, "n_train": len(train), "fingerprint": train.fingerprint()},
        )

    def part(self, name: str) -> Log:
        """Return a held-out split by name.

        Raises:
            DataError: there is no such split.
        """
        parts = {"valid": self.valid, "test": self.test}
        if parts.get(name) is None:
            known = ", ".join(key for key, value in parts.items() if value is not None)
            raise DataError(f"{self.train.source}: has no split {name!r}; expected one of: {known}")
        found = parts[name]
        assert found is not None  # noqa: S101 - checked above
        return found


def columns_of(files: ListeningFiles) -> Columns:
    """Return the column names of a request."""
    return Columns(
        user=files.user_column,
        item=files.item_column,
        plays=files.plays_column,
        rating=files.rating_column,
        time=files.time_column,
        skipped=files.skipped_column,
        friend=files.friend_column,
        tag=files.tag_column,
    )


def load_listening(request: TrainRequest, workers: ReadingWorkers | None = None) -> ListeningData:
    """Return the listening data that a request names, or simulated listening over the embedded corpus.

    The log `simulated:sessions` is simulated too, with times, skips and the order of sessions.

    Args:
        workers: read the log if it is in Parquet files; the data are the same.

    Raises:
        DataError: a table cannot be read, or the log has fewer than two listeners.
    """
    files = files_of(request.data)
    _check_needs(files)
    if files.interactions is None:
        return of_world(simulated_world(seed=request.seed, progress=request.progress), seed=request.seed)
    if str(files.interactions) == SESSIONS:
        return of_world(simulated_sessions(seed=request.seed, progress=request.progress).world, seed=request.seed)
    columns = columns_of(files)
    stored = keep_log(files.interactions, columns, workers=workers)
    in_memory = files.valid is not None or len(stored) <= _MOST_IN_MEMORY
    log = stored.load() if in_memory else stored
    del stored
    test: Log | None = None
    whole = log if files.valid is None else None
    reports: dict[str, Any] = {"log": log.report}
    if files.valid is not None:
        train = log if isinstance(log, Log) else log.load()
        valid, n_known = _without_known(train, load_log(files.valid, columns))
        reports["valid"] = {**valid.report, "n_used": len(valid), "n_in_log_too": n_known, "how": "given"}
    elif log.has_events and not log.has_times:
        train, valid = split_log(log, fraction=HELD_OUT, seed=request.seed)
        reports["valid"] = {"n_used": len(valid), "how": "the last item of each listener"}
    else:
        train, test, valid = three_parts(log, request.seed)
        how = (
            "the latest (drawn among those of one moment)" if train.time is not None else "of each listener's at random"
        )
        if log.has_times and train.time is None:
            how += ", since the latest are of listeners or items without earlier listens"
        reports["valid"] = {"n_used": len(valid), "how": f"{HELD_OUT:.0%} of the listens, {how}; as many for testing"}
    if np.bincount(train.user, minlength=2).astype(np.bool_).sum() < 2:
        raise DataError(
            f"{train.source}: has one listener; expected at least two, to recommend from the listening of others"
        )
    tags = load_tags(files.item_tags, columns, names=files.tag_names) if files.item_tags else _NO_TAGS
    tags, held_out_tags = split_tags(tags, [valid, *([test] if test is not None else [])])
    friends, friend_report = read_friends(files.friends, columns) if files.friends else ([], {})
    metadata = load_metadata(files.metadata, item=files.item_column) if files.metadata else MetadataTable({})
    users, items = set(train.users), set(train.items)
    n_friends = sum(a in users and b in users for a, b in friends)
    reports["friends"] = {**friend_report, "n_used": len(friends), "n_in_log": n_friends}
    reports["tags"] = {**tags.report, "n_in_log": sum(item in items for item in tags.items)}
    reports["metadata"] = {**metadata.report, "n_in_log": sum(item in items for item in metadata.rows)}
    report = _report(train, reports)
    return ListeningData(train, valid, test, friends, tags, metadata.rows, report, held_out_tags, whole)


def _check_needs(given: ListeningFiles) -> None:
    """Check that no option would be ignored.

    Raises:
        DataError: an option is given without the file that it belongs to.
    """
    for name in ("valid", "friends", "item_tags", "metadata"):
        if getattr(given, name) is not None and given.interactions is None:
            raise DataError(f"--{name.replace('_', '-')} belongs to a log: give --interactions too, or leave it out")
    for name in ("user", "item", "plays", "rating", "time", "skipped"):
        if getattr(given, f"{name}_column") is not None and given.interactions is None:
            raise DataError(f"--{name}-column names a column of a log: give --interactions too, or leave it out")
    if given.tag_names is not None and given.item_tags is None:
        raise DataError("--tag-names holds the names of --item-tags: give these too, or leave it out")
    if given.tag_column is not None and given.item_tags is None:
        raise DataError("--tag-column names a column of --item-tags: give these too, or leave it out")
    if given.friend_column is not None and given.friends is None:
        raise DataError("--friend-column names a column of --friends: give these too, or leave it out")


def _without_known(train: Log, valid: Log) -> tuple[Log, int]:
    """Return the validation pairs that are not in the training log, and the number of those that are.

    Raises:
        DataError: all validation pairs are in the training log.
    """
    kept = ~_are_pairs(valid.users, valid.items, valid.user, valid.item, train)
    if not kept.any():
        raise DataError(
            f"{valid.source}: all {len(valid)} of its listens are in {train.source} too; --valid has to hold listens "
            f"that the log does not"
        )
    return valid.take(kept), int((~kept).sum())


def _are_pairs(
    users: Sequence[str], items: Sequence[str], user: npt.NDArray[Any], item: npt.NDArray[Any], log: Log
) -> npt.NDArray[np.bool_]:
    """Return which pairs of (indices of) user and item are pairs of a log.

    Args:
        users: ids that `user` refers to.
        items: ids that `item` refers to.
    """
    user_of = {name: index for index, name in enumerate(log.users)}
    item_of = {name: index for index, name in enumerate(log.items)}
    known_user = np.array([user_of.get(name, -1) for name in users] or [-1], np.int64)[user]
    known_item = np.array([item_of.get(name, -1) for name in items] or [-1], np.int64)[item]
    keys = pair_keys(known_user, known_item, len(log.items))
    found: npt.NDArray[np.bool_] = (known_user >= 0) & (known_item >= 0) & np.isin(keys, log.pair_keys())
    return found


def of_world(world: SimulatedWorld, *, seed: int) -> ListeningData:
    """Return simulated listening with training, validation and test splits."""
    train, test, valid = three_parts(world.log, seed)
    tags, held_out_tags = split_tags(world.tags, [valid, test])
    report = _report(train, {"log": world.log.report})
    return ListeningData(train, valid, test, world.friends, tags, world.metadata, report, held_out_tags, world.log)


def three_parts(log: LogColumns, seed: int) -> tuple[Log, Log, Log]:
    """Return (train, test, valid); the test split is made first, so that it has the latest listens.

    If none of the latest listens is of a listener and an item of the earlier ones, as in a log that is sorted by
    listener, times are ignored and the listens of each listener are split at random.
    """
    train, test, valid = _three_parts(LogSelection(log), seed)
    return train.load(), test.load(), valid.load()


def _three_parts(log: LogSelection, seed: int) -> tuple[LogSelection, LogSelection, LogSelection]:
    rest, test = split_part(log, fraction=HELD_OUT, seed=seed)
    train, valid = split_part(rest, fraction=HELD_OUT / (1 - HELD_OUT), seed=seed + 1)
    if log.has_times and not (_can_evaluate(train, valid) and _can_evaluate(train, test)):
        return _three_parts(log.without_order(), seed)
    return train, test, valid


def _can_evaluate(train: LogSelection, held_out: LogSelection) -> bool:
    """Return whether any held-out listen is of a listener and an item of the training split."""
    are_known = []
    for name in ("user", "item"):
        known, wanted = train.required(name), held_out.required(name)
        is_known = np.zeros(int(max(known.max(initial=0), wanted.max(initial=0))) + 1, np.bool_)
        is_known[known] = True
        are_known.append(is_known[wanted])
    return bool((are_known[0] & are_known[1]).any())


def without_pairs(tags: TagTable, held_out: list[Log]) -> TagTable:
    """Return the tags without those of held-out (user, item) pairs: a user who tags an item has listened to it."""
    return split_tags(tags, held_out)[0]


def split_tags(tags: TagTable, held_out: list[Log]) -> tuple[TagTable, TagTable]:
    """Return the tags of other pairs than the held-out (user, item) pairs, and those of the held-out pairs."""
    n = np.arange(len(tags))
    is_held_out = np.zeros(len(tags), np.bool_)
    for log in held_out if len(tags) and any(tags.users) else ():
        is_held_out |= _are_pairs(tags.users, tags.items, n, n, log)
    report = {**tags.report, "n_of_held_out_pairs_left_out": int(is_held_out.sum())}
    return _taken(tags, (~is_held_out).tolist(), report), _taken(tags, is_held_out.tolist(), {})


def _taken(tags: TagTable, kept: Sequence[bool], report: Mapping[str, Any]) -> TagTable:
    items, names, users = (list(compress(column, kept)) for column in (tags.items, tags.tags, tags.users))
    return TagTable(items, names, users, report)


def _joined(tags: TagTable, more: TagTable) -> TagTable:
    return TagTable([*tags.items, *more.items], [*tags.tags, *more.tags], [*tags.users, *more.users], tags.report)


def _report(train: Log, reports: Mapping[str, Any]) -> dict[str, Any]:
    log = reports["log"]
    return {
        "source": train.source,
        "n_in": log["n_in"],
        "n_used": log["n_used"],
        "n_train": len(train),
        "fingerprint": train.fingerprint(),
        "licence": log.get("licence", "unknown: the user's own data"),
        "parts": dict(reports),
    }
