from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))  # importlib mode puts no test folder on the path

from tests.unit.export import fixture_kind

from tritone_export import ExportResult, export_model


@pytest.fixture(scope="session")
def exported_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportResult]:
    """Return a repository with one exported version; tests must not change it."""
    repository = tmp_path_factory.mktemp("exported") / "model_repository"
    return repository, export_model(fixture_kind.exportable(), fixture_kind.kind(), repository=repository)


@pytest.fixture
def repository(exported_once: tuple[Path, ExportResult], tmp_path: Path) -> Path:
    """Return a copy of the repository that a test may change."""
    return Path(shutil.copytree(exported_once[0], tmp_path / "model_repository"))


@pytest.fixture
def result(exported_once: tuple[Path, ExportResult]) -> ExportResult:
    return exported_once[1]
