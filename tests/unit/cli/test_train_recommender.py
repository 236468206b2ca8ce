"""The training commands on a listening log with other column names."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.support import recommender_models

from tritone_cli import console
from tritone_training.kinds.recommender.report import base_models_table
from tritone_training.ranking_metrics import MAIN_METRICS


@pytest.fixture(scope="module")
def words() -> list[str]:
    files = recommender_models.files()
    columns = {"user": "who", "item": "what", "plays": "n", "friend": "whom", "tag": "tag"}
    given = ["--interactions", files.interactions, "--friends", files.friends, "--item-tags", files.item_tags]
    return [*map(str, given), *(word for name, each in columns.items() for word in (f"--{name}-column", each))]


def test_training_draws_its_report(run_tritone: Callable[..., Any], words: list[str], tmp_path: Path) -> None:
    ended = run_tritone(
        "train", "recommender", *words, "--preset", "tiny", "--max-epochs", 1, "--out", tmp_path / "run",
        "--report", tmp_path / "report", "--json",
    )  # fmt: skip
    assert ended.status == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert {Path(path).name for path in summary["report"]} >= {"base_models.png", "metrics.csv", "report.md"}
    assert all(Path(path).is_file() for path in summary["report"])
    assert "valid: " in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_tune_reads_a_listening_log_and_prints_the_next_command(
    run_tritone: Callable[..., Any], words: list[str], tmp_path: Path
) -> None:
    search = ["tune", "recommender", *words, "--preset", "tiny", "--max-epochs", 1, "--trials", 1, "--out", tmp_path]
    ended = run_tritone(*search)
    assert ended.status == 0, ended.stderr
    line = next(line for line in ended.stderr.splitlines() if line.startswith("next: "))
    said = shlex.split(line.removeprefix("next: "))
    assert said[:3] == ["tritone", "train", "recommender"]
    pairs = dict(zip(said[3::2], said[4::2], strict=True))
    assert pairs["--interactions"] == words[1]
    assert pairs["--plays-column"] == "n"
    other = run_tritone("tune", "recommender", "--trials", 1, "--preset", "tiny", "--max-epochs", 1, "--out", tmp_path)
    assert other.status == 1
    assert "holds a study of other settings" in other.stderr


def test_the_requested_number_of_seeds_is_used(
    run_tritone: Callable[..., Any], words: list[str], tmp_path: Path
) -> None:
    ended = run_tritone(
        "crossvalidate", "recommender", *words, "--preset", "tiny", "--max-epochs", 1, "--seeds", 2, "--seed", 5,
        "--out", tmp_path, "--json",
    )  # fmt: skip
    assert ended.status == 0, ended.stderr
    assert [fold["seed"] for fold in json.loads(ended.stdout)["folds"]] == [5, 6]


def test_the_table_of_base_models_fits_a_terminal_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    values = dict.fromkeys(MAIN_METRICS, 0.12345)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "people", Console(stderr=True, width=80))
        console.print_summary([base_models_table(dict.fromkeys(("taste_vae", "popularity"), values))])
    lines = capsys.readouterr().err.splitlines()
    header = next(line for line in lines if "ndcg@10" in line)
    assert all(name in header for name in ("base model", "recall@40", "hit rate@10"))
    assert any("taste_vae" in line for line in lines)
    assert max(map(len, lines)) <= 80
