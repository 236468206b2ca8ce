"""Findings of the checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """A problem in a repository.

    Attributes:
        path: file or folder with the problem.
        line: line number, counted from 1; 1 if the finding is about the whole file or folder.
        severity: `error` if Triton refuses the model or serves it incorrectly, `warning` if it may work.
        remedy: how to correct it.
    """

    path: Path
    line: int
    severity: Severity
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.severity}: {self.message} ({self.remedy})"


@dataclass(frozen=True)
class LintReport:
    """Result of a check.

    Attributes:
        findings: problems, sorted by path and line.
        notes: remarks that are not problems, such as a model without a version.
        n_models: number of model folders that were checked.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    n_models: int


class Findings:
    """Collect findings and notes during the checks."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.notes: list[str] = []

    def error(self, path: Path, line: int, message: str, remedy: str) -> None:
        """Add a finding that prevents serving or makes its results wrong."""
        self.findings.append(Finding(path, line, "error", message, remedy))

    def warning(self, path: Path, line: int, message: str, remedy: str) -> None:
        """Add a finding despite which serving may work."""
        self.findings.append(Finding(path, line, "warning", message, remedy))

    def note(self, text: str) -> None:
        """Add a remark that is not a problem."""
        self.notes.append(text)
