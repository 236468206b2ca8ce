"""Clean a listening log; the report counts all rows that are left out.

The rules, in order:

1. rows without a user or an item, or with an id that is not UTF-8, are left out; so are rows whose id has several
   lines, which is the result of an unbalanced quote;
2. rows whose count is not a finite number above 0, or above `most_plays`, are left out (as are unreadable times);
3. rows of the same user and item are added up, ratings averaged, and the earliest time is kept;
4. ratings below `least_rating` are left out: a bad rating does not count as listening;
5. bots: users with more than `bot_factor` times the median number of items, and more than 1,000, are left out;
6. if asked for, users and items with too little support are left out, repeatedly until none remain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from tritone_training.data.interactions.log import Log
from tritone_training.exceptions import DataError

_FEWEST_BOT_ITEMS: Final = 1_000
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CleaningRules:
    """Thresholds; the support filters are off by default.

    Attributes:
        most_plays: largest plausible count of one item by one user: one play every three seconds for a century.
        least_rating: smallest rating that counts as listening, if the log has ratings.
        bot_factor: multiple of the median number of items above which a user is a bot; 0 keeps all users.
    """

    most_plays: float = 1e9
    least_rating: float | None = None
    bot_factor: float = 100.0
    min_items_per_user: int = 1
    min_users_per_item: int = 1


def is_text(column: pd.Series[Any]) -> Flags:
    """Return whether each value is a string that can be encoded as UTF-8."""

    def ok(value: object) -> bool:
        if not isinstance(value, str) or not value:
            return False
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return False
        return True

    return np.fromiter((ok(value) for value in column), np.bool_, len(column))


def clean(
    source: str,
    *,
    users: pd.Series[Any],
    items: pd.Series[Any],
    plays: Floats | None,
    ratings: Floats | None,
    times: Floats | None,
    rules: CleaningRules,
    report: Mapping[str, Any],
) -> Log:
    """Apply the rules to the columns of a log.

    Args:
        plays: NaN where unreadable, like ratings and times (seconds since 1970).
        report: entries from reading the table, for the log's report.

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
    n_before = len(table)
    how: dict[str, str] = {"plays": "sum" if ratings is None else "mean"}
    if times is not None:
        how["time"] = "min"
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
    )


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
