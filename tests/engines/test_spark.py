"""Bulk inference on a local Spark, against a real server."""

from __future__ import annotations

import functools
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.engines.busy_server import busy_server
from tests.engines.model_server import ModelServer
from tests.engines.workers import wait_for_workers
from tests.support.bulk_rows import (
    assert_classified_as_by_the_sdk,
    assert_embedded_as_by_the_sdk,
    assert_errors,
    assert_one_row_for_each_copy,
    paths,
    paths_and_copies,
    write_good_and_bad_files,
)

import tritone.spark
from tritone.batch import OPERATIONS
from tritone.constants import EMBEDDING_SIZE
from tritone.exceptions import InvalidInputError


def collected(frame: Any) -> list[dict[str, Any]]:
    return [row.asDict() for row in frame.collect()]


@pytest.fixture
def songs(spark: Any, music: Path) -> Any:
    """Two partitions of paths."""
    frame = pd.DataFrame({"path": paths(music)})
    return spark.createDataFrame(frame.assign(year=2026)).repartition(2)


@pytest.mark.parametrize("function", ["mapInPandas", "mapInArrow"])
def test_paths_are_classified_as_by_the_sdk(function: str, songs: Any, music: Path, server: ModelServer) -> None:
    classify = tritone.spark.Classify(server=server.address)
    rows = collected(getattr(songs, function)(classify, classify.schema(songs)))
    assert_classified_as_by_the_sdk(rows, music, server.address)
    assert {row["year"] for row in rows} == {2026}


def test_contents_of_files_are_classified_as_by_the_sdk(spark: Any, music: Path, server: ModelServer) -> None:
    files = spark.read.format("binaryFile").load(str(music))
    classify = tritone.spark.Classify(server=server.address, concurrency=2)
    results = files.mapInPandas(classify, classify.schema(files))
    assert "content" not in results.columns
    assert_classified_as_by_the_sdk(collected(results), music, server.address)


def test_a_schema_may_be_given_in_words(songs: Any, music: Path, server: ModelServer) -> None:
    embed = tritone.spark.Embed(server=server.address)
    words = embed.schema(songs).simpleString()
    assert words.startswith("struct<path:string,year:bigint,embedding:array<float>,")
    rows = songs.mapInPandas(embed, words)
    assert Counter(row.error_type for row in rows.collect()) == {None: 12, "unreadable": 1}


def test_a_column_of_embeddings(songs: Any, music: Path, server: ModelServer) -> None:
    embed = tritone.spark.embed_udf(server=server.address, batch_size=3)
    rows = collected(songs.withColumn("sound", embed("path")).select("path", "sound.*"))
    assert_embedded_as_by_the_sdk(rows, music, server.address, unknown=[math.nan] * EMBEDDING_SIZE)


@pytest.mark.parametrize("function", ["mapInPandas", "mapInArrow"])
def test_files_that_cannot_be_used_are_errors_of_their_rows(
    function: str, spark: Any, server: ModelServer, tmp_path: Path
) -> None:
    expected = write_good_and_bad_files(tmp_path)
    classify = tritone.spark.Classify(server=server.address)
    by_path = spark.createDataFrame([(path,) for path in expected], "path string").repartition(2)
    assert_errors(collected(getattr(by_path, function)(classify, classify.schema(by_path))), expected)
    by_content = spark.read.format("binaryFile").load(str(tmp_path))  # leaves empty files out
    present = {path: kind for path, kind in expected.items() if kind not in ("missing", "empty")}
    assert_errors(collected(getattr(by_content, function)(classify, classify.schema(by_content))), present)


def test_one_of_several_servers_may_be_down(songs: Any, music: Path, server: ModelServer) -> None:
    classify = tritone.spark.Classify(server=["127.0.0.1:9", server.address])
    rows = collected(songs.mapInPandas(classify, classify.schema(songs)))
    assert_classified_as_by_the_sdk(rows, music, server.address)


