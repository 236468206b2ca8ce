"""Evaluation of `music_transformer`: nats per frame, by the protocol of the field.

Every frame of a split counts once, the first of a piece included (with nothing before it), and pieces are never cut
(Boulanger-Lewandowski et al. 2012, arXiv:1206.6392).

Shapes: T frames of a piece.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone.music.grid import LOWEST_PITCH, N_PITCHES
from tritone_training.data.scores import ScorePiece, ScoreSet, load_scores
from tritone_training.evaluation import EvaluationResult, summarize
from tritone_training.exceptions import DataError, TrainingError
from tritone_training.kind import EvaluateRequest, data_path
from tritone_training.kinds.music_transformer.dataset import WholePieces
from tritone_training.kinds.music_transformer.generator import PieceGenerator
from tritone_training.kinds.music_transformer.module import frame_nll
from tritone_training.kinds.music_transformer.network import MusicTransformer, load_network
from tritone_training.kinds.music_transformer.notes import MAX_NOTES, N_TOKENS
from tritone_training.plots import saved_figure
from tritone_training.progress import progress_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BATCH_FRAMES: Final = 4096
_N_SHOWN: Final = 3  # pieces side by side with as many written ones
_SHOWN_FRAMES: Final = 128
_SMOOTHED_FRAMES: Final = 8
_FEWEST_PIECES: Final = 3  # that the mean along a piece is taken over


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of some pieces.

    Attributes:
        metrics: JSON-able.
        pieces: those evaluated, in the order of `nll`.
        nll: (T,) nats of each piece's frames.
    """

    metrics: dict[str, Any]
    pieces: tuple[ScorePiece, ...]
    nll: tuple[npt.NDArray[np.float64], ...]


