"""Training from Python: the implementation of `tritone_training.train`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tritone_training.data.interactions.files import ListeningFiles, join_data
from tritone_training.exceptions import TrainingError
from tritone_training.kind import TrainRequest
from tritone_training.registry import get_kind
from tritone_training.trained_checkpoint import TrainedCheckpoint

PathLike = str | os.PathLike[str]


def train(
    kind: str,
    *,
    data: PathLike | None = None,
    interactions: PathLike | None = None,
    listening: ListeningFiles | None = None,
    out: PathLike | None = None,
    preset: str = "default",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    fold: int | None = None,
    pretrained: str | None = None,
    max_epochs: int | None = None,
    devices: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    warm_start: PathLike | None = None,
    refit_on_all: bool | None = None,
    mlflow: str | None = None,
    engine: str | None = None,
    workers: int | None = None,
    engine_address: str | None = None,
    read: str | None = None,
    taste_vae: PathLike | None = None,
    progress: bool = True,
) -> TrainedCheckpoint:
    """Train a model and write a checkpoint folder, as `tritone train` does.

    In a script that torchrun starts, all processes train together; rank 0 writes the folder, and all get the result.

    Args:
        kind: `genre_cnn`, `polyphony_rnn`, `music_transformer`, `music_vae`, `music_gan`, `taste_vae`,
            `taste_sequence` or `recommender`.
        data: recordings or scores, or collections of the corpus such as `corpus:public-domain`; the embedded corpus if
            None.
        interactions: listening log of `taste_vae`, `taste_sequence` and `recommender`; simulated listening if None.
        listening: the log's columns and further tables, such as `ListeningFiles(friends=..., user_column=...)`.
        out: checkpoint folder; `runs/KIND` if None.
        preset: `default`, `demo` (minutes) or `tiny` (for tests).
        settings: hyper-parameters that replace the preset's, such as `{"learning_rate": 1e-3}`.
        seed: the same seed gives the same run.
        fold: held out and evaluated at the end (`genre_cnn`); 0 if None.
        pretrained: backbone of `genre_cnn`: `musicnn` or `musicnn-mtt`.
        max_epochs: upper bound on epochs.
        devices: number of GPUs, if there are any.
        resume: continue an interrupted training in `out`.
        overwrite: replace what `out` holds.
        warm_start: checkpoint of the same kind that provides the initial weights.
        refit_on_all: after model selection on held-out data, train what is served on all data (`taste_sequence`,
            `recommender`); None for the default of the kind and the log.
        mlflow: URI of an MLflow tracking server or store to log to.
        engine: what computes the parts of a fit of `recommender`: `local` (default), `ray` or `spark`.
        workers: processes or tasks of the engine at the same time; None for 1 (`local`) or all CPUs.
        engine_address: of a running Ray or Spark cluster; None for this computer.
        read: where the log is read: `driver` (this process) or `workers` (of the engine); None for the workers of Ray
            and Spark if the log has 5 million rows or more in Parquet files.
        taste_vae: checkpoint of `taste_vae`, trained on the same log, for the recommender; trained with it if None.
        progress: show progress bars on stderr.

    Raises:
        TrainingError: invalid settings, `out` is in use, or training diverged; subclasses for other causes.
    """
    files = listening or ListeningFiles()
    if interactions is not None:
        if files.interactions is not None:
            raise TrainingError("interactions and listening.interactions are both given; expected one of them")
        files = replace(files, interactions=Path(interactions))
    model_kind = get_kind(kind)
    model_kind.check_options(files.given())
    folder = Path("runs") / kind if out is None else Path(out)
    return model_kind.train(
        TrainRequest(
            out=folder,
            data=join_data(None if data is None else Path(data), files),
            seed=seed,
            preset=preset,
            fold=fold,
            pretrained=pretrained,
            devices=devices,
            max_epochs=max_epochs,
            overrides=dict(settings or {}),
            progress=progress,
            command=f"tritone_training.train({kind!r}, ...)",
            resume=resume,
            overwrite=overwrite,
            warm_start=None if warm_start is None else Path(warm_start),
            refit_on_all=refit_on_all,
            mlflow=mlflow,
            engine=engine,
            workers=workers,
            engine_address=engine_address,
            read=read,
            taste_vae=None if taste_vae is None else Path(taste_vae),
        )
    )
