"""The search itself: measures settings in interleaved rounds, and changes nothing that is not clearly worth it.

A machine drifts by more than settings differ, over minutes. So all settings of a stage are measured once a round, the
next round in the other order, and each is compared with what is in force within the same round. Of many settings the
best is also the luckiest; so it meets what is in force once more, alone, and only those rounds decide.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tritone import TritoneError
from tritone_cli.optimizing.space import Space, SpaceError
from tritone_export.tuned import Setting
from tritone_serving.perf_analyzer import Reading

LEAST_GAIN: Final = 0.03  # below this a change is not worth telling anybody
STAGES: Final = ("instances and threads", "batches and delay", "once more")
# Of the time that is left, each stage may take so much.
_SHARES: Final = (0.4, 0.65, 1.0)

Turn = Callable[[Setting], Reading]


class NoFigureError(TritoneError):
    """What is in force cannot be measured, so nothing can be compared with it."""


@dataclass
class Trial:
    """One setting in one stage.

    Attributes:
        readings: by round; None where there is no figure.
        problem: why one is missing.
    """

    stage: str
    setting: Setting
    readings: list[Reading | None] = field(default_factory=list)
    problem: str | None = None

    @property
    def per_s(self) -> float | None:
        """Median inferences a second."""
        return self._median("per_s")

    @property
    def p50_ms(self) -> float | None:
        """Median of the rounds' p50."""
        return self._median("p50_ms")

    @property
    def p99_ms(self) -> float | None:
        """Median of the rounds' p99."""
        return self._median("p99_ms")

    def ratios(self, base: Trial) -> list[float]:
        """Throughput over that of another trial, in each round that has both."""
        pairs = zip(self.readings, base.readings, strict=False)
        return [mine.per_s / other.per_s for mine, other in pairs if mine is not None and other is not None]

    def gain(self, base: Trial) -> float | None:
        """By what share it carries more than another."""
        ratios = self.ratios(base)
        return statistics.median(ratios) - 1 if ratios else None

    def keeps(self, bound_ms: float | None) -> bool:
        """Whether it has a figure, within the bound."""
        p99_ms = self.p99_ms
        return p99_ms is not None and (bound_ms is None or p99_ms <= bound_ms)

    def _median(self, name: str) -> float | None:
        values = [getattr(reading, name) for reading in self.readings if reading is not None]
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        trials: all, stage by stage, what is in force first in each.
        best: the setting to serve with; what is in force where nothing beats it.
        gain: of the best over what is in force, in the last rounds; None if it is in force, or has no such figure.
        spread: of that gain, between rounds.
        why: the decision, in words.
        is_within: whether `best` keeps the bound.
    """

    trials: tuple[Trial, ...]
    in_force: Setting
    best: Setting
    gain: float | None
    spread: float | None
    why: str
    is_within: bool = True

    @property
    def changes(self) -> bool:
        """Whether something is to be written."""
        return self.best != self.in_force


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to look.

    Attributes:
        rounds: of each stage, 2 or more.
        limit_s: for all of it; a stage is cut short after a round.
        now_s: a clock.
    """

    rounds: int = 3
    limit_s: float = 600.0
    now_s: Callable[[], float] = time.monotonic


