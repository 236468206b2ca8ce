"""Held-out listens: the latest where times are known, else some of each user's at random.

Nothing of the held-out part may be seen in training; see `tritone_training.kinds.recommender`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tritone_training.data.interactions.log import Log
from tritone_training.exceptions import DataError


def split_log(log: Log, *, fraction: float, seed: int) -> tuple[Log, Log]:
    """(the rest, the held-out part).

    With times: the latest `fraction` of the pairs, for all users alike, so that nothing is predicted from its future;
    among pairs of one moment (times may be months) it is drawn which are held out. Without: that fraction of each
    user's items, drawn at random; whoever has a single item keeps it.

    Raises:
        DataError: nothing would be left on one of the sides.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the held-out fraction is {fraction}; expected a number between 0 and 1")
    held_out = _latest(log, fraction, seed) if log.time is not None else _random(log, fraction, seed)
    if held_out.all() or not held_out.any():
        wanted = "users with several items each" if log.time is None else "several listens"
        raise DataError(
            f"{log.source}: {len(log)} listens of {len(np.unique(log.user))} users cannot be split: one side would be "
            f"empty; expected {wanted}"
        )
    return log.take(~held_out), log.take(held_out)


def held_out_counts(held_out: Log, users: Sequence[str]) -> npt.NDArray[np.int64]:
    """(n,) how many held-out listens each of the named users has, known items or not."""
    counts = dict(zip(held_out.users, np.bincount(held_out.user, minlength=len(held_out.users)).tolist(), strict=True))
    return np.array([counts.get(name, 0) for name in users], np.int64)


def _latest(log: Log, fraction: float, seed: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    assert log.time is not None  # noqa: S101 - the caller looked
    order = np.lexsort((np.random.default_rng(seed).permutation(len(log)), log.time))
    held_out = np.zeros(len(log), np.bool_)
    held_out[order[int((1 - fraction) * (len(log) - 1)) + 1 :]] = True
    return held_out


def _random(log: Log, fraction: float, seed: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(log))
    order = shuffled[np.argsort(log.user[shuffled], kind="stable")]  # user by user, each in random order
    counts = np.bincount(log.user, minlength=len(log.users))
    firsts = np.cumsum(counts) - counts
    place = np.arange(len(log)) - np.repeat(firsts, counts)
    # Rounded at random, so that short histories hold out their share on average.
    wanted = np.floor(counts * fraction + rng.random(len(counts))).astype(np.int64)
    wanted = np.minimum(wanted, np.maximum(counts - 1, 0))
    held_out = np.zeros(len(log), np.bool_)
    held_out[order] = place < np.repeat(wanted, counts)
    return held_out
