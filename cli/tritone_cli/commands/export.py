"""`tritone export`: from a checkpoint to a version that Triton can load."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritone_cli import console, kind_options, options
from tritone_cli.hearing import as_warnings, say_hearing

if TYPE_CHECKING:
    from tritone_export import ExportResult, Reduced, Reduction
    from tritone_training.artifact_export import ArtifactExport
    from tritone_training.kind import Exportable, ListeningFiles


_WORTH_IT = 0.95  # of the time in fp32; what is nearer to 1 is within the noise


class Precision(StrEnum):
    """What the command line accepts."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    context: typer.Context,
    kind: Annotated[str | None, typer.Argument(help="Model kind, `genre_cnn` for one.")] = None,
    *,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="What `tritone train` wrote.  [default: runs/KIND]", show_default=False),
    ] = None,
    repository: Annotated[Path, typer.Option(help="Where Triton's models lie.")] = Path("model_repository"),
    pretrained: Annotated[
        str | None,
        typer.Option(help="Export this pretrained backbone; without --checkpoint, as it is, untrained by you."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name on the server, if not the kind's.")] = None,
    ab: Annotated[
        Path | None,
        typer.Option(
            "--ab",
            help="JSON with salt, shares and ensembles: serve these arms of a recommender beside the trained one.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        list[Precision] | None,
        typer.Option(
            help="Add fp16 (served on GPUs) or int8 (on CPUs) to fp32, once it has shown on validation data that it is "
            "as good; repeatable.",
            show_default=False,
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0, help="How much worse a precision may be, in the kind's own figures.", show_default="the kind's"
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="The training data, for --precision, if they lie elsewhere now.", show_default=False),
    ] = None,
    interactions: options.Interactions = None,
    valid: options.Valid = None,
    user_column: options.UserColumn = None,
    item_column: options.ItemColumn = None,
    plays_column: options.PlaysColumn = None,
    rating_column: options.RatingColumn = None,
    time_column: options.TimeColumn = None,
    configs_only: Annotated[
        bool,
        typer.Option("--configs-only", help="Only write config.pbtxt and configs/gpu.pbtxt, of all kinds."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Convert a trained model to ONNX, compare it with PyTorch, and add it to the repository."""
    if configs_only:
        if checkpoint or pretrained or ab or precision:
            raise typer.BadParameter("--configs-only takes none of --checkpoint, --pretrained, --ab and --precision")
        _write_configs(kind, repository, name, json)
        return
    if kind is None:
        raise typer.BadParameter(f"which KIND? There are: {', '.join(_kind_names())}", param_hint="KIND")
    kind_options.check_kind_takes(context, kind)
    measuring = _Measuring(
        precisions=tuple(dict.fromkeys(each.value for each in precision or ())),
        max_loss=max_loss,
        data=data,
        listening=options.listening_files(locals()),
    )
    results = _export(kind, checkpoint, repository, pretrained, name, ab, measuring)
    models = [result.model for result in results]
    if json:
        warnings = say_hearing(repository, models)
        first, *companions = (_as_json(kind, result) for result in results)
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
            console.say(f"  {output}: at most {difference:.1e} from PyTorch (allowed {tolerance:.0e})")
        for reduced in result.reduced:
            _say_reduced(reduced)
        for why in dict.fromkeys((result.kept or {}).values()):
            console.say(f"  {why}")
    say_hearing(repository, models)
    console.say(f"serve it: tritone serve --repository {repository}")


def _export(
    kind_name: str,
    checkpoint: Path | None,
    repository: Path,
    pretrained: str | None,
    name: str | None,
    ab: Path | None,
    measuring: _Measuring,
) -> tuple[ExportResult, ...]:
    from tritone_export import export_kind
    from tritone_training.registry import get_kind

    kind = get_kind(kind_name)
    folder = checkpoint_folder(kind_name, checkpoint, pretrained)
    with console.people.status("loading the checkpoint") as status:
        exportable = kind.export(folder, pretrained)
        if ab is not None:
            exportable = _with_arms(exportable, ab)
        reduction = measuring.reduction(folder)
        return export_kind(
            exportable, kind, repository=repository, name=name, reduction=reduction, on_step=status.update
        )


@dataclass(frozen=True)
class _Measuring:
    """What was said of precisions, and of the data to measure them on."""

    precisions: tuple[str, ...]
    max_loss: float | None
    data: Path | None
    listening: ListeningFiles

    def __post_init__(self) -> None:
        given = {"--max-loss": self.max_loss, "--data": self.data, "--interactions": self.listening.interactions}
        named = [option for option, value in given.items() if value is not None]
        if named and not set(self.precisions) - {"fp32"}:
            raise typer.BadParameter(f"{', '.join(named)}: only for --precision fp16 or int8", param_hint=named[0])

    def reduction(self, folder: Path | None) -> Reduction | None:
        """What to ask of export; None for fp32 alone."""
        from tritone_export import PrecisionError, Reduction
        from tritone_training.api import EvaluateRequest

        wanted = tuple(each for each in self.precisions if each != "fp32")
        if not wanted:
            return None
        if folder is None:
            raise PrecisionError(
                f"without a checkpoint there are no validation data, and what {' and '.join(wanted)} costs cannot be "
                f"measured; train on top of the backbone first, or export in fp32"
            )
        request = EvaluateRequest(checkpoint=folder, data=self.data, progress=False, listening=self.listening)
        return Reduction(precisions=wanted, request=request, max_loss=self.max_loss)  # type: ignore[arg-type]


def _say_reduced(reduced: Reduced) -> None:
    precision = reduced.precision
    for each in reduced.losses:
        console.say(
            f"  {precision}: {each.metric} {each.reduced:.4f}, in fp32 {each.fp32:.4f}, on {reduced.n} examples of "
            f"{reduced.source} (may lose {each.max_loss:g})"
        )
    times = ", ".join(f"{ratio:.2f} times for {n_batch}" for n_batch, ratio in reduced.latency_ratio.items())
    share = reduced.n_bytes[0] / reduced.n_bytes[1]
    console.say(f"  {precision}: the file is {share:.2f} times as large; the time of a batch here is {times}")
    if precision == "int8" and min(reduced.latency_ratio.values()) > _WORTH_IT:
        console.say("  int8: is not faster on this machine; without --precision, fp32 is served")


def _with_arms(exportable: Exportable | ArtifactExport, ab: Path) -> ArtifactExport:
    from tritone_training.artifact_export import ArtifactExport
    from tritone_training.kinds.recommender.ab import with_arms

    if not isinstance(exportable, ArtifactExport):
        raise typer.BadParameter("only a recommender has arms", param_hint="--ab")
    return with_arms(exportable, ab)


def checkpoint_folder(kind: str, checkpoint: Path | None, pretrained: str | None) -> Path | None:
    """The folder to load; None where a pretrained backbone alone is wanted."""
    from tritone_training.api import CheckpointError

    if checkpoint is None and pretrained is not None:
        return None
    folder = checkpoint or Path("runs") / kind
    if not folder.is_dir():
        train = f"tritone train {kind}" + (f" --out {checkpoint}" if checkpoint else "")
        raise CheckpointError(
            f"{folder}: no checkpoint here; train one with `{train}`, or name its folder with --checkpoint"
        )
    return folder


def _write_configs(kind: str | None, repository: Path, name: str | None, json: bool) -> None:
    from tritone_export import write_kind_configs
    from tritone_training.registry import get_kind

    if name is not None and kind is None:
        raise typer.BadParameter("--name needs a KIND")
    written = [
        path
        for each in ((kind,) if kind else _kind_names())
        for path in write_kind_configs(get_kind(each), repository, name=name)
    ]
    if json:
        console.print_json({"written": [str(path) for path in written]})
        return
    for path in written:
        console.say(f"wrote {path}")
    if not written:
        console.say("all configs are current")


def _kind_names() -> tuple[str, ...]:
    from tritone_training.registry import kind_names

    return kind_names()


def _as_json(kind: str, result: ExportResult) -> dict[str, object]:
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
