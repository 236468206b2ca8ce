"""Whether ensembles and the shares of an A/B test can be served."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from tritone_serving.recommender.ensemble import BIAS, SEGMENTS
from tritone_serving.recommender.messages import shown

MOST: Final = 1e6  # of a weight or a share: scores stay far within the range of float32
_LONGEST_NAME: Final = 64
_LARGEST_WARM_FROM: Final = 1_000_000
KEYS: Final = frozenset({"warm_from", "weights", "cold_items", "minimum_weights", "how"})


def check_ensembles(ensembles: Any, base_models: Collection[str] | None = None) -> None:
    """Refuse what cannot be served.

    Args:
        base models: that there are; None to pass over names that are no base model's, as answering does.

    Raises:
        ValueError: says of which arm, what it holds, and what was expected.
    """
    if not isinstance(ensembles, dict) or not ensembles:
        raise ValueError(f"ensembles is {shown(ensembles)}; expected an object of arms")
    for arm, described in ensembles.items():
        _check_name(arm)
        _check_ensemble(f"arm {arm!r}", described, base_models)


def check_shares(shares: Any, ensembles: Collection[str], *, above_0: bool = False) -> None:
    """Refuse shares that nobody can be drawn by.

    Args:
        above_0: refuse a share of 0 as well, which is an arm that nobody gets.

    Raises:
        ValueError: as `check_ensembles`.
    """
    least = "above 0" if above_0 else "from 0"
    wrong = f"shares are {shown(shares, 200)}; expected a number {least} to {MOST:g} for each arm"
    if not isinstance(shares, dict) or not shares or not all(is_number(share) for share in shares.values()):
        raise ValueError(wrong)
    if any(share < 0 or (above_0 and share == 0) for share in shares.values()):
        raise ValueError(wrong)
    if not sum(shares.values()) > 0:
        raise ValueError(f"{wrong}, and not all 0")
    strangers = sorted(shares.keys() - set(ensembles))
    if strangers:
        raise ValueError(
            f"shares name the arms {', '.join(map(_plain, strangers))}, which are no ensembles; there are: "
            f"{', '.join(ensembles)}"
        )


def is_number(value: Any, most: float = MOST) -> bool:
    """Whether it is a finite number of sane size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most  # false for NaN


def _check_name(arm: Any) -> None:
    # Names go into metrics' labels and into answers.
    if not isinstance(arm, str) or not 0 < len(arm) <= _LONGEST_NAME or not arm.isprintable() or set(arm) & set('"\\'):
        raise ValueError(
            f"an arm is named {shown(arm)}; expected 1 to {_LONGEST_NAME} printable characters without quotes and "
            f"backslashes"
        )


def _check_ensemble(what: str, described: Any, base_models: Collection[str] | None) -> None:
    if not isinstance(described, dict) or not {"warm_from", "weights"} <= described.keys():
        raise ValueError(f"{what} needs warm_from and weights for {', '.join(SEGMENTS)}")
    warm_from = described["warm_from"]
    if not isinstance(warm_from, int) or isinstance(warm_from, bool) or not 0 <= warm_from <= _LARGEST_WARM_FROM:
        raise ValueError(
            f"{what} needs warm_from and weights for {', '.join(SEGMENTS)}; warm_from is {shown(warm_from)}, expected "
            f"0 to {_LARGEST_WARM_FROM}"
        )
    for key in ("weights", "cold_items", "minimum_weights"):
        table = described.get(key, {} if key == "minimum_weights" else described["weights"])
        if not isinstance(table, dict) or (key != "minimum_weights" and set(table) != set(SEGMENTS)):
            raise ValueError(
                f"{what} needs warm_from and weights for {', '.join(SEGMENTS)}; {key} is {shown(table, 200)}"
            )
        if not set(table) <= set(SEGMENTS):
            raise ValueError(f"{what} has {key} for {shown(sorted(table), 200)}; expected {', '.join(SEGMENTS)}")
        known = None if base_models is None else [*base_models, BIAS] if key == "cold_items" else base_models
        for segment, weights in table.items():
            _check_weights(what, (key, segment), weights, known)


def _check_weights(what: str, where: tuple[str, str], weights: Any, base_models: Collection[str] | None) -> None:
    key, segment = where
    if not isinstance(weights, dict):
        raise ValueError(f"{what} has the {key} {shown(weights)} for {segment}; expected an object of base models")
    strangers = [] if base_models is None else sorted(weights.keys() - set(base_models))
    if strangers:
        raise ValueError(
            f"{what} weighs {', '.join(map(_plain, strangers))}, and there are no such base models; there are: "
            f"{', '.join(base_models or ())}"
        )
    bad: Mapping[str, Any] = {name: weight for name, weight in weights.items() if not is_number(weight)}
    if bad:
        raise ValueError(
            f"{what} has the {key} {shown(bad, 200)} for {segment}; expected finite numbers, at most {MOST:g} either "
            f"way"
        )


def _plain(name: str) -> str:
    return name if name.isprintable() and len(name) <= _LONGEST_NAME else shown(name)
