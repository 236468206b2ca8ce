"""`tritone export`: convert a checkpoint to a version of a model in a Triton repository."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tritone_cli import console, options

if TYPE_CHECKING:
    from tritone_export import ExportResult, Reduced, Reduction
    from tritone_training.artifact_export import ArtifactExport
    from tritone_training.data.interactions import ListeningFiles
    from tritone_training.kind import Exportable


_MAX_LATENCY_RATIO: Final = 0.95  # relative to fp32; larger ratios are within the noise


class Precision(StrEnum):
    """Number formats of an exported model."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


def export(
    context: typer.Context,
    kind: Annotated[str | None, typer.Argument(help="Model kind, for example genre_cnn.", show_default=False)] = None,
    *,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Checkpoint folder written by `tritone train`. Default: runs/KIND.", show_default=False),
    ] = None,
    starter: Annotated[
        bool,
        typer.Option(
            "--starter", help="Export the starter weights that come with Tritone, instead of a checkpoint of your own."
        ),
    ] = False,
    repository: options.Repository = Path("model_repository"),
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="Pretrained backbone to export; without --checkpoint, it is exported without further training.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model on the server. Default: the kind.", show_default=False)
    ] = None,
    ab: Annotated[
        Path | None,
        typer.Option(
            "--ab",
            help="JSON file of an A/B test of a recommender: salt, shares and ensembles of the arms.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        list[Precision] | None,
        typer.Option(
            help="Precision to add to fp32: fp16 (served on GPUs) or int8 (on CPUs), if its loss on validation data is "
            "small enough; repeatable.",
            show_default=False,
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Maximum loss of a precision, in the metrics of the kind. Default: that of the kind.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Training data for --precision. Default: the path in the checkpoint.", show_default=False),
    ] = None,
    interactions: options.Interactions = None,
    valid: options.Valid = None,
    user_column: options.UserColumn = None,
    item_column: options.ItemColumn = None,
    plays_column: options.PlaysColumn = None,
    rating_column: options.RatingColumn = None,
    time_column: options.TimeColumn = None,
    skipped_column: options.SkippedColumn = None,
    configs_only: Annotated[
        bool,
        typer.Option(
            "--configs-only", help="Only write config.pbtxt and configs/gpu.pbtxt; without KIND, of all kinds."
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Convert a trained model to ONNX, compare it with PyTorch, and add it to the repository."""
    if configs_only:
        if checkpoint or starter or pretrained or ab or precision:
            raise typer.BadParameter(
                "--configs-only: expected none of --checkpoint, --starter, --pretrained, --ab and --precision"
            )
        _write_configs(kind, repository, name, as_json=as_json)
        return
    if kind is None:
        raise typer.BadParameter(f"expected one of {', '.join(_kind_names())}, got none", param_hint="KIND")
    if starter and (checkpoint or pretrained):
        other = "--checkpoint" if checkpoint else "--pretrained"
        raise typer.BadParameter(f"expected --starter or {other}, got both", param_hint="--starter")
    options.require_supported(context, kind)
    precision_options = _PrecisionOptions(
        precisions=tuple(dict.fromkeys(each.value for each in precision or ())),
        max_loss=max_loss,
        data=data,
        listening=options.listening_files(locals()),
    )
    results = _export(kind, checkpoint, repository, pretrained, name, ab, precision_options, starter=starter)
    models = [result.model for result in results]
    if as_json:
        warnings = print_embedding_warnings(repository, models)
        first, *companions = (_to_dict(kind, result) for result in results)
        console.print_json({**first, "companions": companions, **as_warnings(warnings)})
        return
    for result in results:
        if result.warning:
            console.say(f"warning: {result.warning}")
        console.say(f"{result.path}: version {result.version} of {result.model}, {result.seconds:.1f} s")
        if result.parity is None:
            continue
        for output, difference in result.parity.max_abs_difference.items():
            tolerance = result.parity.tolerance[output]
            console.say(f"  {output}: largest difference from PyTorch {difference:.1e} (tolerance {tolerance:.0e})")
        for reduced in result.reduced:
            _print_reduced(reduced)
        for reason in dict.fromkeys((result.kept or {}).values()):
            console.say(f"  {reason}")
    print_embedding_warnings(repository, models)
    console.say(f"next: tritone serve --repository {repository}")


def _export(
    kind_name: str,
    checkpoint: Path | None,
    repository: Path,
    pretrained: str | None,
    name: str | None,
    ab: Path | None,
    precision_options: _PrecisionOptions,
    *,
    starter: bool,
) -> tuple[ExportResult, ...]:
    from tritone_export import export_kind
    from tritone_training.registry import get_kind
    from tritone_training.starter_weights import starter_checkpoint

    kind = get_kind(kind_name)
    folder = starter_checkpoint(kind_name) if starter else checkpoint_folder(kind_name, checkpoint, pretrained)
    with console.people.status("loading the checkpoint") as status:
        exportable = kind.export(folder, pretrained)
        if ab is not None:
            exportable = _with_arms(exportable, ab)
        reduction = precision_options.reduction(folder)
        return export_kind(
            exportable, kind, repository=repository, name=name, reduction=reduction, on_step=status.update
        )


@dataclass(frozen=True)
class _PrecisionOptions:
    """Precisions to add, and the data to evaluate them on."""

    precisions: tuple[str, ...]
    max_loss: float | None
    data: Path | None
    listening: ListeningFiles

    def __post_init__(self) -> None:
        given = {"--max-loss": self.max_loss, "--data": self.data, "--interactions": self.listening.interactions}
        named = [option for option, value in given.items() if value is not None]
        if named and not set(self.precisions) - {"fp32"}:
            raise typer.BadParameter(
                f"{', '.join(named)}: expected with --precision fp16 or int8 only", param_hint=named[0]
            )

    def reduction(self, folder: Path | None) -> Reduction | None:
        """Return the precisions to export and how to evaluate them; None for fp32 alone."""
        from tritone_export import PrecisionError, Reduction
        from tritone_training import EvaluateRequest
        from tritone_training.data.interactions import join_data

        wanted = tuple(each for each in self.precisions if each != "fp32")
        if not wanted:
            return None
        if folder is None:
            raise PrecisionError(
                f"the loss of {' and '.join(wanted)} cannot be measured: expected a checkpoint with validation data, "
                f"got a pretrained backbone; train on top of the backbone first, or export in fp32"
            )
        request = EvaluateRequest(checkpoint=folder, data=join_data(self.data, self.listening), progress=False)
        return Reduction(precisions=wanted, request=request, max_loss=self.max_loss)  # type: ignore[arg-type]


def _print_reduced(reduced: Reduced) -> None:
    precision = reduced.precision
    for each in reduced.losses:
        console.say(
            f"  {precision}: {each.metric} {each.reduced:.4f}, in fp32 {each.fp32:.4f}, on {reduced.n} examples of "
            f"{reduced.source} (maximum loss {each.max_loss:g})"
        )
    ratios = ", ".join(f"{ratio:.2f} (batch of {n_batch})" for n_batch, ratio in reduced.latency_ratio.items())
    share = reduced.n_bytes[0] / reduced.n_bytes[1]
    console.say(f"  {precision}: relative to fp32: file size {share:.2f}, latency on this CPU {ratios}")
    if precision == "int8" and min(reduced.latency_ratio.values()) > _MAX_LATENCY_RATIO:
        console.say("  int8: not faster than fp32 on this machine; to serve fp32, export without --precision")


def _with_arms(exportable: Exportable | ArtifactExport, ab: Path) -> ArtifactExport:
    from tritone_training.artifact_export import ArtifactExport
    from tritone_training.kinds.recommender.export import with_arms

    if not isinstance(exportable, ArtifactExport):
        raise typer.BadParameter(
            "expected a recommender, got another kind; only recommenders have A/B tests", param_hint="--ab"
        )
    return with_arms(exportable, ab)


def checkpoint_folder(kind: str, checkpoint: Path | None, pretrained: str | None) -> Path | None:
    """Return the folder of the checkpoint; None for a pretrained backbone without training."""
    from tritone_training import CheckpointError

    if checkpoint is None and pretrained is not None:
        return None
    folder = checkpoint or Path("runs") / kind
    if not folder.is_dir():
        train = f"tritone train {kind}" + (f" --out {checkpoint}" if checkpoint else "")
        raise CheckpointError(
            f"{folder}: expected a checkpoint folder, got none; train a model with `{train}`, or give --checkpoint"
        )
    return folder


def _write_configs(kind: str | None, repository: Path, name: str | None, *, as_json: bool) -> None:
    from tritone_export import write_kind_configs
    from tritone_training.registry import get_kind

    if name is not None and kind is None:
        raise typer.BadParameter("--name: expected a KIND, got none")
    written = [
        path
        for each in ((kind,) if kind else _kind_names())
        for path in write_kind_configs(get_kind(each), repository, name=name)
    ]
    if as_json:
        console.print_json({"written": [str(path) for path in written]})
        return
    for path in written:
        console.say(f"wrote {path}")
    if not written:
        console.say("all configurations are up to date")


def print_embedding_warnings(repository: Path, models: Collection[str]) -> list[str]:
    """Print and return warnings if a recommender's items were embedded by another genre_cnn than the served one.

    Args:
        models: models with a new version.
    """
    from tritone_export import check_embedding_models

    report = check_embedding_models(repository, models)
    for note in report.notes:
        console.say(f"note: {note}")
    warnings = [f"{finding.message} ({finding.remedy})" for finding in report.findings]
    for warning in warnings:
        console.say(f"warning: {warning}")
    return warnings


def as_warnings(warnings: list[str]) -> dict[str, list[str]]:
    """Return the warnings for `--json`; empty if there are none."""
    return {"warnings": warnings} if warnings else {}


def _kind_names() -> tuple[str, ...]:
    from tritone_training.registry import kind_names

    return kind_names()


def _to_dict(kind: str, result: ExportResult) -> dict[str, object]:
    return {
        "kind": kind,
        "model": result.model,
        "version": result.version,
        "path": str(result.path),
        "seconds": round(result.seconds, 3),
        **({"warning": result.warning} if result.warning else {}),
        **({"precisions": {each.precision: each.describe() for each in result.reduced}} if result.reduced else {}),
        **({"fp32_alone": dict(result.kept)} if result.kept else {}),
        "parity": result.parity
        and {
            "tolerance": result.parity.tolerance,
            "max_abs_difference": {str(batch.n_batch): batch.max_abs_difference for batch in result.parity.batches},
        },
    }
