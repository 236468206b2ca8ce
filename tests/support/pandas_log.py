"""A second implementation of reading and cleaning a log, in memory with pandas, which tests compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from tritone_training.data.interactions import CleaningRules, Columns, Log, UserSequences
from tritone_training.data.interactions.columns import (
    distinct,
    ignored_notes,
    item_of_log,
    optional,
    required,
    shown_columns,
)
from tritone_training.data.interactions.log import is_text
from tritone_training.data.interactions.parsing import flags_of, id_column, parse_numbers, time_notes, times_of
from tritone_training.data.recordings import printable
from tritone_training.data.tables import open_table
from tritone_training.exceptions import DataError

_FEWEST_BOT_ITEMS: Final = 1_000
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def load_in_memory(path: Path, columns: Columns | None = None, *, rules: CleaningRules | None = None) -> Log:
    """Read and clean a listening log."""
    columns = columns or Columns()
    with open_table(path) as table:
        user = required(table, "user", columns.user)
        item, item_notes = item_of_log(table, columns.item, user=user)
        plays = None if columns.rating is not None else optional(table, "plays", columns.plays)
        rating = None if plays else optional(table, "rating", columns.rating)
        time = optional(table, "time", columns.time)
        skip = optional(table, "skipped", columns.skipped)
        chosen = {"user": user, "item": item, "plays": plays, "rating": rating, "time": time, "skipped": skip}
        distinct(table, **chosen)
        frame = table.read([name for name in chosen.values() if name])
    users, user_counts = id_column(path, frame.pop(user))
    items, item_counts = id_column(path, frame.pop(item))
    counts = None
    number_notes: tuple[str, ...] = ()
    if (counted := plays or rating) is not None:
        option = "--plays-column" if plays else "--rating-column"
        codes, values = pd.factorize(frame.pop(counted))
        numbers, number_notes = parse_numbers(
            path, counted, [str(value) for value in values], separator=table.separator, option=option
        )
        counts = np.where(codes >= 0, numbers[codes], np.nan) if len(numbers) else np.full(len(codes), np.nan)
    times = times_of(printable(path.name), frame.pop(time)) if time else None
    skipped = flags_of(path, frame.pop(skip), option="--skipped-column") if skip else None
    notes = [*table.notes, *ignored_notes(table), *item_notes, *number_notes]
    report: dict[str, Any] = {"columns": shown_columns(chosen), "notes": notes}
    ids = {"user": user_counts.to_dict(), "item": item_counts.to_dict()}
    report["ids"] = {what: found for what, found in ids.items() if found}
    if times is not None:
        report["times"] = {"n_without_zone": times.n_naive, "n_with_zone": times.n_zoned}
        known = times.seconds[np.isfinite(times.seconds)]
        notes.extend(time_notes(float(np.median(known))) if len(known) else ())
    return clean_in_memory(
        printable(path.name),
        users=users,
        items=items,
        plays=counts if plays else None,
        ratings=counts if rating else None,
        times=None if times is None else times.seconds,
        rules=rules or CleaningRules(),
        report=report,
        skipped=skipped,
    )


def clean_in_memory(
    source: str,
    *,
    users: pd.Series[Any],
    items: pd.Series[Any],
    plays: Floats | None,
    ratings: Floats | None,
    times: Floats | None,
    rules: CleaningRules,
    report: Mapping[str, Any],
    skipped: Flags | None = None,
    is_ordered: bool = False,
) -> Log:
    """Apply the rules to the columns of a log.

    Args:
        plays: NaN where unreadable, like ratings and times (seconds since 1970).
        report: entries from reading the table, for the log's report.
        skipped: whether each row is a skip or a dislike instead of a listen; None if all are listens.
        is_ordered: whether the rows of each user are in order of time although there are no times.

    Raises:
        DataError: no rows are left.
    """
    dropped: dict[str, int] = {}
    table = pd.DataFrame({"user": users.to_numpy(object), "item": items.to_numpy(object)})
    n_in = len(table)
    counts = ratings if plays is None else plays
    table["plays"] = 1.0 if counts is None else counts
    if times is not None:
        table["time"] = times
    table["skipped"] = False if skipped is None else skipped

    def drop(reason: str, wrong: Flags) -> None:
        nonlocal table
        dropped[reason] = int(wrong.sum())
        if wrong.any():
            table = table[~wrong]

    drop("no_user", table["user"].isna().to_numpy())
    drop("no_item", table["item"].isna().to_numpy())
    drop("id_not_utf8", ~(is_text(table["user"]) & is_text(table["item"])))
    drop("id_of_several_lines", (_breaks(table["user"]) | _breaks(table["item"])))
    values = table["plays"].to_numpy(np.float64)
    drop("count_not_a_finite_number", ~np.isfinite(values))
    drop("count_not_above_0", (table["plays"] <= 0).to_numpy())
    drop("count_impossible", (table["plays"] > rules.most_plays).to_numpy())
    if times is not None:
        drop("time_unreadable", table["time"].isna().to_numpy())
    events = table.drop(columns="plays") if times is not None or is_ordered or skipped is not None else None
    n_skips = int(table["skipped"].sum())
    table = table[~table["skipped"]].drop(columns="skipped")
    n_before = len(table)
    how: dict[str, str] = {"plays": "sum" if ratings is None else "mean"}
    if times is not None:
        table["last_time"] = table["time"]
        how |= {"time": "min", "last_time": "max"}
    table = table.groupby(["user", "item"], sort=True, as_index=False).agg(how)
    n_merged = n_before - len(table)
    if ratings is not None and rules.least_rating is not None:
        drop("rating_too_low", (table["plays"] < rules.least_rating).to_numpy())
    drop("bot", _of_bots(table, rules))
    _drop_unsupported(table, rules, drop)
    report = {
        **report,
        "source": source,
        "n_in": n_in,
        "n_used": len(table),
        "n_merged": n_merged,
        "dropped": {reason: n for reason, n in dropped.items() if n},
        "n_users": int(table["user"].nunique()),
        "n_items": int(table["item"].nunique()),
        "has_times": times is not None,
        **({} if skipped is None else {"n_skips": n_skips}),
        **({"is_ordered": True} if is_ordered else {}),
        "rules": asdict(rules),
    }
    if not len(table):
        why = ", ".join(f"{reason} {n}" for reason, n in dropped.items() if n) or "it has a header and no rows"
        raise DataError(f"{source}: no rows are left of {n_in} after cleaning ({why})")
    user, user_ids = pd.factorize(table["user"], sort=True)
    item, item_ids = pd.factorize(table["item"], sort=True)
    return Log(
        source,
        [str(name) for name in user_ids],
        [str(name) for name in item_ids],
        np.asarray(user, np.int64),
        np.asarray(item, np.int64),
        table["plays"].to_numpy(np.float32),
        table["time"].to_numpy(np.float64) if times is not None else None,
        report,
        table["last_time"].to_numpy(np.float64) if times is not None else None,
        None
        if events is None or not (is_ordered or times is not None)
        else _sequences(events, user_ids, item_ids, rules.most_events),
    )


def _sequences(events: pd.DataFrame, users: pd.Index[Any], items: pd.Index[Any], most_events: int) -> UserSequences:
    """Return the events of the users and items that are left."""
    user = users.get_indexer(pd.Index(events["user"])).astype(np.int64)
    item = items.get_indexer(pd.Index(events["item"])).astype(np.int64)
    known = (user >= 0) & (item >= 0)
    times = events["time"].to_numpy(np.float64)[known] if "time" in events else None
    skipped = events["skipped"].to_numpy(np.bool_)[known]
    return UserSequences.ordered(user[known], item[known], times, skipped, most_events=most_events)


def _breaks(column: pd.Series[Any]) -> Flags:
    return np.fromiter(("\n" in value for value in column), np.bool_, len(column))


def _of_bots(table: pd.DataFrame, rules: CleaningRules) -> Flags:
    n_items = table.groupby("user")["item"].transform("size").to_numpy(np.int64)
    if not rules.bot_factor or not len(table):
        return np.zeros(len(table), np.bool_)
    median = float(table.groupby("user").size().median())
    return np.asarray(n_items > max(_FEWEST_BOT_ITEMS, rules.bot_factor * median))


def _drop_unsupported(table: pd.DataFrame, rules: CleaningRules, drop: Callable[[str, Flags], None]) -> None:
    if rules.min_items_per_user <= 1 and rules.min_users_per_item <= 1:
        return
    kept = np.ones(len(table), np.bool_)
    users, items = pd.factorize(table["user"])[0], pd.factorize(table["item"])[0]
    while True:
        n_items = np.bincount(users[kept], minlength=users.max(initial=-1) + 1)[users]
        n_users = np.bincount(items[kept], minlength=items.max(initial=-1) + 1)[items]
        still = kept & (n_items >= rules.min_items_per_user) & (n_users >= rules.min_users_per_item)
        if still.sum() == kept.sum():
            break
        kept = still
    drop("too_little_support", ~kept)
