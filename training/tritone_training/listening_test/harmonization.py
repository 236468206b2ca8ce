"""Listening test of `harmonize`: harmonized held-out melodies, compared with real music of several voices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from tritone import MusicClient, Piece
from tritone.arguments import check_count
from tritone.music.grid import Grid
from tritone.operations.many import map_ordered
from tritone.operations.plan import highest_voice
from tritone_training.evaluation import Summary, SummaryTable
from tritone_training.listening_test.estimates import Estimate, estimate_mean
from tritone_training.listening_test.pieces import ListeningPiece, n_full_bars
from tritone_training.listening_test.reference import Reference, load_reference
from tritone_training.listening_test.result import MeasureResult, Target, with_interval, with_real
from tritone_training.musicality.harmony import HARMONY_MEASURES, measure_harmony
from tritone_training.musicality.texture import polyphony_of
from tritone_training.progress import progress_bar
from tritone_training.quality import spread

N_MELODIES: Final = 50
_MOST_MELODIES: Final = 100  # of a style, as many as the reference has
MOST_BARS: Final = 64  # of a melody; the first bars of a longer piece
HARMONY_TARGETS: Final[Mapping[str, Target]] = {
    "accompanied": Target(least=0.98),
    "n_notes": Target(least=3.5, most=4.5),
    "parallels": Target(most=2.0, of_real=True),
}
_TITLES: Final = {**HARMONY_MEASURES, "nll": "nats per time step"}
OnHarmonization = Callable[[str, int, int, Piece], object]


@dataclass(frozen=True)
class HarmonizationGroup:
    """The harmonizations of the melodies of one style.

    Attributes:
        style: of the melodies.
        n_candidates: number of candidates of each harmonization; None for the client's default.
        n_pieces: number of melodies.
        measures: by name; see `HARMONY_MEASURES`; `nll` is the mean negative log-likelihood of a time step, in nats.
    """

    style: str
    n_candidates: int | None
    n_pieces: int
    measures: Mapping[str, MeasureResult]

    @property
    def title(self) -> str:
        """Return the head of a column."""
        if self.n_candidates is None:
            return self.style
        return f"{self.style}, {self.n_candidates} candidate{'s' * (self.n_candidates > 1)}"


@dataclass(frozen=True)
class HarmonizationTestResult:
    """The result of a listening test of `harmonize`.

    Attributes:
        source: the model and its version.
        reference: description of the real pieces.
        real_style: the style of the real pieces that the harmonizations are compared with.
        n_real: number of these pieces.
        groups: by style of the melodies and number of candidates.
        details: arguments of the test.
    """

    source: str
    reference: str
    real_style: str
    n_real: int
    groups: Sequence[HarmonizationGroup]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_missed(self) -> int:
        """Return how many targets are missed, over all groups."""
        return sum(each.is_met is False for group in self.groups for each in group.measures.values())

    @property
    def overview(self) -> SummaryTable:
        """Return the means of all measures, the values of real pieces, and the targets."""
        rows = []
        for name, title in _TITLES.items():
            measures = {group.title: group.measures[name] for group in self.groups}
            real = next(iter(measures.values())).real
            rows.append(
                {
                    "": title,
                    **{column: with_real(each, shows_real=False) for column, each in measures.items()},
                    f"real {self.real_style}": with_interval(real),
                    "target": str(HARMONY_TARGETS.get(name, "")),
                }
            )
        return SummaryTable(f"{self.source}: harmonizations of held-out melodies (mean)", rows)

    @property
    def summary(self) -> Summary:
        """Return lines and tables for people."""
        n_targets = sum(each.is_met is not None for group in self.groups for each in group.measures.values())
        return [self.overview, f"{n_targets - self.n_missed} of {n_targets} targets met; real pieces: {self.reference}"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "source": self.source,
            "reference": self.reference,
            "real_style": self.real_style,
            "n_real": self.n_real,
            **self.details,
            "n_missed": self.n_missed,
            "groups": [
                {**vars(group), "measures": {name: each.to_dict() for name, each in group.measures.items()}}
                for group in self.groups
            ],
        }


def harmonization_test(
    music: MusicClient,
    model: str,
    *,
    n_melodies: int = N_MELODIES,
    n_candidates: Sequence[int] | None = None,
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
    data: Path | str | None = None,
    concurrency: int = 4,
    progress: bool = True,
    on_piece: OnHarmonization | None = None,
) -> HarmonizationTestResult:
    """Harmonize real held-out melodies with a served model, and compare the voices with those of real music.

    The melodies are the highest voices of held-out pieces of each style. The harmonizations are compared with real
    pieces of the style in which most notes sound at once.

    Args:
        music: a client.
        model: a model that harmonizes: `music_transformer`.
        n_melodies: most melodies of each style, 1 to 100.
        n_candidates: numbers of candidates, each of which is tested; the client's default if None.
        seed: of the first melody of a style; the others follow it.
        arguments: arguments of each call, such as `temperature` and `style`; all others keep the client's defaults.
        data: real scores, as for `tritone train`; the embedded corpus if None.
        concurrency: number of requests at once, 1 to 256.
        progress: show progress bars on stderr.
        on_piece: called with the style of the melody, its number, the number of candidates (0: default) and each piece.

    Raises:
        InvalidInputError: an argument is invalid, or the model cannot harmonize.
        DataError: there are no real scores.
        ClientError: the server cannot be reached, or a call failed.
    """
    check_count("n_melodies", n_melodies, least=1, most=_MOST_MELODIES)
    arguments = dict(arguments or {})
    reference = load_reference(None if data is None else Path(data), style=None, progress=progress)
    sources = _sources(reference, n_melodies)
    real_style = max(sources, key=lambda style: float(np.mean([polyphony_of(each) for each in sources[style]])))
    real = [measure_harmony(each, highest_voice(each.frames)) for each in sources[real_style]]
    groups, versions = [], []
    for n in (None,) if n_candidates is None else n_candidates:
        own = arguments if n is None else {**arguments, "n_candidates": n}
        for style, grids in sources.items():
            pieces = _harmonized(music, model, grids, own, seed, concurrency=concurrency, progress=progress)
            if on_piece is not None:
                for number, piece in enumerate(pieces):
                    on_piece(style, number, n or 0, piece)
            versions.append(pieces[0].model_version)
            groups.append(_group(style, n, grids, pieces, real))
    return HarmonizationTestResult(
        source=f"{model} v{versions[0]}",
        reference=reference.source,
        real_style=real_style,
        n_real=len(real),
        groups=groups,
        details={"seed": seed, "n_melodies": n_melodies, "arguments": arguments},
    )


def _sources(reference: Reference, n_most: int) -> dict[str, list[Grid]]:
    """Return the pieces of each style, evenly spaced, at most so many of each and of 64 bars each."""
    styles = sorted({piece.style or "" for piece in reference.pieces})
    by_style = {style: [piece for piece in reference.pieces if (piece.style or "") == style] for style in styles}
    return {
        style or "pieces": [_shortened(pieces[index]) for index in spread(len(pieces), n_most)]
        for style, pieces in by_style.items()
    }


def _shortened(piece: ListeningPiece) -> Grid:
    return piece.whole if n_full_bars(piece.whole) <= MOST_BARS else piece.first_bars(MOST_BARS).grid


def _harmonized(
    music: MusicClient,
    model: str,
    grids: Sequence[Grid],
    arguments: Mapping[str, Any],
    seed: int,
    *,
    concurrency: int,
    progress: bool,
) -> list[Piece]:
    def harmonize(number: int) -> Piece:
        melody = replace(grids[number], frames=highest_voice(grids[number].frames))
        return music.harmonize(melody, seed=seed + number, model=model, **arguments)

    with progress_bar("harmonizing", shown=progress) as on_progress:
        found = map_ordered(
            harmonize,
            range(len(grids)),
            concurrency=concurrency,
            on_error="raise",
            on_progress=lambda n_done: on_progress(n_done, len(grids)),
        )
        return [_checked(each) for each in found]


def _checked(piece: Piece | Exception) -> Piece:
    if isinstance(piece, Exception):  # not with on_error="raise"
        raise piece
    return piece


def _group(
    style: str,
    n_candidates: int | None,
    grids: Sequence[Grid],
    pieces: Sequence[Piece],
    real: Sequence[Mapping[str, float]],
) -> HarmonizationGroup:
    found = [measure_harmony(piece.grid, highest_voice(grid.frames)) for grid, piece in zip(grids, pieces, strict=True)]
    for values, piece in zip(found, pieces, strict=True):
        values["nll"] = math.nan if piece.nll is None else float(np.nanmean(piece.nll))
    measures = {
        name: MeasureResult(_estimate(found, name), _estimate(real, name), {}, {}, HARMONY_TARGETS.get(name))
        for name in _TITLES
    }
    return HarmonizationGroup(style, n_candidates, len(pieces), measures)


def _estimate(values: Sequence[Mapping[str, float]], name: str) -> Estimate:
    return estimate_mean([each.get(name, math.nan) for each in values])
