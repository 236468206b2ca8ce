"""`tritone crossvalidate KIND`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console, options


def crossvalidate(
    context: typer.Context,
    kind: options.Kind,
    data: options.Data = None,
    interactions: options.Interactions = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the checkpoint of each fold. Default: runs/KIND-folds.", show_default=False),
    ] = None,
    seed: options.Seed = 0,
    seeds: Annotated[
        int,
        typer.Option(
            min=1, help="Number of random splits of a listening log, which has no folds; the first uses --seed."
        ),
    ] = 3,
    preset: options.Preset = "default",
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
    engine: options.Engine = None,
    workers: options.Workers = None,
    engine_address: options.EngineAddress = None,
    read: options.Read = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Hold out each fold once: train on the others, evaluate on it; prints mean and standard deviation."""
    import tritone_training as training

    options.require_supported(context, kind)

    request = training.TrainRequest(
        out=out or Path("runs") / f"{kind}-folds",
        data=options.request_data(locals()),
        seed=seed,
        preset=preset,
        pretrained=pretrained,
        devices=devices,
        max_epochs=max_epochs,
        overrides=options.parse_settings(settings, config),
        progress=console.shows_progress(as_json=as_json),
        command=options.command_line(sys.argv),
        n_seeds=seeds,
        engine=engine,
        workers=workers,
        engine_address=engine_address,
        read=read,
    )
    if print_config:
        console.print_line(training.get_kind(kind).configure(request).to_yaml().rstrip())
        return
    options.require_unused(request.out, overwrite=overwrite, option="--out")
    result = training.get_kind(kind).crossvalidate(request)
    if as_json:
        console.print_json(result.to_dict())
        return
    console.print_data_report(result.data)
    console.print_summary(result.summary)
