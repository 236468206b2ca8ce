"""`tritone crossvalidate KIND`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console, options


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("crossvalidate")(crossvalidate)


def crossvalidate(
    kind: options.Kind,
    data: options.Data = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the folds' checkpoints.", show_default=False)] = None,
    seed: options.Seed = 0,
    preset: options.Preset = "default",
    pretrained: options.Pretrained = None,
    devices: options.Devices = 1,
    max_epochs: options.MaxEpochs = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Hold every fold out once: train on the others, judge on it; mean and spread."""
    from tritone_training import api as training

    request = training.TrainRequest(
        out=out or Path("runs") / f"{kind}-folds",
        data=data,
        seed=seed,
        preset=preset,
        pretrained=pretrained,
        devices=devices,
        max_epochs=max_epochs,
        overrides=options.parse_settings(settings),
        progress=not as_json,
        command=options.command_line(sys.argv),
    )
    result = training.get_kind(kind).crossvalidate(request)
    if as_json:
        console.print_json(result)
        return
    console.print_data_report(result["data"])
    console.print_rows("folds", result["folds"])
    console.say(
        f"accuracy {result['accuracy']:.3f} ± {result['accuracy_std']:.3f}, "
        f"macro-F1 {result['macro_f1']:.3f} ± {result['macro_f1_std']:.3f} "
        f"(mean ± spread over {len(result['folds'])} folds, {result['n']} tracks)"
    )
    if result["emotion_correlation_mean"] is not None:
        console.say(f"emotion correlation over all tracks: {result['emotion_correlation_mean']:.3f}")
    console.say(f"checkpoints: {result['out']}/fold-*")
