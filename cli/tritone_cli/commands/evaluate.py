"""`tritone evaluate KIND`."""

from __future__ import annotations

from typing import Annotated

import typer

from tritone_cli import console, options


def evaluate(
    context: typer.Context,
    kind: options.Kind,
    checkpoint: options.Checkpoint,
    data: options.Data = None,
    fold: Annotated[
        int | None, typer.Option(help="Evaluate on this fold of the data only.", show_default=False)
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Evaluate on this split of the training run only: train, valid or test.", show_default=False),
    ] = None,
    interactions: options.Interactions = None,
    test: options.Test = None,
    user_column: options.UserColumn = None,
    item_column: options.ItemColumn = None,
    plays_column: options.PlaysColumn = None,
    rating_column: options.RatingColumn = None,
    time_column: options.TimeColumn = None,
    skipped_column: options.SkippedColumn = None,
    key: options.Key = None,
    baselines: options.Baselines = None,
    report: options.Report = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Evaluate a checkpoint: recordings per track and per window, scores per piece, recommenders per user."""
    if fold is not None and split is not None:
        raise typer.BadParameter("give --fold or --split, not both")
    options.require_unused(report, overwrite=overwrite, option="--report")
    import tritone_training as training

    options.require_supported(context, kind)

    request = training.EvaluateRequest(
        checkpoint=checkpoint,
        data=options.request_data(locals()),
        fold=fold,
        split=split,
        report=report,
        baselines=baselines,
        progress=console.shows_progress(as_json=as_json),
    )
    result = training.get_kind(kind).evaluate(request)
    if as_json:
        console.print_json(result.to_dict())
        return
    console.print_summary(result.summary)
    for path in result.report or ():
        console.say(f"written: {path}")
