"""Fixtures of every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from tests.support.command_line import run_tritone

__all__ = ["run_tritone"]

# Several test processes share the cores. By default each computes with as many threads as there are cores, and those
# threads spin while they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# On a busy machine, any example may take long.
hypothesis.settings.register_profile("without deadlines", deadline=None)
hypothesis.settings.load_profile("without deadlines")


@pytest.fixture(scope="session", autouse=True)
def isolated_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Use a state folder (tokens, keys, logs) of this test process alone."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("state")
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def normal_priority() -> Iterator[None]:
    """Keep commands that run in this process, such as `tritone batch`, from lowering the priority of all its tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "setpriority", lambda which, who, priority: None)
        yield


# Files that take longest, in this order, so that no worker begins one of them last. Some compute, some only wait.
LONGEST_FILES = (
    "integration/test_demo.py",
    "integration/test_documents.py",
    "unit/training/test_engines.py",
    "unit/training/test_process_failures.py",
    "unit/training/test_processes.py",
    "unit/training/test_resume.py",
    "unit/client/test_time_limits.py",
    "unit/training/test_music_gan.py",
    "deploy/test_balancer_requests.py",
    "unit/training/test_music_transformer_export.py",
    "deploy/test_balancer.py",
    "unit/training/test_music_vae.py",
    "integration/test_watchdog_repairs.py",
    "integration/test_music.py",
    "integration/test_bench_and_optimize.py",
    "unit/training/test_warm_start.py",
    "integration/test_publish_checkpoint.py",
    "unit/training/test_polyphony_rnn.py",
    "unit/training/test_corpus.py",
    "unit/export/test_precision.py",
    "integration/test_composer.py",
    "integration/test_serve.py",
    "unit/client/test_forks.py",
    "unit/contract/test_kinds.py",
)
RANKS = {name: rank for rank, name in enumerate(LONGEST_FILES)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    items.sort(key=lambda item: RANKS.get(item.path.relative_to(tests).as_posix(), len(RANKS)))
