"""Search for the best setting of a model by interleaved trials.

The speed of a machine drifts over minutes by more than settings differ. Therefore each round measures all settings of a
stage once, every other round in reverse order, and each setting is compared with the current one in the same round. The
measured gain of the best of many settings is biased upwards, so the best one is compared with the current setting
again, and only these rounds decide.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tritone import TritoneError
from tritone_cli.optimize.space import SearchSpace, SearchSpaceError
from tritone_export.tuned import TunedSetting
from tritone_serving.perf_analyzer import Reading

MIN_GAIN: Final = 0.03  # smaller gains do not change the setting
STAGES: Final = ("instances and threads", "batches and delay", "confirmation")
# Share of the remaining time that each stage may take.
_SHARES: Final = (0.4, 0.65, 1.0)

MeasureSetting = Callable[[TunedSetting], Reading]


class NoMeasurementError(TritoneError):
    """Raised when the current setting cannot be measured, so that nothing can be compared with it."""


@dataclass
class SettingTrial:
    """The measurements of one setting in one stage.

    Attributes:
        readings: measurements by round; None for failed ones.
        problem: reason of the last failure.
    """

    stage: str
    setting: TunedSetting
    readings: list[Reading | None] = field(default_factory=list)
    problem: str | None = None

    @property
    def per_s(self) -> float | None:
        """Median inferences per second."""
        return self._median("per_s")

    @property
    def p50_ms(self) -> float | None:
        """Median of the rounds' p50."""
        return self._median("p50_ms")

    @property
    def p99_ms(self) -> float | None:
        """Median of the rounds' p99."""
        return self._median("p99_ms")

    def ratios(self, base: SettingTrial) -> list[float]:
        """Return the throughput relative to another trial in each round that measured both."""
        pairs = zip(self.readings, base.readings, strict=False)
        return [mine.per_s / other.per_s for mine, other in pairs if mine is not None and other is not None]

    def gain(self, base: SettingTrial) -> float | None:
        """Return the median gain in throughput over another trial, as a share."""
        ratios = self.ratios(base)
        return statistics.median(ratios) - 1 if ratios else None

    def keeps(self, bound_ms: float | None) -> bool:
        """Return whether the p99 latency was measured and is within the bound."""
        p99_ms = self.p99_ms
        return p99_ms is not None and (bound_ms is None or p99_ms <= bound_ms)

    def _median(self, name: str) -> float | None:
        values = [getattr(reading, name) for reading in self.readings if reading is not None]
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class SearchResult:
    """Result of a search.

    Attributes:
        trials: all trials by stage, the current setting first in each.
        best: the setting to use; the current one if no other is better.
        gain: gain of the best over the current setting in the last stage; None if they are the same.
        spread: difference between the largest and the smallest gain of the rounds.
        why: the decision as text.
        is_within: whether `best` keeps the latency bound.
    """

    trials: tuple[SettingTrial, ...]
    in_force: TunedSetting
    best: TunedSetting
    gain: float | None
    spread: float | None
    why: str
    is_within: bool = True

    @property
    def changes(self) -> bool:
        """Whether the best setting differs from the current one."""
        return self.best != self.in_force


@dataclass(frozen=True, kw_only=True)
class SearchLimits:
    """Limits of a search.

    Attributes:
        rounds: rounds per stage, at least 2.
        limit_s: time limit; a stage ends early after a complete round.
        now_s: the clock.
    """

    rounds: int = 3
    limit_s: float = 600.0
    now_s: Callable[[], float] = time.monotonic


