"""The settings to try: from the options, or chosen by the number of cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tritone import TritoneError
from tritone_export.tuned import (
    MAX_DELAY_US,
    MAX_INSTANCES,
    MAX_THREADS,
    TunedSetting,
    reason_not_tunable,
    reason_unfit,
)

DEFAULT_BATCHES: Final = ((), (4, 8), (8, 16, 32))
DEFAULT_DELAYS_US: Final = (0, 500, 2000)
_NONE: Final = "none"


class SearchSpaceError(TritoneError, ValueError):
    """Raised when the options describe no setting, or one that the model does not support."""


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Values of the settings to combine.

    Attributes:
        threads: threads per instance; (None,) if the model's backend has no such setting.
        batches: sets of preferred batch sizes.
        delays_us: queue delays.
    """

    instances: tuple[int, ...]
    threads: tuple[int | None, ...]
    batches: tuple[tuple[int, ...], ...]
    delays_us: tuple[int, ...]

    def placements(self, of: TunedSetting) -> list[TunedSetting]:
        """Return all combinations of instances and threads, with the batches and the delay of a setting."""
        return [replace(of, instances=n, threads=threads) for n in self.instances for threads in self.threads]

    def batchings(self, of: TunedSetting) -> list[TunedSetting]:
        """Return all combinations of batches and delays, with the instances and threads of a setting."""
        return [
            replace(of, preferred_batch_sizes=sizes, max_queue_delay_microseconds=delay)
            for sizes in self.batches
            for delay in self.delays_us
        ]


def search_space(
    config: Any,
    in_force: TunedSetting,
    given: Mapping[str, str | None],
    *,
    n_cores: int | None = None,
) -> SearchSpace:
    """Return the search space for the options.

    Args:
        config: the model's `inference.ModelConfig`.
        in_force: the current setting.
        given: values of the options `instances` (`2,3`), `threads`, `delays` (in microseconds) and `batches` (sets of
            preferred sizes, `none;4,8;8,16,32`); None for values that suit the model and the cores.

    Raises:
        SearchSpaceError: an option has a wrong form, or the model has no settings to choose.
    """
    if reason := reason_not_tunable(config):
        raise SearchSpaceError(f"{config.name} cannot be optimized: {reason}")
    instances, threads, batches, delays = (given.get(n) for n in ("instances", "threads", "batches", "delays"))
    n_cores = n_cores or len(os.sched_getaffinity(0))
    fitting = SearchSpace(
        instances=_numbers("--instances", instances, 1, MAX_INSTANCES, default=_default_instances(n_cores)),
        threads=_numbers("--threads", threads, 0, MAX_THREADS, default=(0, 1)),
        batches=_sets(batches),
        delays_us=_numbers("--delays", delays, 0, MAX_DELAY_US, default=DEFAULT_DELAYS_US),
    )
    if in_force.threads is None:
        if threads is not None:
            raise SearchSpaceError(
                f"--threads: not supported: backend {config.backend!r} of {config.name} has no setting for threads; "
                f"remove the option"
            )
        fitting = replace(fitting, threads=(None,))

    def keep(name: str, values: tuple[Any, ...], changed: Callable[[Any], TunedSetting], given: str | None) -> Any:
        """Return the values that the model supports; raise if given ones are not supported."""
        reasons = {value: reason_unfit(changed(value), config) for value in values}
        if given is not None and (wrong := next((reason for reason in reasons.values() if reason), None)):
            raise SearchSpaceError(f"{name} {given}: {config.name}: {wrong}")
        return tuple(value for value, reason in reasons.items() if reason is None)

    plain = TunedSetting(
        instances=2, threads=in_force.threads, preferred_batch_sizes=(), max_queue_delay_microseconds=0
    )
    return replace(
        fitting,
        instances=keep("--instances", fitting.instances, lambda n: replace(plain, instances=n), instances),
        batches=keep("--batches", fitting.batches, lambda sizes: replace(plain, preferred_batch_sizes=sizes), batches),
    )


def _default_instances(n_cores: int) -> tuple[int, ...]:
    """Return numbers of instances up to the number of cores plus one, so that one copies data while others compute."""
    return tuple(sorted({n for n in (1, 2, n_cores // 2, n_cores, n_cores + 1) if 1 <= n <= MAX_INSTANCES}))


def _numbers(name: str, text: str | None, minimum: int, maximum: int, *, default: tuple[int, ...]) -> tuple[int, ...]:
    if text is None:
        return default
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or not minimum <= numbers[0] <= numbers[-1] <= maximum:
        raise SearchSpaceError(f"{name}: expected integers from {minimum} to {maximum}, such as 2,3, got {text!r}")
    return tuple(numbers)


def _sets(text: str | None) -> tuple[tuple[int, ...], ...]:
    if text is None:
        return DEFAULT_BATCHES
    try:
        found = [
            () if each.strip() == _NONE else tuple(sorted({int(part) for part in each.split(",")}))
            for each in text.split(";")
        ]
    except ValueError:
        found = [(0,)]
    if any(sizes and sizes[0] < 1 for sizes in found):
        raise SearchSpaceError(
            f"--batches: expected sets of preferred batch sizes, such as 'none;4,8;8,16,32', got {text!r}"
        )
    return tuple(dict.fromkeys(found))
