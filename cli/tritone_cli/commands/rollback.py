"""`tritone rollback`: the version before goes live again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console
from tritone_cli.commands.publish import as_json
from tritone_cli.hearing import as_warnings, say_hearing
from tritone_cli.live import AdminTokenFile, Force, connected
from tritone_cli.options import ApiKeyFile, CaFile, LiveServer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("rollback")(rollback)


def rollback(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Names of models, companions too.")],
    *,
    version: Annotated[
        int | None, typer.Option(help="Bring back this version.  [default: the one before]", show_default=False)
    ] = None,
    repository: Annotated[Path, typer.Option(help="The repository that the server serves.")] = Path("model_repository"),
    server: LiveServer = "127.0.0.1:8001",
    admin_token_file: AdminTokenFile = None,
    api_key_file: ApiKeyFile = None,
    ca_file: CaFile = None,
    force: Force = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make the version before live again on a running server, under the next number."""
    if version is not None and len(models) > 1:
        raise typer.BadParameter("--version belongs to one MODEL")
    from tritone_export.publishing import rollback as go_back

    with connected(repository, server, admin_token_file, api_key_file=api_key_file, ca_file=ca_file) as live:
        published = [
            go_back(model, live, version=version, force=force, together=models[place + 1 :])
            for place, model in enumerate(models)
        ]
    warnings = say_hearing(repository, models)
    if json:
        console.print_json({"published": [as_json(each) for each in published], **as_warnings(warnings)})
        return
    for each in published:
        console.say(f"{each.model}: version {each.version} is live, which undoes version {each.before}")
