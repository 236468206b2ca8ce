"""Evaluation of `polyphony_rnn` on whole pieces, frame by frame as it is served.

Shapes: T frames, 88 pitches.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone.music.grid import N_PITCHES
from tritone_training.data.scores import SPLITS, ScorePiece, ScoreSet, load_scores
from tritone_training.evaluation import EvaluationResult, summarize
from tritone_training.exceptions import TrainingError
from tritone_training.kind import EvaluateRequest, data_path
from tritone_training.kinds.polyphony_rnn.dataset import (
    PieceNotes,
    WholePieces,
    extract_features,
    frames_per_quarter_of,
    reduced,
)
from tritone_training.kinds.polyphony_rnn.features import FrameHistory
from tritone_training.kinds.polyphony_rnn.frame_decoder import FrameDecoder
from tritone_training.kinds.polyphony_rnn.module import joint_nll
from tritone_training.kinds.polyphony_rnn.network import NetworkState, PolyphonyNetwork, frame_nll, load_network
from tritone_training.plots import saved_figure
from tritone_training.progress import progress_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PIECES_AT_ONCE: Final = 32
_JOINT_BATCH: Final = 8
_N_BINS: Final = 20
_N_PIECES: Final = 4


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The evaluation of some pieces.

    Attributes:
        names: of the pieces.
        nll: (T,) nats for each frame of each piece.
        hits: pitches that were expected (probability of 0.5 or more) and sounded, over all frames.
        false_alarms: that were expected and did not sound.
        misses: that sounded and were not expected.
        expected: (20,) sum of the probabilities that fell into each of 20 equal bins.
        sounded: (20,) how many of the pitches in each bin sounded.
        counts: (20,) pitches in each bin.
        joint_nll: mean nats of a joint frame; None for a network without a decoder of joint frames.
    """

    names: tuple[str, ...]
    nll: tuple[npt.NDArray[np.float64], ...]
    hits: int
    false_alarms: int
    misses: int
    expected: npt.NDArray[np.float64]
    sounded: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    joint_nll: float | None = None

    @property
    def n_frames(self) -> int:
        """Return the number of frames of all pieces."""
        return sum(len(nll) for nll in self.nll)

    @property
    def metrics(self) -> dict[str, Any]:
        """Return the metrics as plain values.

        `nll_per_frame` is the mean over all frames, including the first of each piece, which has no history, of notes
        taken independently; `joint_nll_per_frame` that of whole frames, with key, style, metre and ending unknown;
        `accuracy` is that of frames in Bay et al. 2009 (ISMIR), at a threshold of 0.5.
        """
        nats = sum(float(nll.sum()) for nll in self.nll) / self.n_frames
        evaluated = self.hits + self.false_alarms + self.misses
        return {
            "nll_per_frame": nats,
            "log_likelihood_per_frame": -nats,
            **({} if self.joint_nll is None else {"joint_nll_per_frame": self.joint_nll}),
            "accuracy": self.hits / evaluated if evaluated else 1.0,  # silence that was expected to be silent
            "calibration_error": float(np.abs(self.expected - self.sounded).sum() / self.counts.sum()),
            "n_frames": self.n_frames,
            "n_pieces": len(self.names),
        }


