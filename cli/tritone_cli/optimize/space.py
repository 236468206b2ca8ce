"""The settings that are tried: what the options ask for, or what the number of cores suggests."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tritone import TritoneError
from tritone_export.tuned import MAX_DELAY_US, MAX_INSTANCES, MAX_THREADS, Setting, nothing_to_choose, unfit

DEFAULT_BATCHES: Final = ((), (4, 8), (8, 16, 32))
DEFAULT_DELAYS_US: Final = (0, 500, 2000)
_NONE: Final = "none"


class SpaceError(TritoneError, ValueError):
    """The options ask for no setting, or for one that the model cannot have."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """What may be combined.

    Attributes:
        threads: of each instance; (None,) where the model's backend takes no number.
        batches: sets of preferred batch sizes.
        delays_us: how long to wait for them.
    """

    instances: tuple[int, ...]
    threads: tuple[int | None, ...]
    batches: tuple[tuple[int, ...], ...]
    delays_us: tuple[int, ...]

    def placements(self, of: Setting) -> list[Setting]:
        """All instances and threads, with batches and delay as they are."""
        return [replace(of, instances=n, threads=threads) for n in self.instances for threads in self.threads]

    def batchings(self, of: Setting) -> list[Setting]:
        """All batches and delays, with instances and threads as they are."""
        return [
            replace(of, preferred_batch_sizes=sizes, max_queue_delay_microseconds=delay)
            for sizes in self.batches
            for delay in self.delays_us
        ]


def space_for(
    config: Any,
    in_force: Setting,
    spoken: Mapping[str, str | None],
    *,
    n_cores: int | None = None,
) -> Space:
    """Read the options.

    Args:
        config: the model's `inference.ModelConfig`.
        in_force: as it is served now.
        spoken: what was said of `instances` (`2,3`), `threads`, `delays` (in microseconds) and `batches` (sets of
            preferred sizes, `none;4,8;8,16,32`); None for what suits the model and the cores.

    Raises:
        SpaceError: says what is expected, or why there is nothing to choose.
    """
    if reason := nothing_to_choose(config):
        raise SpaceError(f"{config.name} cannot be optimized: {reason}")
    instances, threads, batches, delays = (spoken.get(n) for n in ("instances", "threads", "batches", "delays"))
    n_cores = n_cores or len(os.sched_getaffinity(0))
    fitting = Space(
        instances=_numbers("--instances", instances, 1, MAX_INSTANCES, default=_default_instances(n_cores)),
        threads=_numbers("--threads", threads, 0, MAX_THREADS, default=(0, 1)),
        batches=_sets(batches),
        delays_us=_numbers("--delays", delays, 0, MAX_DELAY_US, default=DEFAULT_DELAYS_US),
    )
    if in_force.threads is None:
        if threads is not None:
            raise SpaceError(f"--threads: {config.name}'s backend {config.backend!r} takes no number of threads")
        fitting = replace(fitting, threads=(None,))

    def keep(name: str, values: tuple[Any, ...], changed: Callable[[Any], Setting], given: str | None) -> Any:
        """Leave out what the model cannot have, unless it was asked for."""
        reasons = {value: unfit(changed(value), config) for value in values}
        if given is not None and (wrong := next((reason for reason in reasons.values() if reason), None)):
            raise SpaceError(f"{name} {given}: {config.name}: {wrong}")
        return tuple(value for value, reason in reasons.items() if reason is None)

    plain = Setting(instances=2, threads=in_force.threads, preferred_batch_sizes=(), max_queue_delay_microseconds=0)
    return replace(
        fitting,
        instances=keep("--instances", fitting.instances, lambda n: replace(plain, instances=n), instances),
        batches=keep("--batches", fitting.batches, lambda sizes: replace(plain, preferred_batch_sizes=sizes), batches),
    )


def _default_instances(n_cores: int) -> tuple[int, ...]:
    """From one that leaves the cores to its threads up to one more than there are cores, which copies meanwhile."""
    return tuple(sorted({n for n in (1, 2, n_cores // 2, n_cores, n_cores + 1) if 1 <= n <= MAX_INSTANCES}))


def _numbers(name: str, text: str | None, least: int, most: int, *, default: tuple[int, ...]) -> tuple[int, ...]:
    if text is None:
        return default
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or not least <= numbers[0] <= numbers[-1] <= most:
        raise SpaceError(f"{name} is {text!r}; expected whole numbers from {least} to {most}, as in 2,3")
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
        raise SpaceError(f"--batches is {text!r}; expected sets of preferred sizes, as in 'none;4,8;8,16,32'")
    return tuple(dict.fromkeys(found))
