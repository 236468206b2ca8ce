"""Whether a manifest says what opening and answering take for granted: nothing in the folder is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from tritone_serving.recommender.arms_check import check_ensembles, check_shares, is_number
from tritone_serving.recommender.messages import shown

_MOST: Final = 2**31 - 1  # items or users: columns are 32-bit numbers


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Refuse what cannot be answered with.

    Raises:
        ValueError: says which entry, what it holds, and what was expected.
    """
    for name in ("n_items", "n_users"):
        if not _is_count(manifest[name]):
            raise ValueError(f"{name} is {shown(manifest[name])}; expected a number from 0")
    if not isinstance(manifest["key_check"], str):
        raise ValueError(f"key_check is {shown(manifest['key_check'])}; expected text")
    _check_arrays(manifest["arrays"])
    _check_members(manifest["base_models"], manifest["n_items"])
    _check_numbers("weighting", manifest["weighting"], {"power": 1.0, "skip": 1e6})
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
    ab = manifest.get("ab")
    if ab is not None:
        if not isinstance(ab, dict) or not isinstance(ab.get("salt"), str):
            raise ValueError(f"ab is {shown(ab)}; expected an object with salt and shares")
        check_shares(ab.get("shares"), manifest["ensembles"])


def _check_arrays(arrays: Any) -> None:
    if not isinstance(arrays, dict):
        raise ValueError(f"arrays is {shown(arrays)}; expected an object")
    for name, described in arrays.items():
        shape = described.get("shape") if isinstance(described, dict) else None
        if not isinstance(shape, list) or not all(map(_is_count, shape)) or not isinstance(described.get("dtype"), str):
            raise ValueError(f"array {shown(name)} is {shown(described)}; expected its shape and dtype")


def _check_members(base_models: Any, n_items: int) -> None:
    if not isinstance(base_models, dict) or not base_models:
        raise ValueError(f"base_models is {shown(base_models)}; expected an object of base models")
    for name, described in base_models.items():
        if not isinstance(described, dict):
            raise ValueError(f"base model {shown(name)} is {shown(described)}; expected an object")
        scale = described.get("scale", 0.0)
        if not is_number(scale, 1e30) or scale < 0:
            raise ValueError(f"base model {shown(name)} has the scale {shown(scale)}; expected a finite number from 0")
        if described.get("kind") == "taste":
            n_known = described.get("n_known")
            if not _is_count(n_known) or n_known > n_items:
                raise ValueError(f"base model {shown(name)} has n_known {shown(n_known)}; expected 0 to {n_items}")


def _check_numbers(what: str, found: Any, most: Mapping[str, float]) -> None:
    for name, largest in most.items():
        value: Any = found.get(name) if isinstance(found, dict) else None
        if not is_number(value, largest) or value < 0:
            raise ValueError(f"{what} is {shown(found)}; expected {name} from 0 to {largest:g}")


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST
