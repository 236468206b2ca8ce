"""What lint says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing to put right.

    Attributes:
        path: the file or folder concerned.
        line: counted from 1; 1 where the whole file or folder is meant.
        severity: `error` where Triton refuses or serves wrongly, `warning` where it works by luck.
        remedy: what to do.
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
    """All of it.

    Attributes:
        findings: sorted by path and line.
        notes: what is no fault but worth knowing, a model without a version yet for one.
        n_models: how many model folders were looked at.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    n_models: int


class Findings:
    """Collects findings and notes while the checks walk."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.notes: list[str] = []

    def error(self, path: Path, line: int, message: str, remedy: str) -> None:
        """Add a finding that stops or falsifies serving."""
        self.findings.append(Finding(path, line, "error", message, remedy))

    def warning(self, path: Path, line: int, message: str, remedy: str) -> None:
        """Add a finding that serving may survive."""
        self.findings.append(Finding(path, line, "warning", message, remedy))

    def note(self, text: str) -> None:
        """Add something that is no fault."""
        self.notes.append(text)