def search(
    space: Space,
    in_force: Setting,
    turn: Turn,
    *,
    declared: Setting | None = None,
    bound_ms: float | None = None,
    effort: Effort | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Found:
    """Look for the setting that carries most with its p99 within a bound.

    Instances and threads first, with batches and delay as they are; then these, at the best of the former.

    Args:
        turn: measures a setting once.
        declared: tried too.
        on_step: told what is measured.

    Raises:
        NoFigureError: what is in force cannot be measured.
        SpaceError: there is nothing else.
    """
    effort = effort or Effort()
    deadline_s = effort.now_s() + effort.limit_s
    trials: list[Trial] = []

    def stage(number: int, settings: Sequence[Setting]) -> list[Trial]:
        tried = [Trial(STAGES[number], setting) for setting in dict.fromkeys((in_force, *settings))]
        trials.extend(tried)
        begun_s = effort.now_s()
        _rounds(tried, turn, effort, begun_s + _SHARES[number] * (deadline_s - begun_s), on_step)
        if tried[0].per_s is None:
            raise NoFigureError(f"what is in force ({in_force}) has no figure: {tried[0].problem}")
        return tried

    placements = [*([declared] if declared else []), *space.placements(in_force)]
    placed = in_force
    if not {in_force}.issuperset(placements):
        placed = _best(stage(0, placements), bound_ms)
    best, batchings = placed, space.batchings(placed)
    if not {in_force, placed}.issuperset(batchings):  # else these were compared just now
        best = _best(stage(1, [placed, *batchings]), bound_ms)
    if not trials:
        raise SpaceError(f"there is nothing to try but what is in force: {in_force}")
    if best == in_force:
        base = next(trial for trial in reversed(trials) if trial.setting == in_force)
        kept = Found(tuple(trials), in_force, in_force, None, None, "nothing that was tried carries more")
        return _judged(kept, base, bound_ms)
    base, winner = stage(2, [best])
    return _judged(_decide(trials, base, winner, bound_ms), base, bound_ms)


def _rounds(tried: Sequence[Trial], turn: Turn, effort: Effort, until_s: float, on_step: Callable[[str], None]) -> None:
    longest_s = 0.0
    for number in range(effort.rounds):
        begun_s = effort.now_s()
        if number and begun_s + longest_s > until_s:
            break
        for trial in tried if number % 2 == 0 else reversed(tried):
            on_step(f"{trial.stage}, round {number + 1} of {effort.rounds}: {trial.setting}")
            try:
                trial.readings.append(turn(trial.setting))
            except TritoneError as error:
                trial.readings.append(None)
                trial.problem = str(error)
        longest_s = max(longest_s, effort.now_s() - begun_s)


def _best(tried: Sequence[Trial], bound_ms: float | None) -> Setting:
    """The most throughput within the bound; where none keeps it, the lowest p99."""
    base = tried[0]
    measured = [trial for trial in tried if trial.per_s is not None]
    within = [trial for trial in measured if trial.keeps(bound_ms)]
    if not within:
        return min(measured, key=lambda trial: trial.p99_ms or 0.0).setting
    return max(within, key=lambda trial: trial.gain(base) or 0.0).setting


def _decide(trials: Sequence[Trial], base: Trial, winner: Trial, bound_ms: float | None) -> Found:
    ratios = winner.ratios(base)
    stays = Found(tuple(trials), base.setting, base.setting, None, None, "")
    if len(ratios) < 2:
        why = winner.problem or "no time was left to compare it twice; raise --minutes"
        return replace(stays, why=f"{winner.setting}: {why}")
    gain, spread = statistics.median(ratios) - 1, max(ratios) - min(ratios)
    told = f"{winner.setting}: {gain:+.1%} throughput, spread of the rounds {spread:.1%}"
    stays = replace(stays, gain=gain, spread=spread)
    if not winner.keeps(bound_ms):
        return replace(stays, why=f"{told}, p99 {winner.p99_ms:.4g} ms, above the bound")
    if not base.keeps(bound_ms):
        told += f"; its p99 is {winner.p99_ms:.4g} ms, and that of what is in force {base.p99_ms:.4g} ms"
    elif gain <= max(spread, LEAST_GAIN):
        noise = "; a quieter machine or more --rounds would tell" if spread > gain > LEAST_GAIN else ""
        return replace(stays, why=f"{told}: no clear gain{noise}")
    return replace(stays, best=winner.setting, why=told)


def _judged(found: Found, base: Trial, bound_ms: float | None) -> Found:
    """With a word where nothing keeps the bound."""
    if found.changes or base.keeps(bound_ms):
        return found
    why = f"{found.why}; nothing is known to keep p99 within {bound_ms:g} ms under this load"
    return replace(found, why=why, is_within=False)
