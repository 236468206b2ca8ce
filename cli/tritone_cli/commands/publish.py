"""`tritone publish` and `rollback`: change the live version of a model on a running server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritone_cli import connections, console, options
from tritone_cli.commands.export import as_warnings, checkpoint_folder, print_embedding_warnings

if TYPE_CHECKING:
    from tritone_export.publishing import Published


def publish(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Model kind; with --from, names of models.", show_default=False),
    ],
    *,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Checkpoint folder written by `tritone train`. Default: runs/MODEL.", show_default=False),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Publish the newest versions of this repository instead of a checkpoint.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model on the server. Default: the kind.", show_default=False)
    ] = None,
    repository: Annotated[Path, typer.Option(help="Model repository of the server.")] = Path("model_repository"),
    server: options.LiveServer = "127.0.0.1:8001",
    admin_token_file: options.AdminTokenFile = None,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    max_slowdown: options.MaxSlowdown = 1.5,
    canaries: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            help="Number of test requests to the new version; three times as many if it seems slow.",
        ),
    ] = 8,
    other_tensors: Annotated[
        bool, typer.Option("--other-tensors", help="Allow other inputs and outputs than those of the live version.")
    ] = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Test a new version on a running server and make it live if it passes; `rollback` undoes this."""
    if source is not None and (checkpoint is not None or name is not None):
        raise typer.BadParameter("--from: expected neither --checkpoint nor --name")
    if source is None and len(models) > 1:
        raise typer.BadParameter(f"expected one kind, got {len(models)}; only --from takes several models")
    from tritone_export.publishing import publish_live
    from tritone_serving.trial import Bounds

    bounds = Bounds(n_canaries=canaries, max_slowdown=max_slowdown, other_tensors=other_tensors)
    with (
        connections.live_server(
            repository, server, admin_token_file, api_key_file=api_key_file, ca_file=ca_file, bounds=bounds
        ) as live,
        console.people.status("loading") as status,
        exported(models, checkpoint, source, name, repository, status.update) as (folder, names),
    ):
        published = publish_live(folder, names, live, force=force, on_step=status.update)
    warnings = print_embedding_warnings(repository, [each.model for each in published])
    if as_json:
        console.print_json({"published": [_to_dict(each) for each in published], **as_warnings(warnings)})
        return
    for each in published:
        console.say(f"{each.model}: {_describe(each)}")


def rollback(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Names of models, including companions.", show_default=False)
    ],
    *,
    version: Annotated[
        int | None,
        typer.Option(help="Version to return to. Default: the version before the live one.", show_default=False),
    ] = None,
    repository: Annotated[Path, typer.Option(help="Model repository of the server.")] = Path("model_repository"),
    server: options.LiveServer = "127.0.0.1:8001",
    admin_token_file: options.AdminTokenFile = None,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Make an earlier version live again on a running server, under the next version number."""
    if version is not None and len(models) > 1:
        raise typer.BadParameter(f"--version: expected one MODEL, got {len(models)}")
    from tritone_export.publishing import rollback as roll_back

    with connections.live_server(
        repository, server, admin_token_file, api_key_file=api_key_file, ca_file=ca_file
    ) as live:
        published = [
            roll_back(model, live, version=version, force=force, together=models[index + 1 :])
            for index, model in enumerate(models)
        ]
    warnings = print_embedding_warnings(repository, models)
    if as_json:
        console.print_json({"published": [_to_dict(each) for each in published], **as_warnings(warnings)})
        return
    for each in published:
        console.say(f"{each.model}: version {each.version} is live and replaces version {each.before}")


@contextmanager
def exported(
    models: list[str], checkpoint: Path | None, source: Path | None, name: str | None, repository: Path, on_step: Any
) -> Iterator[tuple[Path, list[str]]]:
    """Yield the repository to publish from and its models, in the order of publication."""
    if source is not None:
        yield source, models
        return
    from tritone_export import export_kind
    from tritone_serving.repository import filled_models, steps_of
    from tritone_training.registry import get_kind

    kind = get_kind(models[0])
    exportable = kind.export(checkpoint_folder(models[0], checkpoint, None))
    with tempfile.TemporaryDirectory(prefix=".publish-", dir=repository) as path:
        folder = Path(path)
        own = [each.model for each in export_kind(exportable, kind, repository=folder, name=name, on_step=on_step)]
        served, written = filled_models(repository), filled_models(folder)
        # Models that an ensemble calls come first; an ensemble is left out if one of its steps does not exist yet.
        steps = sorted(written - served - set(own))
        yield folder, [*steps, *(model for model in own if steps_of(folder / model) <= served | written)]


def _to_dict(published: Published) -> dict[str, Any]:
    """Return a published version for `--json`."""
    trial = published.trial
    return {
        "model": published.model,
        "version": published.version,
        "before": published.before,
        "seconds": round(published.seconds, 3),
        "median_s": trial and trial.median_s,
        "live_median_s": trial and trial.live_median_s,
        "max_abs_difference": dict(trial.max_abs_difference) if trial else {},
    }


def _describe(published: Published) -> str:
    text = f"version {published.version} is live"
    if published.before is not None:
        text += f", version {published.before} is kept"
    trial = published.trial
    if trial is None:
        return text
    text += f"; {trial.median_s * 1000:.1f} ms"
    if trial.live_median_s is not None:
        text += f" (before: {trial.live_median_s * 1000:.1f} ms)"
    if trial.max_abs_difference:
        text += f"; largest difference from its ONNX file {max(trial.max_abs_difference.values()):.1e}"
    return text
