"""What the verbs that change a repository say of a recommender that no longer belongs to its `genre_cnn`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tritone_cli import console


def say_hearing(repository: Path, models: Collection[str]) -> list[str]:
    """Say to people what `tritone lint` finds of it, now that `models` have a new version.

    Returns:
        the warnings, for machines.
    """
    from tritone_export import check_hearing

    report = check_hearing(repository, models)
    for note in report.notes:
        console.say(f"note: {note}")
    warnings = [f"{finding.message} ({finding.remedy})" for finding in report.findings]
    for warning in warnings:
        console.say(f"warning: {warning}")
    return warnings


def as_warnings(warnings: list[str]) -> dict[str, list[str]]:
    """The warnings as a part of a JSON object; nothing if there are none."""
    return {"warnings": warnings} if warnings else {}
