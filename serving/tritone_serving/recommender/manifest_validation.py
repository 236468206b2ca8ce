"""Validation of the manifest of an artifact: its entries, ensembles of base models, and shares of an A/B test."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, TypeGuard

from tritone_serving.recommender.ensemble import BIAS, SEGMENTS, SESSION
from tritone_serving.recommender.exceptions import shown
from tritone_serving.recommender.moods import LARGEST_STRENGTH
from tritone_serving.recommender.remote_kinds import REMOTE_KINDS

MOST: Final = 1e6  # maximum of weights and shares; scores stay far within the range of float32
_LONGEST_NAME: Final = 64
_LARGEST_WARM_FROM: Final = 1_000_000
_LARGEST_COUNT: Final = 2**31 - 1  # items or users, because column indices are 32-bit integers
_EVENTS: Final = {"half_life_s": 1e12, "boost": 1e6, "through": 1e12}  # largest values
KEYS: Final = frozenset({"warm_from", "weights", "cold_items", "minimum_weights", "how"})


def check_ensembles(ensembles: Any, base_models: Collection[str] | None = None) -> None:
    """Validate the ensembles of a manifest or an A/B test.

    Args:
        ensembles: arm -> ensemble.
        base_models: names of the existing base models; None accepts any name, since scoring ignores unknown ones.

    Raises:
        ValueError: an ensemble is malformed or names an unknown base model.
    """
    if not isinstance(ensembles, dict) or not ensembles:
        raise ValueError(f"ensembles is {shown(ensembles)}; expected an object of arms")
    for arm, described in ensembles.items():
        _check_name(arm)
        _check_ensemble(f"arm {arm!r}", described, base_models)


def check_shares(shares: Any, ensembles: Collection[str], *, above_0: bool = False) -> None:
    """Validate the shares of an A/B test.

    Args:
        shares: arm -> share of users.
        ensembles: names of the existing arms.
        above_0: reject shares of 0 too.

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
    unknown = sorted(shares.keys() - set(ensembles))
    if unknown:
        raise ValueError(
            f"shares name unknown arms {', '.join(map(_plain, unknown))}; there are: {', '.join(ensembles)}"
        )


def is_number(value: Any, most: float = MOST) -> bool:
    """Return whether a value is a finite number of at most the given absolute value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most  # false for NaN


def _check_name(arm: Any) -> None:
    # Names are used as labels of metrics and returned in responses.
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
        if not isinstance(table, dict) or (key != "minimum_weights" and set(table) - {SESSION} != set(SEGMENTS)):
            raise ValueError(
                f"{what} needs warm_from and weights for {', '.join(SEGMENTS)}; {key} is {shown(table, 200)}"
            )
        if not set(table) <= {*SEGMENTS, SESSION}:
            raise ValueError(f"{what} has {key} for {shown(sorted(table), 200)}; expected {', '.join(SEGMENTS)}")
        known = None if base_models is None else [*base_models, BIAS] if key == "cold_items" else base_models
        for segment, weights in table.items():
            _check_weights(what, (key, segment), weights, known)


def _check_weights(what: str, where: tuple[str, str], weights: Any, base_models: Collection[str] | None) -> None:
    key, segment = where
    if not isinstance(weights, dict):
        raise ValueError(f"{what} has the {key} {shown(weights)} for {segment}; expected an object of base models")
    unknown = [] if base_models is None else sorted(weights.keys() - set(base_models))
    if unknown:
        raise ValueError(
            f"{what} has weights for unknown base models {', '.join(map(_plain, unknown))}; there are: "
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


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Validate the entries of a manifest.

    Raises:
        ValueError: an entry is malformed.
    """
    for name in ("n_items", "n_users"):
        if not _is_count(manifest[name]):
            raise ValueError(f"{name} is {shown(manifest[name])}; expected a number from 0")
    if not isinstance(manifest["key_check"], str):
        raise ValueError(f"key_check is {shown(manifest['key_check'])}; expected text")
    check_described(manifest["arrays"])
    _check_base_models(manifest["base_models"], manifest["n_items"])
    _check_numbers("weighting", manifest["weighting"], {"power": 1.0, "skip": 1e6})
    events = manifest.get("events")
    if events is not None:
        if not isinstance(events, dict):
            raise ValueError(f"events is {shown(events)}; expected an object")
        _check_numbers("events", {"half_life_s": 1.0, "boost": 0.0, "through": 0.0, **events}, _EVENTS)
        if events.get("half_life_s", 1.0) <= 0:
            raise ValueError(f"events: half_life_s is {shown(events['half_life_s'])}; expected a number above 0")
    check_ensembles(manifest["ensembles"])
    social_neighbourhood = manifest.get("social_neighbourhood")
    if social_neighbourhood is not None:
        if not isinstance(social_neighbourhood, dict):
            raise ValueError(f"social_neighbourhood is {shown(social_neighbourhood)}; expected an object")
        _check_numbers(
            "social_neighbourhood",
            {"damping": 0.0, "second": 0.0, **social_neighbourhood},
            {"damping": 10.0, "second": 1e6},
        )
    inferred_mood = manifest.get("inferred_mood")
    if inferred_mood is not None:
        _check_numbers(
            "inferred_mood",
            inferred_mood,
            {"strength": LARGEST_STRENGTH, "half_life": 1e6, "most": 1e6, "within_s": 1e12},
        )
        if not inferred_mood["half_life"]:
            raise ValueError("inferred_mood has the half_life 0; expected a number above 0")
    ab = manifest.get("ab")
    if ab is not None:
        if not isinstance(ab, dict) or not isinstance(ab.get("salt"), str):
            raise ValueError(f"ab is {shown(ab)}; expected an object with salt and shares")
        check_shares(ab.get("shares"), manifest["ensembles"])


def check_described(arrays: Any) -> None:
    """Validate the description of arrays in a manifest.

    Raises:
        ValueError: it is malformed.
    """
    if not isinstance(arrays, dict):
        raise ValueError(f"arrays is {shown(arrays)}; expected an object")
    for name, described in arrays.items():
        shape = described.get("shape") if isinstance(described, dict) else None
        if not isinstance(shape, list) or not all(map(_is_count, shape)) or not isinstance(described.get("dtype"), str):
            raise ValueError(f"array {shown(name)} is {shown(described)}; expected its shape and dtype")


def _check_base_models(base_models: Any, n_items: int) -> None:
    if not isinstance(base_models, dict) or not base_models:
        raise ValueError(f"base_models is {shown(base_models)}; expected an object of base models")
    for name, described in base_models.items():
        if not isinstance(described, dict):
            raise ValueError(f"base model {shown(name)} is {shown(described)}; expected an object")
        scale = described.get("scale", 0.0)
        if not is_number(scale, 1e30) or scale < 0:
            raise ValueError(f"base model {shown(name)} has the scale {shown(scale)}; expected a finite number from 0")
        if described.get("kind") in REMOTE_KINDS:
            n_known = described.get("n_known")
            if not _is_count(n_known) or n_known > n_items:
                raise ValueError(f"base model {shown(name)} has n_known {shown(n_known)}; expected 0 to {n_items}")


def _check_numbers(what: str, found: Any, most: Mapping[str, float]) -> None:
    for name, largest in most.items():
        value: Any = found.get(name) if isinstance(found, dict) else None
        if not is_number(value, largest) or value < 0:
            raise ValueError(f"{what} is {shown(found)}; expected {name} from 0 to {largest:g}")


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT
