"""`tritone export`: from a checkpoint to a version that Triton can load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritone_cli import console

if TYPE_CHECKING:
    from tritone_export import ExportResult
    from tritone_training.artifact_export import ArtifactExport
    from tritone_training.kind import Exportable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
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
    configs_only: Annotated[
        bool,
        typer.Option("--configs-only", help="Only write config.pbtxt and configs/gpu.pbtxt, of all kinds."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Convert a trained model to ONNX, compare it with PyTorch, and add it to the repository."""
    if configs_only:
        if checkpoint or pretrained or ab:
            raise typer.BadParameter("--configs-only takes neither --checkpoint nor --pretrained nor --ab")
        _write_configs(kind, repository, name, json)
        return
    if kind is None:
        raise typer.BadParameter(f"which KIND? There are: {', '.join(_kind_names())}", param_hint="KIND")
    results = _export(kind, checkpoint, repository, pretrained, name, ab)
    if json:
        first, *companions = (_as_json(kind, result) for result in results)
        console.print_json({**first, "companions": companions})
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
    console.say(f"serve it: tritone serve --repository {repository}")


def _export(
    kind_name: str,
    checkpoint: Path | None,
    repository: Path,
    pretrained: str | None,
    name: str | None,
    ab: Path | None,
) -> tuple[ExportResult, ...]:
    from tritone_export import export_kind
    from tritone_training.registry import get_kind

    kind = get_kind(kind_name)
    folder = checkpoint_folder(kind_name, checkpoint, pretrained)
    with console.people.status("loading the checkpoint") as status:
        exportable = kind.export(folder, pretrained)
        if ab is not None:
            exportable = _with_arms(exportable, ab)
        return export_kind(exportable, kind, repository=repository, name=name, on_step=status.update)


def _with_arms(exportable: Exportable | ArtifactExport, ab: Path) -> ArtifactExport:
    from tritone_training.artifact_export import ArtifactExport
    from tritone_training.kinds.recommender.ab import with_arms

    if not isinstance(exportable, ArtifactExport):
        raise typer.BadParameter("only a recommender has arms", param_hint="--ab")
    return with_arms(exportable, ab)


def checkpoint_folder(kind: str, checkpoint: Path | None, pretrained: str | None) -> Path | None:
    """The folder to load; None where a pretrained backbone alone is wanted."""
    from tritone_training._exceptions import CheckpointError

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
        "parity": result.parity
        and {
            "tolerance": result.parity.tolerance,
            "max_abs_difference": {str(batch.n_batch): batch.max_abs_difference for batch in result.parity.batches},
        },
    }