def test_a_server_of_the_node_by_a_function(songs: Any, music: Path, server: ModelServer) -> None:
    port = server.port
    classify = tritone.spark.Classify(server=lambda: f"127.0.0.1:{port}")
    rows = collected(songs.mapInPandas(classify, classify.schema(songs)))
    assert_classified_as_by_the_sdk(rows, music, server.address)


def slowly(batches: Iterator[Any], *, embed: Any, folder: Path) -> Iterator[Any]:
    """Embed with a pause before each batch, and write the id of this process into a folder."""

    def paused() -> Iterator[Any]:
        for batch in batches:
            (folder / str(os.getpid())).touch()
            time.sleep(0.3)
            yield batch

    yield from embed(paused())


@pytest.fixture
def slow_rows(spark: Any, music: Path, server: ModelServer, tmp_path: Path) -> Any:
    """The rows of a job of 130 recordings in batches of 5."""
    songs = spark.createDataFrame(paths_and_copies(music), "path string, copy int").repartition(4)
    embed = tritone.spark.Embed(server=server.address)
    function = functools.partial(slowly, embed=embed, folder=tmp_path)

    def rows() -> list[dict[str, Any]]:
        spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "5")
        try:
            return collected(songs.mapInPandas(function, embed.schema(songs)))
        finally:
            spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")

    return rows


def test_a_killed_worker_loses_and_repeats_no_row(slow_rows: Any, music: Path, tmp_path: Path) -> None:
    killed = []

    def kill() -> None:
        killed.append(wait_for_workers(tmp_path, 2)[0])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    rows = slow_rows()
    thread.join()
    assert killed
    assert_one_row_for_each_copy(rows, music)


def test_a_restarted_server_loses_no_row(slow_rows: Any, music: Path, server: ModelServer, tmp_path: Path) -> None:
    def restart() -> None:
        wait_for_workers(tmp_path, 2)
        server.stop()
        time.sleep(1)
        server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    rows = slow_rows()
    thread.join()
    assert_one_row_for_each_copy(rows, music)


def test_a_busy_server_gets_fewer_requests_at_once(spark: Any, music: Path) -> None:
    songs = spark.createDataFrame(paths_and_copies(music), "path string, copy int").repartition(2)
    with busy_server(n_parallel=3) as busy:
        embed = tritone.spark.Embed(server=busy.url, concurrency=16)
        rows = collected(songs.mapInPandas(embed, embed.schema(songs)))
    assert_one_row_for_each_copy(rows, music)
    assert busy.n_refused > 0
    assert busy.most <= 8  # of 32


def test_a_server_that_stays_away_fails_the_job(songs: Any) -> None:
    embed = tritone.spark.Embed(server="127.0.0.1:9", wait_s=0)
    with pytest.raises(Exception, match="ConnectionFailedError"):
        songs.mapInPandas(embed, embed.schema(songs)).collect()


def test_columns_are_checked_before_the_job(songs: Any) -> None:
    with pytest.raises(InvalidInputError, match="no column 'file' in the data: expected file, got path, year"):
        tritone.spark.Embed(path_column="file").schema(songs)
    with pytest.raises(InvalidInputError, match="got 'error'; rename or drop it"):
        tritone.spark.Embed().schema(songs.withColumnRenamed("year", "error"))


def test_all_operations_of_batch_jobs_have_a_schema(songs: Any) -> None:
    for name, operation in OPERATIONS.items():
        call = tritone.spark.Call(name, inputs={"path": "path"})
        assert call.schema(songs).names == ["path", "year", *operation.columns, "error", "error_type"]


def test_a_schema_without_the_columns_fails_the_job(songs: Any, server: ModelServer) -> None:
    embed = tritone.spark.Embed(server=server.address)
    with pytest.raises(Exception, match=r"(?i)schema|column"):
        songs.mapInPandas(embed, "path string, loudness double").collect()
