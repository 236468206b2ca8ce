"""`tritone train KIND`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritone_cli import console, options

if TYPE_CHECKING:
    from tritone_training import TrainedCheckpoint


def train(
    context: typer.Context,
    kind: options.Kind,
    data: options.Data = None,
    interactions: options.Interactions = None,
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder. Default: runs/KIND.")] = None,
    seed: options.Seed = 0,
    preset: options.Preset = "default",
    fold: Annotated[
        int | None, typer.Option(help="Fold to hold out and evaluate on after training. Default: 0.")
    ] = None,
    pretrained: options.Pretrained = None,
    devices: options.Devices = 1,
    max_epochs: options.MaxEpochs = None,
    settings: options.Settings = None,
    config: options.ConfigFile = None,
    print_config: options.PrintConfig = False,
    valid: options.Valid = None,
    friends: options.Friends = None,
    item_tags: options.ItemTags = None,
    tag_names: options.TagNames = None,
    metadata: options.Metadata = None,
    recordings: options.Recordings = None,
    genre_checkpoint: options.GenreCheckpoint = None,
    user_column: options.UserColumn = None,
    item_column: options.ItemColumn = None,
    plays_column: options.PlaysColumn = None,
    rating_column: options.RatingColumn = None,
    time_column: options.TimeColumn = None,
    skipped_column: options.SkippedColumn = None,
    friend_column: options.FriendColumn = None,
    tag_column: options.TagColumn = None,
    key: options.Key = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    warm_start: options.WarmStart = None,
    refit_on_all: options.RefitOnAll = None,
    mlflow: options.Mlflow = None,
    engine: options.Engine = None,
    workers: options.Workers = None,
    engine_address: options.EngineAddress = None,
    read: options.Read = None,
    taste_vae: options.TasteVae = None,
    report: options.TrainReport = None,
    as_json: options.Json = False,
) -> None:
    """Train a model on your data or on the embedded corpus, and write a checkpoint."""
    import tritone_training as training
    from tritone_training.processes import is_rank_zero

    options.require_supported(context, kind)

    request = training.TrainRequest(
        out=out or Path("runs") / kind,
        data=options.request_data(locals()),
        seed=seed,
        preset=preset,
        fold=fold,
        pretrained=pretrained,
        devices=devices,
        max_epochs=max_epochs,
        overrides=options.parse_settings(settings, config),
        progress=console.shows_progress(as_json=as_json),
        command=options.command_line(sys.argv),
        resume=resume,
        overwrite=overwrite,
        warm_start=warm_start,
        refit_on_all=refit_on_all,
        mlflow=mlflow,
        engine=engine,
        workers=workers,
        engine_address=engine_address,
        read=read,
        taste_vae=taste_vae,
    )
    if not is_rank_zero():  # of those that torchrun started, one prints
        if not print_config:
            with _errors_of_other_processes():
                training.get_kind(kind).train(request)
        return
    if print_config:
        hyperparameters = training.get_kind(kind).configure(request)
        if as_json:
            console.print_json(hyperparameters.to_dict())
        else:
            console.print_line(hyperparameters.to_yaml().rstrip())
        return
    options.require_unused(report, overwrite=overwrite or resume, option="--report")
    model_kind = training.get_kind(kind)
    with _errors_of_other_processes():
        result = model_kind.train(request)
    written: Sequence[str] = ()
    if report is not None:
        evaluation = model_kind.evaluate(
            training.EvaluateRequest(
                checkpoint=request.out,
                data=request.data,
                split="valid",
                report=report,
                progress=console.shows_progress(as_json=as_json),
            )
        )
        written = evaluation.report or ()
    if as_json:
        console.print_json({**result.to_dict(), **({} if report is None else {"report": written})})
        return
    _print_result(result, written)


@contextlib.contextmanager
def _errors_of_other_processes() -> Iterator[None]:
    """Exit without a message when another process of torchrun failed, which prints it."""
    from tritone_training.exceptions import OtherProcessError

    try:
        yield
    except OtherProcessError:
        raise typer.Exit(1) from None


def _print_result(result: TrainedCheckpoint, written: Sequence[str]) -> None:
    if result.finished:
        console.say(f"{result.folder}: this training is complete; there is nothing to resume")
    else:
        console.print_data_report(result.data)
    if result.warm_start is not None:
        console.print_warm_start(result.warm_start)
    for name, values in result.metrics.items():
        numbers = {key: value for key, value in values.items() if isinstance(value, float)}
        console.say(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in numbers.items()))
    console.print_summary(result.tables)
    console.say(f"checkpoint: {result.folder} ({result.n_epochs} epochs)")
    if result.key is not None:
        console.say(f"key: {result.key} (keep it, separate from the model: it links pseudonyms to user ids)")
    for path in written:
        console.say(f"written: {path}")
    console.say(f"next: tritone export {result.kind} --checkpoint {result.folder}")
