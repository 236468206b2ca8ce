"""Manifests as sources of batch jobs, and jobs in shards."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.batch_jobs import rows
from tests.unit.client.batch.job_server import Server, paths_in

from tritone import BatchError, FileAccessError, InvalidInputError


def test_a_manifest_names_files_relative_to_itself(server: Server, tones: Path, tmp_path: Path) -> None:
    (tones / "list.csv").write_text("title,path\na,0.wav\nb,sub/1.wav\nc,0.wav\nd,nothing.wav\n")
    (tones / "list.txt").write_text(f"\ufeff0.wav\r\n\r\n{tones}/2.wav\n", encoding="utf-8")
    summary = server.run(tones / "list.csv", tmp_path / "csv")
    assert summary.n_files == 3  # a repeated file is one file
    found = rows(tmp_path / "csv")
    assert found["path"].tolist() == [f"{tones}/{name}" for name in ("0.wav", "nothing.wav", "sub/1.wav")]
    assert found["error_type"].dropna().tolist() == ["missing"]
    assert server.run(tones / "list.txt", tmp_path / "txt").n_files == 2


@pytest.mark.parametrize("content", [b"file\na.wav\n", b"path\n\xff\xfe\n", b"path\n"])
def test_a_manifest_that_cannot_be_read_is_an_error(server: Server, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises((InvalidInputError, FileAccessError)):
        server.run(tmp_path / "list.csv", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_shards_share_a_folder_and_have_all_files_once(server: Server, tones: Path, tmp_path: Path) -> None:
    counts = [server.run(tones, tmp_path / "out", shard=(k, 3), rows_per_part=2, resume=True).n_new for k in (1, 2, 3)]
    assert sum(counts) == 10
    assert max(counts) < 10
    assert rows(tmp_path / "out")["path"].tolist() == paths_in(tones)
    for shard in ((1, 1), (1, 2)):
        with pytest.raises(BatchError) as caught:
            server.run(tones, tmp_path / "out", shard=shard, resume=True)
        assert caught.value.reason == "other_job"


def test_the_output_may_be_in_the_folder_of_the_recordings(server: Server, tones: Path) -> None:
    server.run(tones, tones, shard=(1, 2))
    summary = server.run(tones, tones, shard=(2, 2))
    assert summary.errors == {}
    assert len(rows(tones)) == 10
