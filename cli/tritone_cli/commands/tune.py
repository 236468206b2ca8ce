"""`tritone tune KIND`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console, options


def tune(
    context: typer.Context,
    kind: options.Kind,
    trials: Annotated[int, typer.Option(min=1, help="Number of trials.")] = 20,
    data: options.Data = None,
    interactions: options.Interactions = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the study. Default: runs/KIND-tune.")] = None,
    seed: options.Seed = 0,
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
    as_json: options.Json = False,
) -> None:
    """Search for good hyper-parameters with Optuna, by the score on the validation split.

    A study that exists in --out is continued.
    """
    import tritone_training as training
    from tritone_training.tuning import tune as run_study

    options.require_supported(context, kind)

    listening = options.listening_files(locals())
    request = training.TrainRequest(
        out=out or Path("runs") / f"{kind}-tune",
        data=options.request_data(locals()),
        seed=seed,
        preset=preset,
        pretrained=pretrained,
        devices=devices,
        max_epochs=max_epochs,
        overrides=options.parse_settings(settings, config),
        progress=console.shows_progress(as_json=as_json),
        command=options.command_line(sys.argv),
    )
    if print_config:
        console.print_line(training.get_kind(kind).configure(request).to_yaml().rstrip())
        return
    result = run_study(training.get_kind(kind), request, n_trials=trials)
    if as_json:
        console.print_json(result.to_dict())
        return
    console.print_rows("trials, best first", result.trials[:10])
    if result.n_failed:
        console.say(f"{result.n_failed} trials failed and are not counted")
    console.say(f"best {result.score}: {result.best_value:.3f} on the validation split")
    same = {
        "--data": data,
        "--preset": preset,
        "--pretrained": pretrained,
        "--seed": seed,
        "--max-epochs": max_epochs,
        "--config": config,
    }
    same |= {f"--{each.name.replace('_', '-')}": getattr(listening, each.name) for each in fields(listening)}
    again = [part for option, value in same.items() if value is not None for part in (option, str(value))]
    again += [part for setting in settings or () for part in ("--set", setting)]
    chosen = [part for name, value in result.best.items() for part in ("--set", f"{name}={value}")]
    console.say(f"next: {shlex.join(['tritone', 'train', kind, *again, *chosen])}")
