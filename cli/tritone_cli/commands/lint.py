"""`tritone lint`: checks a model repository without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("lint")(lint)


def lint(
    repository: Annotated[Path, typer.Argument(help="The folder with one folder per model.", show_default=True)] = Path(
        "model_repository"
    ),
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check any Triton repository: configs, versions, labels, and the ONNX files against them.

    Findings go to stdout as `file:line: severity: message (what to do)`; with any, the exit status is 1.
    """
    from tritone_export import check_repository

    report = check_repository(repository)
    for note in report.notes:
        console.say(f"note: {note}")
    if json:
        console.print_json(
            {
                "n_models": report.n_models,
                "findings": [
                    {
                        "path": str(finding.path),
                        "line": finding.line,
                        "severity": finding.severity,
                        "message": finding.message,
                        "remedy": finding.remedy,
                    }
                    for finding in report.findings
                ],
                "notes": list(report.notes),
            }
        )
    else:
        for finding in report.findings:
            console.print_line(str(finding))
        models = "1 model" if report.n_models == 1 else f"{report.n_models} models"
        findings = "1 finding" if len(report.findings) == 1 else f"{len(report.findings) or 'no'} findings"
        console.say(f"{models}, {findings}")
    if report.findings:
        raise typer.Exit(1)
