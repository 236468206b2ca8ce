"""A cleaned log in parts of its users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tritone_training.data.interactions import Log, load_log
from tritone_training.data.interactions.partitions import INDEX_FILE, open_parts, part_of_users, write_parts
from tritone_training.data.interactions.reading import keep_log
from tritone_training.exceptions import DataError

N_PARTS = 3


@pytest.fixture
def log(tmp_path: Path) -> Log:
    rows = [
        f"u{user}\ti\u2028{item}\t{1_600_000_000 + 7 * user + item}"
        for user in range(20)
        for item in range(user % 4 + 1)
    ]
    path = tmp_path / "log.tsv"
    path.write_text("user\titem\ttime\n" + "\n".join(rows) + "\n", newline="")
    return load_log(path)


def test_the_parts_together_hold_every_listen_and_event_once(tmp_path: Path, log: Log) -> None:
    write_parts(log, tmp_path / "parts", N_PARTS)
    parts = open_parts(tmp_path / "parts")
    assert list(parts.users) == list(log.users)
    assert list(parts.items) == list(log.items)
    assert parts.report == log.report
    found = list(parts)
    assert len(found) == len(parts) == N_PARTS
    assert [len(part) for part in found] == list(parts.n_pairs)
    total = sum(part.matrix() for part in found)
    assert (total != log.matrix()).nnz == 0
    assert log.sequences is not None
    assert sum(len(part.sequences) for part in found if part.sequences is not None) == len(log.sequences)
    for part in found:
        mine = np.isin(log.user, part.user)
        assert log.time is not None
        np.testing.assert_array_equal(log.time[mine], part.time)
        assert part.sequences is not None
        np.testing.assert_array_equal(
            log.sequences.take(np.isin(log.sequences.user, part.user)).item, part.sequences.item
        )


def test_a_log_in_files_gives_the_same_parts(tmp_path: Path, log: Log) -> None:
    stored = write_parts(keep_log(tmp_path / "log.tsv"), tmp_path / "stored", N_PARTS)
    for one, other in zip(stored, write_parts(log, tmp_path / "parts", N_PARTS), strict=True):
        assert one.fingerprint() == other.fingerprint()
        assert one.sequences is not None
        assert other.sequences is not None
        np.testing.assert_array_equal(one.sequences.time, other.sequences.time)


def test_the_part_of_a_user_depends_on_the_id_alone() -> None:
    alone, together = part_of_users(["Jóga"], 5), part_of_users(["a", "Jóga", "b"], 5)
    assert alone[0] == together[1]
    assert alone[0] == 0x67881AFA % 5  # CRC-32, so that other programs can compute it
    with pytest.raises(DataError, match="at least 1"):
        part_of_users(["a"], 0)


def test_parts_without_users_are_empty_logs(tmp_path: Path, log: Log) -> None:
    parts = write_parts(log, tmp_path / "parts", 100)
    assert min(parts.n_pairs) == 0
    assert len(parts.read(int(np.argmin(parts.n_pairs)))) == 0


def test_writing_again_replaces_all_parts(tmp_path: Path, log: Log) -> None:
    write_parts(log, tmp_path / "parts", 9)
    write_parts(log, tmp_path / "parts", 2)
    assert sorted(path.name for path in (tmp_path / "parts").glob("part-*")) == ["part-00000.npz", "part-00001.npz"]


def test_incomplete_and_damaged_parts_are_refused(tmp_path: Path, log: Log) -> None:
    folder = tmp_path / "parts"
    with pytest.raises(DataError, match=INDEX_FILE):
        open_parts(folder)
    parts = write_parts(log, folder, 2)
    with pytest.raises(DataError, match="no part 2"):
        parts.read(2)
    whole = (folder / "part-00001.npz").read_bytes()
    (folder / "part-00001.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"part-00001\.npz: cannot be read"):
        parts.read(1)
    (folder / "part-00001.npz").unlink()
    with pytest.raises(DataError, match=r"part-00001\.npz: is missing"):
        parts.read(1)
    (folder / "users.txt").write_text("u0\n")
    with pytest.raises(DataError, match="expected 20 users"):
        open_parts(folder)
    (folder / INDEX_FILE).write_text('{"format": 0}')
    with pytest.raises(DataError, match="expected format 1"):
        open_parts(folder)