@torch.inference_mode()
def evaluate_network(
    network: PolyphonyNetwork,
    pieces: Sequence[PieceNotes],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Evaluate every piece from its first frame to its last.

    Args:
        network: in eval mode.
        pieces: at least one.

    Raises:
        TrainingError: the network diverged in training.
    """
    nll: dict[int, npt.NDArray[np.float64]] = {}
    agreed = np.zeros(3, np.int64)
    bins = np.zeros((3, _N_BINS))
    order = sorted(range(len(pieces)), key=lambda index: len(pieces[index].notes))
    for start in range(0, len(order), _PIECES_AT_ONCE):
        indices = order[start : start + _PIECES_AT_ONCE]
        notes = torch.nn.utils.rnn.pad_sequence([pieces[index].notes for index in indices]).float()  # (T, B, 88)
        lengths = torch.tensor([len(pieces[index].notes) for index in indices])  # ascending
        rows = np.zeros(notes.shape[:2])  # (T, B)
        state = network.start(notes[0])
        for t, padded in enumerate(notes):
            over = int((lengths <= t).sum()) - (len(lengths) - len(state.logits))
            if over:  # pieces that have ended are the first
                state = NetworkState(
                    FrameHistory(*(part[over:] for part in state.history)), state.hidden[over:], state.logits[over:]
                )
            frame = padded[len(lengths) - len(state.logits) :]
            if not torch.isfinite(state.logits).all():
                raise TrainingError("the network returns non-finite values: training diverged; lower the learning rate")
            rows[t, -len(frame) :] = frame_nll(state.logits, frame).double().numpy()
            likely = torch.sigmoid(state.logits).double().numpy()
            _count(likely, frame.numpy() > 0, agreed, bins)
            state = network.advance(state, frame)
        nll.update({index: rows[: len(pieces[index].notes), row] for row, index in enumerate(indices)})
        on_progress(len(nll), len(pieces))
    return Evaluation(
        names=tuple(piece.name for piece in pieces),
        nll=tuple(nll[index] for index in range(len(pieces))),
        hits=int(agreed[0]),
        false_alarms=int(agreed[1]),
        misses=int(agreed[2]),
        expected=bins[0],
        sounded=bins[1],
        counts=bins[2].astype(np.int64),
        joint_nll=None if network.decoder is None else _joint_nll(network, network.decoder, pieces),
    )


def _joint_nll(network: PolyphonyNetwork, decoder: FrameDecoder, pieces: Sequence[PieceNotes]) -> float:
    """Return the mean nats of a joint frame of pieces of unknown conditions."""
    total = 0.0
    for start in range(0, len(pieces), _PIECES_AT_ONCE):
        whole = WholePieces(extract_features(pieces[start : start + _PIECES_AT_ONCE]), batch_size=_JOINT_BATCH)
        for batch in map(whole.__getitem__, range(len(whole))):
            notes, _ = joint_nll(decoder, batch, *network.hidden_states(batch.pitch, batch.frame))
            total += float((notes * batch.counts).sum())
    return total / sum(len(piece.notes) for piece in pieces)


def _count(
    likely: npt.NDArray[np.float64],
    sounds: npt.NDArray[np.bool_],
    agreed: npt.NDArray[np.int64],
    bins: npt.NDArray[np.float64],
) -> None:
    """Add probabilities (..., 88) and outcomes to the running counts, in place."""
    guessed = likely >= 0.5
    agreed += np.array([(guessed & sounds).sum(), (guessed & ~sounds).sum(), (~guessed & sounds).sum()])
    place = np.minimum((likely * _N_BINS).astype(np.int64), _N_BINS - 1).reshape(-1, N_PITCHES).ravel()
    weights = (likely, sounds, np.ones_like(likely))
    bins += np.stack([np.bincount(place, each.ravel(), _N_BINS) for each in weights])


def evaluate(request: EvaluateRequest) -> EvaluationResult:
    """Evaluate a checkpoint on whole pieces of a data set, from their first frame on.

    The metrics are over all pieces, or those of the requested split; `splits` holds the metrics of each split.

    Raises:
        DataError: the data cannot be used, or have no such split.
    """
    network, info = load_network(request.checkpoint)
    scores = load_scores(data_path(request), progress=request.progress)
    wanted = frames_per_quarter_of(scores, info["frames_per_quarter"])
    chosen = scores.split(request.split) if request.split is not None else scores.pieces
    pieces = tuple(map(PieceNotes.of, reduced(chosen, own=scores.frames_per_quarter, wanted=wanted)))
    with progress_bar("evaluating pieces", shown=request.progress) as on_progress:
        evaluation = evaluate_network(network, pieces, on_progress=on_progress)
    metrics = {**evaluation.metrics, "splits": _by_split(chosen, evaluation)}
    details = {
        "split": request.split,
        "frames_per_quarter": wanted or None,
        # Metrics on training pieces do not generalise to new ones.
        "n_seen_in_training": _n_of_split("train", scores, chosen, info),
        "n_early_stopping": _n_of_split("valid", scores, chosen, info),  # decided when training stopped
    }
    return EvaluationResult(
        request.checkpoint,
        scores.source,
        metrics=metrics,
        details=details,
        summary=summarize({**metrics, **details}),
        report=None if request.report is None else write_report(request.report, evaluation),
    )


def _by_split(chosen: tuple[ScorePiece, ...], evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Return nats and sizes of each split."""
    found = {}
    for split in SPLITS:
        rows = [nll for piece, nll in zip(chosen, evaluation.nll, strict=True) if piece.split == split]
        n_frames = sum(map(len, rows))
        if n_frames:
            nats = sum(float(row.sum()) for row in rows) / n_frames
            found[split] = {"nll_per_frame": nats, "n_frames": n_frames, "n_pieces": len(rows)}
    return found


def _n_of_split(split: str, scores: ScoreSet, chosen: tuple[ScorePiece, ...], info: Mapping[str, Any]) -> int | None:
    """Return the number of pieces in a split of the training run; None for another data set."""
    if scores.fingerprint != info["data"]["fingerprint"]:
        return None
    return sum(piece.split == split for piece in chosen)


def write_report(folder: Path, evaluation: Evaluation) -> list[str]:
    """Write the files of the report and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with saved_figure(folder / "nll_over_time.png", (10, 5)) as [[axes]]:
        _draw_pieces(axes, evaluation)
    with saved_figure(folder / "reliability.png", (5, 5)) as [[axes]]:
        _draw_reliability(axes, evaluation)
    _write_pieces(folder / "pieces.csv", evaluation)
    return [str(folder / name) for name in ("nll_over_time.png", "reliability.png", "pieces.csv")]


def _draw_pieces(axes: Axes, evaluation: Evaluation) -> None:
    """Draw the negative log-likelihood of pieces, from the lowest mean to the highest."""
    means = [float(nll.mean()) for nll in evaluation.nll]
    order = np.argsort(means)
    places = np.unique(np.linspace(0, len(order) - 1, _N_PIECES).round().astype(int))
    for index in order[places]:
        # The legend shows numbers, because names come from the user; pieces.csv maps numbers to names.
        axes.plot(evaluation.nll[index], linewidth=1, label=f"piece {index}: mean {means[index]:.2f}")
    overall = evaluation.metrics["nll_per_frame"]
    axes.axhline(overall, color="black", linewidth=0.8, label=f"all frames: mean {overall:.2f}")
    axes.set(xlabel="frame", ylabel="negative log-likelihood (nats)", ylim=(0, None))
    axes.set_title("surprise along pieces, from the most expected to the least")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _draw_reliability(axes: Axes, evaluation: Evaluation) -> None:
    there = evaluation.counts > 0
    expected = evaluation.expected[there] / evaluation.counts[there]
    sounded = evaluation.sounded[there] / evaluation.counts[there]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, label="perfectly calibrated")
    axes.plot(expected, sounded, color="tab:blue", marker="o", label="pitches of all frames")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="probability", ylabel="share that sounded")
    axes.set_title(f"calibration error {evaluation.metrics['calibration_error']:.4f}")
    axes.legend(loc="lower right")


def _write_pieces(path: Path, evaluation: Evaluation) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "piece", "n_frames", "nll_per_frame", "nll_first_frame"])
        for number, (name, nll) in enumerate(zip(evaluation.names, evaluation.nll, strict=True)):
            writer.writerow([number, name, len(nll), f"{nll.mean():.4f}", f"{nll[0]:.4f}"])
