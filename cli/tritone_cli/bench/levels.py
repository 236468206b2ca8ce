"""The loads that `--concurrency` and `--request-rate` ask for, from text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tritone_serving.perf_analyzer import Load

MAX_CLIENTS: Final = 1024


class LevelError(ValueError):
    """The text asks for no load."""


@dataclass(frozen=True)
class Rate:
    """Arrivals a second, or a share of what the closed loop carried.

    Attributes:
        value: a second if `is_share` is false, else a share of 1.
    """

    value: float
    is_share: bool

    def load(self, capacity_per_s: float | None, *, batch: int = 1) -> Load | None:
        """The load; None for a share of a capacity that is not known.

        Args:
            capacity_per_s: in inferences.
            batch: inferences in each request.
        """
        if not self.is_share:
            return Load(rate=self.value, batch=batch)
        return None if capacity_per_s is None else Load(rate=max(self.value * capacity_per_s / batch, 0.1), batch=batch)


def concurrencies(text: str) -> tuple[int, ...]:
    """Read `8`, `1,4,16`, `1:32` (doubling) or `1:32:4` (in steps of 4).

    Raises:
        LevelError: it is none of these.
    """
    expected = f"--concurrency is {text!r}; expected 8, 1,4,16, 1:32 (doubling) or 1:32:4, each 1 to {MAX_CLIENTS}"
    try:
        if ":" not in text:
            levels = [int(part) for part in text.split(",")]
        else:
            first, last, *step = (int(part) for part in text.split(":"))
            if not 1 <= first <= last <= MAX_CLIENTS or len(step) > 1 or (step and step[0] < 1):
                raise LevelError(expected)
            levels = list(range(first, last + 1, step[0])) if step else _doubling(first, last)
    except ValueError as error:
        raise LevelError(expected) from error
    if not all(1 <= level <= MAX_CLIENTS for level in levels):
        raise LevelError(expected)
    return tuple(sorted(set(levels)))


def batches(text: str) -> tuple[int, ...]:
    """Read `1` or `1,8`: inferences in each request.

    Raises:
        LevelError: it is none of these.
    """
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not 1 <= found[0] <= found[-1] <= MAX_CLIENTS:
        raise LevelError(f"--batch is {text!r}; expected 1 or 1,8, each 1 to {MAX_CLIENTS}")
    return tuple(found)


def rates(text: str) -> tuple[Rate, ...]:
    """Read `100`, `50,100.5` or `50%,80%`; an empty text or `none` asks for no open loop.

    Raises:
        LevelError: it is none of these.
    """
    if text.strip() in ("", "none"):
        return ()
    try:
        found = [Rate(_number(part), is_share="%" in part) for part in text.split(",")]
    except ValueError as error:
        raise LevelError(_rate_expected(text)) from error
    if not all(0 < rate.value <= (1 if rate.is_share else 1e6) for rate in found):
        raise LevelError(_rate_expected(text))
    return tuple(found)


def _rate_expected(text: str) -> str:
    return f"--request-rate is {text!r}; expected requests a second as 50,100, shares of capacity as 50%,80%, or none"


def _number(part: str) -> float:
    part = part.strip()
    return float(part.removesuffix("%")) / 100 if part.endswith("%") else float(part)


def _doubling(first: int, last: int) -> list[int]:
    levels = [first]
    while levels[-1] * 2 <= last:
        levels.append(levels[-1] * 2)
    return levels if levels[-1] == last else [*levels, last]
