"""Check a model repository without a server, by the rules of Triton; works for models of any origin."""

from tritone_export.lint.check import check_repository, lint_repository
from tritone_export.lint.findings import Finding, LintReport
from tritone_export.lint.recommender import check_embedding_models

__all__ = ["Finding", "LintReport", "check_embedding_models", "check_repository", "lint_repository"]
