"""Run a listening test on a served model or on a folder of MIDI files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tritone import InvalidInputError, MusicClient, Piece
from tritone.arguments import check_count
from tritone.operations.many import map_ordered
from tritone.operations.plan import N_BARS_MAX
from tritone_training.exceptions import DataError
from tritone_training.listening_test.piece_generator import SAMPLE_BARS, ServedPieceGenerator
from tritone_training.listening_test.pieces import ListeningPiece, long_enough, piece_of, read_folder
from tritone_training.listening_test.reference import Reference, load_reference
from tritone_training.listening_test.result import LengthResult, ListeningTestResult, compare
from tritone_training.progress import progress_bar

DEFAULT_BARS: Final = (8, 16, 32, 64)
N_SEEDS: Final = 50
_MAX_SEEDS: Final = 100_000
OnPiece = Callable[[int, Piece], object]


def listening_test_of_model(
    music: MusicClient,
    model: str,
    *,
    bars: Sequence[int] | None = None,
    n_seeds: int = N_SEEDS,
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
    all_keys: bool = False,
    data: Path | str | None = None,
    concurrency: int = 4,
    progress: bool = True,
    on_piece: OnPiece | None = None,
) -> ListeningTestResult:
    """Request one piece per seed and length from a served model, and compare them with real pieces.

    Args:
        music: a client.
        model: a model that composes from scratch: `music_transformer`, `composer`, `polyphony_rnn`, `music_vae` or
            `music_gan`.
        bars: lengths in bars, 1 to 256 each; 8, 16, 32 and 64 if None. Models that sample generate 2.
        n_seeds: number of pieces of each length, at least 1.
        seed: the first seed; the others follow it.
        arguments: arguments of each call, such as `temperature` and `style`; all others keep the client's defaults.
        all_keys: request each of the 24 keys in turn, to measure whether they are kept.
        data: real scores to compare with, as for `tritone train`; the embedded corpus if None. With a `style` that the
            data have, only its pieces are used.
        concurrency: number of requests at once, 1 to 256.
        progress: show progress bars on stderr.
        on_piece: called with the number of bars and each piece, in order, to save them.

    Raises:
        InvalidInputError: an argument is invalid, the model cannot generate music, or not so many bars.
        DataError: there are no real scores.
        ClientError: the server cannot be reached, or a call failed.
    """
    arguments = dict(arguments or {})
    check_count("n_seeds", n_seeds, least=1, most=_MAX_SEEDS)
    lengths = _checked_bars(bars)
    generator = ServedPieceGenerator(
        music, model, arguments=arguments, all_keys=all_keys, bars=max(lengths), seed=seed
    )  # the longest pieces first, so that a length beyond the model's limit is reported at once
    if generator.samples:
        if bars is not None and set(lengths) != {SAMPLE_BARS}:
            raise InvalidInputError(
                f"model {model!r} samples pieces of {SAMPLE_BARS} bars: expected bars={SAMPLE_BARS}, got "
                f"{', '.join(map(str, lengths))}; omit the number of bars",
                model=model,
                argument="bars",
            )
        lengths = (SAMPLE_BARS,)
    reference = load_reference(None if data is None else Path(data), style=arguments.get("style"), progress=progress)
    seeds = range(seed, seed + n_seeds)
    pieces = _generated(generator, lengths, seeds, concurrency=concurrency, progress=progress, on_piece=on_piece)
    return ListeningTestResult(
        source=f"{model} v{generator.first.model_version}",
        reference=reference.source,
        lengths=_compared(pieces, reference, progress=progress),
        details={"seed": seed, "n_seeds": n_seeds, "arguments": arguments, "all_keys": all_keys},
    )


def listening_test_of_files(
    folder: Path | str,
    *,
    bars: Sequence[int] | None = None,
    style: str | None = None,
    data: Path | str | None = None,
    progress: bool = True,
) -> ListeningTestResult:
    """Compare MIDI files with real pieces.

    A file is used for each length that it has, or is one bar short of: its first bars and its end are measured.

    Args:
        folder: MIDI files; the name of a topmost subfolder is the style of its files.
        bars: lengths in bars; those of 8, 16, 32 and 64 that at least one file has if None.
        style: compare with this style only, if the data have it.
        data, progress: as for `listening_test_of_model`.

    Raises:
        InvalidInputError: a length is invalid.
        DataError: no file can be read, none has so many bars, or there are no real scores.
    """
    lengths = _checked_bars(bars)
    found, problems = read_folder(Path(folder), progress=progress)
    pieces = {n_bars: long_enough(found, n_bars) for n_bars in lengths}
    has_notes = any(piece.whole.n_notes for piece in found)
    missing = [n for n, each in pieces.items() if not any(piece.whole.n_notes for piece in each)] if has_notes else []
    if len(missing) == len(pieces) or (bars is not None and missing):
        longest = max(piece.whole.n_bars for piece in found)
        raise DataError(
            f"{folder}: too short: expected files of {min(missing)} bars, got {len(found)} of at most {longest}; "
            f"give fewer bars"
        )
    pieces = {n_bars: each for n_bars, each in pieces.items() if n_bars not in missing}
    reference = load_reference(None if data is None else Path(data), style=style, progress=progress)
    return ListeningTestResult(
        source=str(folder),
        reference=reference.source,
        lengths=_compared(pieces, reference, progress=progress),
        details={
            "n_files": len(found),
            "problems": [{"path": each.name, "reason": each.reason, "message": each.message} for each in problems],
        },
    )


def _checked_bars(bars: Sequence[int] | None) -> tuple[int, ...]:
    if bars is None:
        return DEFAULT_BARS
    if not bars:
        raise InvalidInputError("no lengths: expected at least one number of bars, got none", argument="bars")
    for each in bars:
        check_count("bars", each, least=1, most=N_BARS_MAX)
    return tuple(sorted(set(map(int, bars))))


def _generated(
    generator: ServedPieceGenerator,
    lengths: Sequence[int],
    seeds: range,
    *,
    concurrency: int,
    progress: bool,
    on_piece: OnPiece | None,
) -> dict[int, list[ListeningPiece]]:
    jobs = [(n_bars, seed) for n_bars in lengths for seed in seeds]
    pieces: dict[int, list[ListeningPiece]] = {n_bars: [] for n_bars in lengths}
    with progress_bar("generating pieces", shown=progress) as on_progress:
        results = map_ordered(
            lambda job: generator.generate(*job),
            jobs,
            concurrency=concurrency,
            on_error="raise",
            on_progress=lambda n_done: on_progress(n_done, len(jobs)),
        )
        for (n_bars, seed), piece in zip(jobs, results, strict=True):
            if isinstance(piece, Exception):  # not with on_error="raise"
                raise piece
            pieces[n_bars].append(piece_of(piece, generator.requested(seed)))
            if on_piece is not None:
                on_piece(n_bars, piece)
    return pieces


def _compared(
    pieces: Mapping[int, Sequence[ListeningPiece]], reference: Reference, *, progress: bool
) -> list[LengthResult]:
    found = []
    with progress_bar("measuring (lengths)", shown=progress) as on_progress:
        for n_bars, each in pieces.items():
            found.append(compare(n_bars, each, reference.first_bars(n_bars), reference.note_lengths(n_bars)))
            on_progress(len(found), len(pieces))
    return found
