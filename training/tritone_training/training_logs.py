"""Logs of a training run: metrics.csv with one row an epoch, and hyper-parameters for TensorBoard's HParams page."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tritone.atomic import replacing

TABLE: Final = "metrics.csv"
TENSORBOARD: Final = "tensorboard"
_HYPER_PARAMETERS: Final = "hparams"  # below TensorBoard's folder, so that it is a run of its own


def write_metrics(logs: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write `logs/metrics.csv`: a row for each epoch, a column for each metric; values that are missing stay empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    logs.mkdir(parents=True, exist_ok=True)
    with replacing(logs / TABLE, sync=True) as staged, staged.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def write_hyper_parameters(out: Path, info: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Write hyper-parameters and final metrics of a finished training for TensorBoard's HParams page.

    Args:
        info: content of checkpoint.json.
        metrics: the summary's metrics by split.
    """
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    values = dict(final_metrics(metrics))
    folder = out / "logs" / TENSORBOARD / _HYPER_PARAMETERS
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for summary in hparams(hyper_parameters(info), values):  # type: ignore[no-untyped-call]
            writer._get_file_writer().add_summary(summary)
        for name, value in values.items():
            writer.add_scalar(name, value)


def hyper_parameters(info: Mapping[str, Any]) -> dict[str, str | bool | int | float]:
    """Return the hyper-parameters of a checkpoint, with its seed and preset, as plain values."""
    given = {"preset": info.get("preset"), "seed": info.get("seed"), **info.get("config", {})}
    return {
        name: value if isinstance(value, str | bool | int | float) else str(value)
        for name, value in given.items()
        if value is not None
    }


def final_metrics(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield (name, value) of all finite numbers, with names such as `valid/accuracy`."""
    for name, value in metrics.items():
        path = f"{prefix}/{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            yield from final_metrics(value, path)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield path, float(value)