def search(
    space: SearchSpace,
    in_force: TunedSetting,
    measure: MeasureSetting,
    *,
    declared: TunedSetting | None = None,
    bound_ms: float | None = None,
    effort: SearchLimits | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> SearchResult:
    """Search for the setting with the highest throughput whose p99 latency is within a bound.

    The first stage varies instances and threads, the second batches and delay at the best of the first.

    Args:
        measure: measures a setting once.
        declared: another setting to try.
        on_step: called with a description of each measurement.

    Raises:
        NoMeasurementError: the current setting cannot be measured.
        SearchSpaceError: there is no other setting.
    """
    effort = effort or SearchLimits()
    deadline_s = effort.now_s() + effort.limit_s
    trials: list[SettingTrial] = []

    def stage(number: int, settings: Sequence[TunedSetting]) -> list[SettingTrial]:
        tried = [SettingTrial(STAGES[number], setting) for setting in dict.fromkeys((in_force, *settings))]
        trials.extend(tried)
        begun_s = effort.now_s()
        _rounds(tried, measure, effort, begun_s + _SHARES[number] * (deadline_s - begun_s), on_step)
        if tried[0].per_s is None:
            raise NoMeasurementError(f"the current setting ({in_force}) cannot be measured: {tried[0].problem}")
        return tried

    placements = [*([declared] if declared else []), *space.placements(in_force)]
    placed = in_force
    if not {in_force}.issuperset(placements):
        placed = _best(stage(0, placements), bound_ms)
    best, batchings = placed, space.batchings(placed)
    if not {in_force, placed}.issuperset(batchings):  # otherwise they were compared in the first stage
        best = _best(stage(1, [placed, *batchings]), bound_ms)
    if not trials:
        raise SearchSpaceError(f"expected settings to try, got only the current one: {in_force}")
    if best == in_force:
        base = next(trial for trial in reversed(trials) if trial.setting == in_force)
        kept = SearchResult(tuple(trials), in_force, in_force, None, None, "no setting has a higher throughput")
        return _check_bound(kept, base, bound_ms)
    base, winner = stage(2, [best])
    return _check_bound(_decide(trials, base, winner, bound_ms), base, bound_ms)


def _rounds(
    tried: Sequence[SettingTrial],
    measure: MeasureSetting,
    effort: SearchLimits,
    until_s: float,
    on_step: Callable[[str], None],
) -> None:
    longest_s = 0.0
    for number in range(effort.rounds):
        begun_s = effort.now_s()
        if number and begun_s + longest_s > until_s:
            break
        for trial in tried if number % 2 == 0 else reversed(tried):
            on_step(f"{trial.stage}, round {number + 1} of {effort.rounds}: {trial.setting}")
            try:
                trial.readings.append(measure(trial.setting))
            except TritoneError as error:
                trial.readings.append(None)
                trial.problem = str(error)
        longest_s = max(longest_s, effort.now_s() - begun_s)


def _best(tried: Sequence[SettingTrial], bound_ms: float | None) -> TunedSetting:
    """Return the setting with the highest throughput within the bound; if none keeps it, with the lowest p99."""
    base = tried[0]
    measured = [trial for trial in tried if trial.per_s is not None]
    within = [trial for trial in measured if trial.keeps(bound_ms)]
    if not within:
        return min(measured, key=lambda trial: trial.p99_ms or 0.0).setting
    return max(within, key=lambda trial: trial.gain(base) or 0.0).setting


def _decide(
    trials: Sequence[SettingTrial], base: SettingTrial, winner: SettingTrial, bound_ms: float | None
) -> SearchResult:
    ratios = winner.ratios(base)
    stays = SearchResult(tuple(trials), base.setting, base.setting, None, None, "")
    if len(ratios) < 2:
        why = winner.problem or "the time limit allowed fewer than two comparisons; raise --minutes"
        return replace(stays, why=f"{winner.setting}: {why}")
    gain, spread = statistics.median(ratios) - 1, max(ratios) - min(ratios)
    text = f"{winner.setting}: {gain:+.1%} throughput, spread of the rounds {spread:.1%}"
    stays = replace(stays, gain=gain, spread=spread)
    if not winner.keeps(bound_ms):
        return replace(stays, why=f"{text}, p99 {winner.p99_ms:.4g} ms, above the bound")
    if not base.keeps(bound_ms):
        text += f"; p99 {winner.p99_ms:.4g} ms, that of the current setting {base.p99_ms:.4g} ms"
    elif gain <= max(spread, MIN_GAIN):
        noise = "; use a quieter machine or more --rounds" if spread > gain > MIN_GAIN else ""
        return replace(stays, why=f"{text}: no clear gain{noise}")
    return replace(stays, best=winner.setting, why=text)


def _check_bound(found: SearchResult, base: SettingTrial, bound_ms: float | None) -> SearchResult:
    """Return the result, with a remark if no setting keeps the bound."""
    if found.changes or base.keeps(bound_ms):
        return found
    why = f"{found.why}; no setting keeps p99 within {bound_ms:g} ms under this load"
    return replace(found, why=why, is_within=False)
