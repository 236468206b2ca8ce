"""Checks of a model repository without a server; knows Triton's rules, not our declarations."""

from tritone_export.lint.check import check_repository, lint_repository
from tritone_export.lint.findings import Finding, LintReport
from tritone_export.lint.recommender import check_hearing

__all__ = ["Finding", "LintReport", "check_hearing", "check_repository", "lint_repository"]
