"""Each file of a batch job becomes one row, with the columns of its operation."""

from __future__ import annotations

import io
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import soundfile
from tests.support.batch_jobs import rows
from tests.unit.client.batch.job_server import SHARES, Server, paths_in, write_tone
from tests.unit.client.writers import FakeWriters

from tritone import MusicClient
from tritone.batch import OPERATIONS, BatchOptions, run_batch
from tritone.music.scores import to_grid


def test_every_file_becomes_one_row(server: Server, tones: Path, tmp_path: Path) -> None:
    summary = server.run(tones, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert found["path"].tolist() == paths_in(tones)
    assert found["error"].isna().all()
    assert set(found["label"]) == {"rock"}
    assert found["probabilities"][0] == pytest.approx(SHARES)
    assert found["duration_s"].tolist() == pytest.approx([1.0] * 10)
    assert (summary.n_files, summary.n_done, summary.n_new, summary.errors) == (10, 10, 10, {})
    assert summary.complete
    assert summary.hours_done == pytest.approx(10 / 3_600)


def test_embeddings_are_lists_of_numbers(server: Server, tones: Path, tmp_path: Path) -> None:
    server.run(tones, tmp_path / "out", operation="embed")
    found = rows(tmp_path / "out")
    assert np.linalg.norm(found["embedding"][3]) == pytest.approx(1.0, abs=1e-5)
    assert set(OPERATIONS["embed"].all_columns) == set(found.columns)


def test_what_is_wrong_with_a_file_is_in_its_row(server: Server, tones: Path, tmp_path: Path) -> None:
    (tones / "empty.wav").touch()
    (tones / "text.wav").write_text("no audio")
    (tones / "cut.wav").write_bytes((tones / "0.wav").read_bytes()[:5_000])
    write_tone(tones / "short.wav", 0.1)
    write_tone(tones / "long.wav", 20.0)
    soundfile.write(tones / "silent.wav", np.zeros(8_000), 8_000)
    (tones / "gone.wav").symlink_to(tones / "nothing")
    summary = server.run(tones, tmp_path / "out", max_duration_s=15.0)
    found = rows(tmp_path / "out").set_index("path")
    kinds = {Path(path).name: kind for path, kind in found["error_type"].dropna().items()}
    assert kinds == {
        "empty.wav": "empty",
        "text.wav": "unreadable",
        "cut.wav": "too_short",
        "short.wav": "too_short",
        "long.wav": "too_long",
        "silent.wav": "silent",
        "gone.wav": "missing",
    }
    assert found["error"].notna().sum() == found["label"].isna().sum() == 7
    assert summary.errors["too_short"] == 2
    assert summary.complete


def test_a_file_that_vanishes_after_the_start_gets_a_row(server: Server, tones: Path, tmp_path: Path) -> None:
    server.fail = lambda request: (tones / "sub" / "9.wav").unlink(missing_ok=True)
    server.run(tones, tmp_path / "out", concurrency=1)
    found = rows(tmp_path / "out")
    assert len(found) == 10
    assert found["error_type"].dropna().tolist() == ["missing"]


def test_names_that_are_not_utf8_are_escaped(server: Server, tones: Path, tmp_path: Path) -> None:
    (tones / "0.wav").rename(os.fsdecode(os.fsencode(tones) + b"/caf\xe9.wav"))
    Path(os.fsdecode(os.fsencode(tones) + b"/bad\xe9.wav")).touch()
    server.run(tones, tmp_path / "out")
    assert f"{tones}/caf\\xe9.wav" in rows(tmp_path / "out")["path"].tolist()
    server.run(tones, tmp_path / "out", resume=True)
    assert len(rows(tmp_path / "out")) == 11


def test_parts_have_the_same_schema_and_are_bounded(server: Server, tones: Path, tmp_path: Path) -> None:
    for number in range(4):
        (tones / f"bad{number}.wav").touch()
    server.run(tones, tmp_path / "out", rows_per_part=2, concurrency=1)
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    schemas = {
        str(duckdb.sql(f"SELECT name, type, repetition_type FROM parquet_schema('{part}')").fetchall())  # noqa: S608
        for part in parts
    }
    assert len(parts) >= 7
    assert len(schemas) == 1
    assert max(len(pd.read_parquet(part, engine="fastparquet")) for part in parts) <= 2


def test_long_recordings_are_sent_in_small_requests(server: Server, tmp_path: Path) -> None:
    write_tone(tmp_path / "in" / "long.wav", 60.0)
    server.fail = lambda request: time.sleep(0.02 * len(request.inputs["audio"]))
    server.run(tmp_path / "in", tmp_path / "out")
    assert max(server.n_rows) <= 2
    assert rows(tmp_path / "out")["duration_s"][0] == pytest.approx(60.0)


@pytest.mark.parametrize(
    ("operation", "arguments", "schema"),
    [
        ("predict", {}, {"nll_per_frame": "DOUBLE", "n_frames": "BIGINT"}),
        ("compose", {"bars": 2}, {"midi": "BLOB", "seed": "BIGINT"}),
        ("reconstruct", {}, {"midi": "BLOB", "seed": "BIGINT"}),
    ],
)
def test_operations_on_scores(
    scores: Path, tmp_path: Path, operation: str, arguments: dict[str, Any], schema: dict[str, str]
) -> None:
    with MusicClient(transport=FakeWriters(), retries=0) as music:
        for out in ("a", "b"):
            summary = run_batch(
                music,
                BatchOptions(
                    source=str(scores),
                    out=f"{tmp_path / out}/part-%05d.parquet",
                    operation=operation,
                    arguments=arguments,
                ),
            )
            assert summary.errors == {"not_midi": 1}
        found = rows(tmp_path / "a").dropna(subset="model")
        assert len(found) == 3
        assert found["model"].eq(OPERATIONS[operation].model).all()
        assert found["model_version"].eq("3").all()
        table = duckdb.sql(f"DESCRIBE FROM read_parquet('{tmp_path}/a/part-*.parquet')").fetchall()
        assert {name: kind for name, kind, *_ in table} == {
            **dict.fromkeys(("path", "error", "error_type", "model", "model_version"), "VARCHAR"),
            **schema,
        }
        for row in found.itertuples():
            if operation == "predict":
                expected = music.predict(row.path)
                assert (row.nll_per_frame, row.n_frames) == pytest.approx((expected.nll_per_frame, expected.n_frames))
                continue
            call = {
                "compose": partial(music.compose, prompt=row.path, bars=2),
                "reconstruct": partial(music.reconstruct, row.path),
            }[operation]
            again = io.BytesIO()
            call(seed=row.seed).save(again, format="mid")
            assert bytes(row.midi) == again.getvalue()
            assert to_grid(bytes(row.midi)).frames.any()
        assert rows(tmp_path / "b").drop(columns="error").equals(rows(tmp_path / "a").drop(columns="error"))
        if operation != "predict":
            assert found["seed"].is_unique


def test_progress_counts_files_and_hours(server: Server, tones: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    server.run(tones, tmp_path / "out", on_progress=seen.append)
    assert (seen[-1].n_done, seen[-1].n_files) == (10, 10)
    assert seen[-1].hours_done == pytest.approx(10 / 3_600)
    json.dumps(seen[-1].__dict__)
