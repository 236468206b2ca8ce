"""Whether a manifest says what opening and answering take for granted: nothing in the folder is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from tritone_serving.recommender.arms_check import check_ensembles, check_shares, is_number
from tritone_serving.recommender.wording import shown

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
    _check_members(manifest["members"], manifest["n_items"])
    _check_numbers("weighting", manifest["weighting"], {"power": 1.0, "skip": 1e6})
    check_ensembles(manifest["ensembles"])
    circle = manifest.get("circle")
    if circle is not None:
        if not isinstance(circle, dict):
            raise ValueError(f"circle is {shown(circle)}; expected an object")
        _check_numbers("circle", {"damping": 0.0, "second": 0.0, **circle}, {"damping": 10.0, "second": 1e6})
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


def _check_members(members: Any, n_items: int) -> None:
    if not isinstance(members, dict) or not members:
        raise ValueError(f"members is {shown(members)}; expected an object of members")
    for name, described in members.items():
        if not isinstance(described, dict):
            raise ValueError(f"member {shown(name)} is {shown(described)}; expected an object")
        scale = described.get("scale", 0.0)
        if not is_number(scale, 1e30) or scale < 0:
            raise ValueError(f"member {shown(name)} has the scale {shown(scale)}; expected a finite number from 0")
        if described.get("kind") == "taste":
            n_known = described.get("n_known")
            if not _is_count(n_known) or n_known > n_items:
                raise ValueError(f"member {shown(name)} has n_known {shown(n_known)}; expected 0 to {n_items}")


def _check_numbers(what: str, found: Any, most: Mapping[str, float]) -> None:
    for name, largest in most.items():
        value: Any = found.get(name) if isinstance(found, dict) else None
        if not is_number(value, largest) or value < 0:
            raise ValueError(f"{what} is {shown(found)}; expected {name} from 0 to {largest:g}")


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST
