"""Logs of a training run: metrics.csv with one row an epoch, TensorBoard's HParams page, and MLflow.

MLflow needs the extra `mlflow`. The tracking server is named by `--mlflow URI` or MLFLOW_TRACKING_URI, the experiment
by MLFLOW_EXPERIMENT_NAME (default: `tritone`). A resumed training continues its MLflow run.
"""

from __future__ import annotations

import csv
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritone import MissingExtraError
from tritone.atomic import replacing
from tritone_training import checkpoint
from tritone_training.exceptions import TrainingError

if TYPE_CHECKING:
    from tritone_training.kind import TrainRequest

TABLE: Final = "metrics.csv"
TENSORBOARD: Final = "tensorboard"
_HYPER_PARAMETERS: Final = "hparams"  # below TensorBoard's folder, so that it is a run of its own
URI_VARIABLE: Final = "MLFLOW_TRACKING_URI"
EXPERIMENT_VARIABLE: Final = "MLFLOW_EXPERIMENT_NAME"
_LONGEST_VALUE: Final = 500  # characters of a parameter that every MLflow server stores


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
            # add_hparams would write to a new run: https://github.com/pytorch/pytorch/issues/32651
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


@dataclass(frozen=True)
class MlflowRun:
    """An MLflow run that a training is logged to."""

    uri: str
    run_id: str

    def log_epoch(self, stage: str, epoch: int, row: Mapping[str, float]) -> None:
        """Log one row of metrics.csv as metrics at step `epoch`."""
        prefix = "" if stage == "fit" else f"{stage}."
        self._log_metrics({f"{prefix}{name}": value for name, value in row.items() if name != "epoch"}, step=epoch)

    def log_result(self, out: Path, info: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        """Log hyper-parameters, final metrics, the checkpoint's files and a model card."""
        from mlflow.entities import Param

        client = _client(self.uri)
        values = {**hyper_parameters(info), "kind": info["kind"]}
        if info.get("data"):
            values |= {"data": info["data"].get("source", ""), "data_fingerprint": info["data"].get("fingerprint", "")}
        with _translated(self.uri):
            client.log_batch(
                self.run_id, params=[Param(name, str(value)[:_LONGEST_VALUE]) for name, value in values.items()]
            )
            self._log_metrics({name.replace("/", "."): value for name, value in final_metrics(metrics)})
            for file in (checkpoint.INFO, str(info.get("weights", "")), f"logs/{TABLE}"):
                if file and (out / file).is_file():
                    client.log_artifact(self.run_id, str(out / file))
            client.log_text(self.run_id, model_card(info, metrics), "model_card.md")

    def _log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        with _translated(self.uri):
            _client(self.uri).log_batch(self.run_id, metrics=[Metric(n, v, now_ms, step) for n, v in values.items()])


@contextmanager
def mlflow_run(request: TrainRequest, kind: str, *, run_id: str | None) -> Iterator[MlflowRun | None]:
    """Open an MLflow run for the block, or continue `run_id`; None if no tracking server is named.

    Raises:
        MissingExtraError: the extra `mlflow` is not installed.
        TrainingError: the tracking server cannot be used.
    """
    uri = request.mlflow or os.environ.get(URI_VARIABLE)
    if not uri:
        yield None
        return
    client = _client(uri)
    with _translated(uri):
        if run_id is None:
            name = os.environ.get(EXPERIMENT_VARIABLE) or "tritone"
            experiment = client.get_experiment_by_name(name)
            experiment_id = client.create_experiment(name) if experiment is None else experiment.experiment_id
            tags = {"mlflow.runName": request.out.name, "tritone.kind": kind, "tritone.command": request.command}
            run_id = client.create_run(experiment_id, tags=tags).info.run_id
        else:
            client.update_run(run_id, status="RUNNING")
    run = MlflowRun(uri, str(run_id))
    try:
        yield run
    except BaseException as error:
        with _translated(uri):
            client.set_terminated(run.run_id, status="FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    with _translated(uri):
        client.set_terminated(run.run_id)


def epoch_logger(request: TrainRequest, stage: str) -> Callable[[int, Mapping[str, float]], None] | None:
    """Return a function that logs an epoch's metrics to the request's MLflow run; None if it has none."""
    if request.mlflow_run is None:
        return None
    return partial(MlflowRun(_uri_of(request), request.mlflow_run).log_epoch, stage)


def _uri_of(request: TrainRequest) -> str:
    return request.mlflow or os.environ[URI_VARIABLE]


def _client(uri: str) -> Any:
    try:
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "logging to MLflow needs the package mlflow-skinny: pip install 'tritone[mlflow]'"
        ) from error
    with _translated(uri):
        return MlflowClient(tracking_uri=uri)


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise TrainingError(
            f"{uri}: expected an MLflow tracking server or store, got: {str(error).splitlines()[0]}; check --mlflow or "
            f"{URI_VARIABLE}"
        ) from error


def model_card(info: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Return a model card as Markdown: data, command, licence if there is one, versions, hyper-parameters, metrics."""
    data = info.get("data", {})
    lines = [f"# {info['kind']}", "", "| | |", "|---|---|"]
    facts = {
        "trained": info.get("created_utc", ""),
        "command": f"`{info.get('command', '')}`",
        "data": data.get("source", ""),
        "data fingerprint": data.get("fingerprint", ""),
        **({"licence": info["licence"]} if "licence" in info else {}),
        **{f"{package} version": version for package, version in info.get("versions", {}).items()},
    }
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "## Hyper-parameters", "", "| name | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in hyper_parameters(info).items()]
    lines += ["", "## Metrics", "", "| name | value |", "|---|---|"]
    lines += [f"| {name} | {value:.6g} |" for name, value in final_metrics(metrics)]
    return "\n".join(lines) + "\n"