def evaluate_network(
    network: MusicTransformer,
    pieces: Sequence[ScorePiece],
    styles: Sequence[str],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Return the exact negative log-likelihood of every frame given all frames before it.

    Args:
        network: in eval mode.
        styles: those that the network was trained with, in its order.

    Raises:
        TrainingError: the network diverged in training.
    """
    batches = WholePieces(pieces, styles, onsets=network.onsets, batch_frames=_BATCH_FRAMES)
    answers: list[npt.NDArray[np.float64]] = []
    with torch.inference_mode():
        for index in range(len(batches)):
            batch = batches[index]
            nll = frame_nll(network, batch).double().numpy()
            answers += np.split(nll, np.cumsum(batch.counted.sum(1).numpy())[:-1])
            on_progress(len(answers), len(pieces))
    ordered = tuple(pieces[index] for index in batches.order)
    if not all(np.isfinite(nll).all() for nll in answers):
        raise TrainingError("the network returns non-finite values: training diverged; lower the learning rate")
    return Evaluation(_metrics(ordered, answers), ordered, tuple(answers))


def _metrics(pieces: Sequence[ScorePiece], nll: Sequence[npt.NDArray[np.float64]]) -> dict[str, Any]:
    whole = _likelihood(pieces, nll)
    styles = sorted({piece.style for piece in pieces})
    by_style = {}
    for style in styles:
        chosen = [index for index, piece in enumerate(pieces) if piece.style == style]
        by_style[style] = _likelihood([pieces[index] for index in chosen], [nll[index] for index in chosen])
    return {**whole, "styles": by_style}


def _likelihood(pieces: Sequence[ScorePiece], nll: Sequence[npt.NDArray[np.float64]]) -> dict[str, Any]:
    """Return nats per frame, and the perplexity per note."""
    nats = float(sum(each.sum() for each in nll))
    n_frames = sum(len(each) for each in nll)
    n_notes = sum(int((piece.frames > 0).sum()) for piece in pieces)
    return {
        "nll_per_frame": nats / n_frames,
        "log_likelihood_per_frame": -nats / n_frames,
        "note_perplexity": math.exp(nats / n_notes) if n_notes else None,
        "n_frames": n_frames,
        "n_notes": n_notes,
        "n": len(pieces),
    }


def evaluate(request: EvaluateRequest) -> EvaluationResult:
    """Evaluate a checkpoint on a split of a data set, or on all of it.

    Raises:
        DataError: there is no such split.
    """
    network, _, info = load_network(request.checkpoint)
    scores = load_scores(data_path(request), progress=request.progress)
    pieces = _selected(scores, request)
    with progress_bar("evaluating pieces", shown=request.progress) as on_progress:
        evaluation = evaluate_network(network, pieces, info["styles"], on_progress=on_progress)
    same_data = scores.fingerprint == info.get("data", {}).get("fingerprint")
    names = [piece.name for piece in pieces]
    n_of = {part: len(set(names) & set(info["splits"][part])) for part in ("train", "valid")}
    details = {
        "split": request.split,
        # Metrics on pieces that the checkpoint was trained on say nothing about new ones.
        "n_seen_in_training": n_of["train"] if same_data else None,
        "n_early_stopping": n_of["valid"] if same_data else None,  # decided when training stopped
        "trained_on": info.get("data", {}).get("source"),
        "likelihood": "joint over the notes of a frame, exact; one network, one pass, no adaptation to the piece",
    }
    return EvaluationResult(
        request.checkpoint,
        scores.source,
        metrics=evaluation.metrics,
        details=details,
        summary=summarize({**evaluation.metrics, **details}),
        report=None if request.report is None else write_report(request.report, evaluation, network, info),
    )


def _selected(scores: ScoreSet, request: EvaluateRequest) -> tuple[ScorePiece, ...]:
    if request.split is not None:
        return scores.split(request.split)
    if not scores.pieces:
        raise DataError(f"{scores.source}: holds no usable piece")
    return scores.pieces


def write_report(folder: Path, evaluation: Evaluation, network: MusicTransformer, info: Mapping[str, Any]) -> list[str]:
    """Write the files of the report and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with saved_figure(folder / "nll_by_style.png", (7, 4)) as [[axes]]:
        _draw_styles(axes, evaluation.metrics)
    with saved_figure(folder / "nll_along_a_piece.png", (7, 4)) as [[axes]]:
        _draw_course(axes, evaluation)
    real = [evaluation.pieces[index] for index in _spread(len(evaluation.pieces), _N_SHOWN)]
    written = compose(network, n=len(real), n_frames=_SHOWN_FRAMES, meter=real[0].meter)
    with saved_figure(folder / "held_out_and_written.png", (12, 3 * len(real)), len(real), 2) as rows:
        for seed, (piece, grid, (left, right)) in enumerate(zip(real, written, rows, strict=True)):
            _draw_roll(left, piece.frames[:_SHOWN_FRAMES], f"held out: {piece.name}")
            _draw_roll(right, grid, f"generated, seed {seed}")
    _write_table(folder / "pieces.csv", evaluation)
    names = ("nll_by_style.png", "nll_along_a_piece.png", "held_out_and_written.png", "pieces.csv")
    return [str(folder / name) for name in names]


def compose(
    network: MusicTransformer, *, n: int, n_frames: int, meter: tuple[int, int] = (0, 0)
) -> npt.NDArray[np.uint8]:
    """Compose n pieces without a prompt, with seeds 0 to n - 1: (n, T, P) grid values."""
    noise = torch.stack([torch.rand(n_frames, MAX_NOTES, generator=torch.Generator().manual_seed(i)) for i in range(n)])
    with torch.inference_mode():
        frames, _ = PieceGenerator(network).eval()(
            torch.zeros(n, n_frames, N_PITCHES, dtype=torch.uint8),
            torch.zeros(n, n_frames, dtype=torch.uint8),
            torch.tensor([meter] * n),
            *(torch.zeros(n, dtype=torch.int64) for _ in ("style", "key", "density", "n_voices", "end")),
            torch.zeros(n, n_frames, dtype=torch.int64),
            noise,
            torch.ones(n),
            torch.full((n,), N_TOKENS),
            torch.ones(n),
        )
    answer: npt.NDArray[np.uint8] = frames.numpy()
    return answer


def _spread(n_all: int, n_wanted: int) -> list[int]:
    """Return evenly spaced indices from the first to the last."""
    return sorted({round(index) for index in np.linspace(0, n_all - 1, min(n_wanted, n_all))})


def _draw_styles(axes: Axes, metrics: Mapping[str, Any]) -> None:
    styles = metrics["styles"]
    # Names are the user's: without parse_math, one that holds two dollar signs is read as a formula.
    names = [f"{name} ({styles[name]['n']})" for name in styles]
    axes.barh(range(len(names)), [each["nll_per_frame"] for each in styles.values()], color="tab:green")
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    axes.axvline(metrics["nll_per_frame"], color="black", linewidth=0.8)
    axes.set_xlabel("nats per frame; fewer are better")
    axes.set_title(f"all: {metrics['nll_per_frame']:.3f} over {metrics['n_frames']:,} frames")


def _draw_course(axes: Axes, evaluation: Evaluation) -> None:
    longest = max(len(nll) for nll in evaluation.nll)
    rows = np.full((len(evaluation.nll), longest), np.nan)
    for row, nll in zip(rows, evaluation.nll, strict=True):
        row[: len(nll)] = nll
    enough = np.isfinite(rows).sum(0) >= min(_FEWEST_PIECES, len(rows))
    mean = np.nanmean(rows[:, enough], axis=0)
    width = min(_SMOOTHED_FRAMES, len(mean))
    smooth = np.convolve(mean, np.ones(width) / width, mode="valid")
    axes.plot(np.arange(len(smooth)) + width / 2, smooth, color="tab:blue")
    axes.set(xlabel="frames since the beginning", ylabel="nats per frame")
    axes.set_title(f"along a piece (mean over {len(rows)}, smoothed over {width} frames)")


def _draw_roll(axes: Axes, frames: npt.NDArray[np.uint8], title: str) -> None:
    axes.imshow(
        frames.T,
        origin="lower",
        aspect="auto",
        cmap="Greens",
        interpolation="nearest",
        vmin=0,
        vmax=2,
        extent=(0, len(frames), LOWEST_PITCH - 0.5, LOWEST_PITCH + N_PITCHES - 0.5),
    )
    axes.set(xlabel="frame", ylabel="MIDI pitch")
    axes.set_title(title, fontsize=8, parse_math=False)


def _write_table(path: Path, evaluation: Evaluation) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["piece", "style", "n_frames", "nll_per_frame"])
        for piece, nll in zip(evaluation.pieces, evaluation.nll, strict=True):
            writer.writerow([piece.name, piece.style, len(nll), f"{nll.mean():.4f}"])
