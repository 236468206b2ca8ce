"""Clean the staged rows of a log: leave out invalid rows and bots, and count the plays of each pair of user and item.

The rows are grouped user by user, a range of users at a time, so that memory does not grow with the log.

Shapes: U users, I items and E pairs before the filters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_training.data.interactions.scratch import Scratch
from tritone_training.data.interactions.staged_cells import HAS_LINES, IS_MISSING, IS_NOT_UTF8, StagedLog
from tritone_training.data.interactions.stored_log import ColumnFiles, StoredLog
from tritone_training.data.interactions.user_sequences import MOST_EVENTS
from tritone_training.exceptions import DataError

_FEWEST_BOT_ITEMS: Final = 1_000
_BYTES_A_ROW: Final = 400  # of memory, for a row of the range that is grouped and sorted
_FEWEST_ROWS: Final = 50_000  # of a range
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CleaningRules:
    """Thresholds of the cleaning; the support filters are off by default.

    Attributes:
        most_plays: largest plausible count of one item by one user: one play every three seconds for a century.
        least_rating: smallest rating that counts as listening, if the log has ratings.
        bot_factor: multiple of the median number of items above which a user is a bot; 0 keeps all users.
        most_events: latest events of each user that are kept in order; 0 keeps all.
    """

    most_plays: float = 1e9
    least_rating: float | None = None
    bot_factor: float = 100.0
    min_items_per_user: int = 1
    min_users_per_item: int = 1
    most_events: int = MOST_EVENTS


@dataclass(frozen=True)
class LogTraits:
    """What a log has besides users and items.

    Attributes:
        has_ratings: whether the counts are ratings, of which the mean is taken.
        has_skips: whether rows may be skips or dislikes instead of listens.
        is_ordered: whether the rows of each user are in order of time although there are no times.
    """

    has_ratings: bool = False
    has_times: bool = False
    has_skips: bool = False
    is_ordered: bool = False


def clean(
    scratch: Scratch,
    source: str,
    staged: StagedLog,
    traits: LogTraits,
    *,
    folder: Path,
    rules: CleaningRules,
    report: Mapping[str, Any],
) -> StoredLog:
    """Apply the rules to the table `rows`, and write the log to a folder.

    Args:
        folder: an existing folder.
        report: entries from reading the table, for the log's report.

    Raises:
        DataError: no rows are left, or space runs out.
    """
    rows = _Rows.grouped() if staged.is_grouped else _Rows()
    dropped = _judge(scratch, traits, rules, rows)
    n_of_kind = f"{rows.number} FILTER (NOT skipped), {rows.number} FILTER (skipped)"
    found = scratch.run(f"SELECT {n_of_kind} FROM judged WHERE reason IS NULL")[0]
    n_listens, n_skips = (int(n or 0) for n in found)
    ranges = ranges_of_users(staged.n_rows_of_user, max(scratch.memory_bytes // _BYTES_A_ROW, _FEWEST_ROWS))
    with scratch.errors():
        counted = ColumnFiles(folder / "counted")
        n_pairs, n_rated_low = _count(scratch, traits, rules, ranges, counted, rows=rows)
        if n_rated_low:
            dropped["rating_too_low"] = n_rated_low
        user, item = counted.read("user"), counted.read("item")
        kept = _kept(user, item, rules, dropped)
        is_user, is_item = (
            _used(codes[kept], n) for codes, n in ((user, len(staged.users)), (item, len(staged.items)))
        )
        full_report = {
            **report,
            "source": source,
            "n_in": staged.n_rows,
            "n_used": int(kept.sum()),
            "n_merged": n_listens - n_pairs - n_rated_low,
            "dropped": dropped,
            "n_users": int(is_user.sum()),
            "n_items": int(is_item.sum()),
            "has_times": traits.has_times,
            **({"n_skips": n_skips} if traits.has_skips else {}),
            **({"is_ordered": True} if traits.is_ordered else {}),
            "rules": asdict(rules),
        }
        if not kept.any():
            why = ", ".join(f"{reason} {n}" for reason, n in dropped.items()) or "it has a header and no rows"
            raise DataError(f"{source}: no rows are left of {staged.n_rows} after cleaning ({why})")
        files = ColumnFiles(folder)
        files.write("user", _renumbered(is_user)[user[kept]])
        del user
        files.write("item", _renumbered(is_item)[item[kept]])
        del item
        for name in ("plays", *(("time", "last_time") if traits.has_times else ())):
            files.write(name, counted.read(name)[kept])
        counted.remove()
        if traits.has_times or traits.is_ordered:
            _write_events(
                scratch, traits, ranges, files, is_user=is_user, is_item=is_item, most_events=rules.most_events
            )
    return StoredLog(
        folder,
        source,
        [name for name, is_there in zip(staged.users, is_user.tolist(), strict=True) if is_there],
        [name for name, is_there in zip(staged.items, is_item.tolist(), strict=True) if is_there],
        int(kept.sum()),
        traits.has_times,
        traits.has_times or traits.is_ordered,
        full_report,
    )


@dataclass(frozen=True)
class _Rows:
    """SQL expressions of a group of the table `rows`: the number of rows, and the sum of their plays.

    Sums with compensation do not depend on the order of the rows, once they are rounded to 32 bits.
    """

    number: str = "count(*)"
    plays: str = "fsum(plays)"

    @classmethod
    def grouped(cls) -> _Rows:
        """Return the expressions for rows that stand for `n` equal ones."""
        return cls("sum(n)", "fsum(plays * n)")


def _judge(scratch: Scratch, traits: LogTraits, rules: CleaningRules, rows: _Rows) -> dict[str, int]:
    """Create the view `judged`: the rows with the first reason to leave them out; return the rows of each reason."""
    reasons = {
        "no_user": f"user_fault = {IS_MISSING}",
        "no_item": f"item_fault = {IS_MISSING}",
        "id_not_utf8": f"user_fault = {IS_NOT_UTF8} OR item_fault = {IS_NOT_UTF8}",
        "id_of_several_lines": f"user_fault = {HAS_LINES} OR item_fault = {HAS_LINES}",
        "count_not_a_finite_number": "plays IS NULL OR NOT isfinite(plays)",
        "count_not_above_0": "plays <= 0",
        "count_impossible": f"plays > {rules.most_plays}",
        **({"time_unreadable": "time IS NULL OR isnan(time)"} if traits.has_times else {}),
    }
    cases = " ".join(f"WHEN {condition} THEN '{reason}'" for reason, condition in reasons.items())
    scratch.run(f"CREATE VIEW judged AS SELECT *, CASE {cases} END AS reason FROM rows")
    found = dict(scratch.run(f"SELECT reason, {rows.number} FROM judged WHERE reason IS NOT NULL GROUP BY reason"))
    return {reason: int(found[reason]) for reason in reasons if reason in found}


def ranges_of_users(n_rows_of_user: npt.NDArray[np.int64], n_most: int) -> list[tuple[int, int]]:
    """Return (first user, end) of ranges of users with about `n_most` rows, or a single user each."""
    ranges = []
    ends = np.cumsum(n_rows_of_user)
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        end = max(first + 1, int(np.searchsorted(ends, before + n_most, side="right")))
        ranges.append((first, end))
        first = end
    return ranges


def _count(
    scratch: Scratch,
    traits: LogTraits,
    rules: CleaningRules,
    ranges: list[tuple[int, int]],
    files: ColumnFiles,
    *,
    rows: _Rows,
) -> tuple[int, int]:
    """Write the pairs in order of user and item; return their number, and that of those whose rating is too low."""
    plays = f"{rows.plays} / {rows.number}" if traits.has_ratings else rows.plays
    times = ", min(time) AS time, max(time) AS last_time" if traits.has_times else ""
    n_pairs = n_low = 0
    for first, end in ranges:
        found = scratch.columns(
            f"SELECT user, item, {plays} AS plays{times} FROM judged "
            f"WHERE reason IS NULL AND NOT skipped AND user >= {first} AND user < {end} "
            f"GROUP BY user, item ORDER BY user, item"
        )
        if traits.has_ratings and rules.least_rating is not None:
            is_low = found["plays"] < rules.least_rating
            n_low += int(is_low.sum())
            found = {name: column[~is_low] for name, column in found.items()}
        n_pairs += len(found["user"])
        for name, column in found.items():
            files.append(name, column)
    return n_pairs, n_low


def _kept(
    user: npt.NDArray[np.int32], item: npt.NDArray[np.int32], rules: CleaningRules, dropped: dict[str, int]
) -> Flags:
    """Return which pairs (E,) are not of bots and have enough support, and count the others."""
    counts = np.bincount(user)
    kept = np.ones(len(user), np.bool_)
    if rules.bot_factor and len(user):
        median = float(np.median(counts[counts > 0]))
        kept = (counts <= max(_FEWEST_BOT_ITEMS, rules.bot_factor * median))[user]
    n_kept = int(kept.sum())
    if n_kept < len(user):
        dropped["bot"] = len(user) - n_kept
    if rules.min_items_per_user > 1 or rules.min_users_per_item > 1:
        while True:
            n_of_user = np.bincount(user[kept], minlength=len(counts))[user]
            n_of_item = np.bincount(item[kept], minlength=item.max(initial=-1) + 1)[item]
            still = kept & (n_of_user >= rules.min_items_per_user) & (n_of_item >= rules.min_users_per_item)
            if still.sum() == kept.sum():
                break
            kept = still
        if (n_left := int(kept.sum())) < n_kept:
            dropped["too_little_support"] = n_kept - n_left
    return kept


def _write_events(
    scratch: Scratch,
    traits: LogTraits,
    ranges: list[tuple[int, int]],
    files: ColumnFiles,
    *,
    is_user: Flags,
    is_item: Flags,
    most_events: int,
) -> None:
    """Write the latest listens and skips of the users and items that are left, oldest first for each user.

    Events at one time keep the order of their rows.
    """
    new_user, new_item = _renumbered(is_user), _renumbered(is_item)
    time = "time, " if traits.has_times else ""
    for name in ("user", "item", *(("time",) if time else ()), "skipped"):
        files.append(f"event_{name}", np.zeros(0))
    for first, end in ranges:
        if not is_user[first:end].any():
            continue
        found = scratch.columns(
            f"SELECT user, item, {time}skipped FROM judged WHERE reason IS NULL AND user >= {first} AND user < {end} "
            f"ORDER BY user, {time}row"
        )
        known = is_user[found["user"]] & is_item[found["item"]]
        user = found["user"][known] - first
        if most_events and len(user):
            counts = np.bincount(user)
            from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(user))
            known[known] = from_end <= most_events
        files.append("event_user", new_user[found["user"][known]])
        files.append("event_item", new_item[found["item"][known]])
        if time:
            files.append("event_time", found["time"][known])
        files.append("event_skipped", found["skipped"][known])


def _used(codes: npt.NDArray[np.int32], n: int) -> Flags:
    used = np.zeros(n, np.bool_)
    used[codes] = True
    return used


def _renumbered(is_used: Flags) -> npt.NDArray[np.int32]:
    """Return the new index of each old one that is still used."""
    return (np.cumsum(is_used) - 1).astype(np.int32)
