"""`tritone publish`: a new version goes live on a running server, if it passes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritone_cli import console
from tritone_cli.hearing import as_warnings, say_hearing
from tritone_cli.live import AdminTokenFile, Force, connected
from tritone_cli.options import ApiKeyFile, CaFile, LiveServer

if TYPE_CHECKING:
    from tritone_export.publishing import Published


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("publish")(publish)


def publish(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Model kind; with --from names of models.")],
    *,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="What `tritone train` wrote.  [default: runs/MODEL]", show_default=False),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Publish the newest versions of this repository, which were exported elsewhere.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name on the server, if not the kind's.")] = None,
    repository: Annotated[Path, typer.Option(help="The repository that the server serves.")] = Path("model_repository"),
    server: LiveServer = "127.0.0.1:8001",
    admin_token_file: AdminTokenFile = None,
    api_key_file: ApiKeyFile = None,
    ca_file: CaFile = None,
    max_slowdown: Annotated[
        float, typer.Option(min=0.01, help="The new version may take so many times as long as the live one, and 5 ms.")
    ] = 1.5,
    canaries: Annotated[int, typer.Option(min=1, max=1000, help="How many requests it is tried with.")] = 8,
    other_tensors: Annotated[
        bool, typer.Option("--other-tensors", help="It may have other inputs and outputs than the live version.")
    ] = False,
    force: Force = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Try a new version on a running server, make it live if it passes, and keep the one before for `rollback`."""
    if source is not None and (checkpoint is not None or name is not None):
        raise typer.BadParameter("--from takes neither --checkpoint nor --name")
    if source is None and len(models) > 1:
        raise typer.BadParameter("one kind at a time; several MODELs belong to --from")
    from tritone_export.publishing import publish_live
    from tritone_serving.trial import Bounds

    bounds = Bounds(n_canaries=canaries, max_slowdown=max_slowdown, other_tensors=other_tensors)
    with (
        connected(
            repository, server, admin_token_file, api_key_file=api_key_file, ca_file=ca_file, bounds=bounds
        ) as live,
        console.people.status("loading") as status,
        _exported(models, checkpoint, source, name, repository, status.update) as (folder, names),
    ):
        published = publish_live(folder, names, live, force=force, on_step=status.update)
    warnings = say_hearing(repository, [each.model for each in published])
    if json:
        console.print_json({"published": [as_json(each) for each in published], **as_warnings(warnings)})
        return
    for each in published:
        console.say(f"{each.model}: {_said(each)}")


@contextmanager
def _exported(
    models: list[str], checkpoint: Path | None, source: Path | None, name: str | None, repository: Path, on_step: Any
) -> Iterator[tuple[Path, list[str]]]:
    """The repository to publish from, and the models in it in their order."""
    if source is not None:
        yield source, models
        return
    from tritone_cli.commands.export import checkpoint_folder
    from tritone_export import export_kind
    from tritone_serving.repository.folders import filled_models, steps_of
    from tritone_training.registry import get_kind

    kind = get_kind(models[0])
    exportable = kind.export(checkpoint_folder(models[0], checkpoint, None), None)
    with tempfile.TemporaryDirectory(prefix=".publish-", dir=repository) as path:
        folder = Path(path)
        own = [each.model for each in export_kind(exportable, kind, repository=folder, name=name, on_step=on_step)]
        served, written = filled_models(repository), filled_models(folder)
        # What an ensemble passes through comes before it, if it is not there yet; without all its steps it has to wait.
        through = sorted(written - served - set(own))
        yield folder, [*through, *(model for model in own if steps_of(folder / model) <= served | written)]


def as_json(published: Published) -> dict[str, Any]:
    """One version as plain values."""
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


def _said(published: Published) -> str:
    said = f"version {published.version} is live"
    if published.before is not None:
        said += f", version {published.before} is kept"
    trial = published.trial
    if trial is None:
        return said
    said += f"; {trial.median_s * 1000:.1f} ms"
    if trial.live_median_s is not None:
        said += f" (before: {trial.live_median_s * 1000:.1f} ms)"
    if trial.max_abs_difference:
        said += f", at most {max(trial.max_abs_difference.values()):.1e} from its file"
    return said
