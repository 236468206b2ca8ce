from __future__ import annotations

import errno
from contextlib import ExitStack
from pathlib import Path

import pytest

from tritone.atomic import make_private_folder, replacing, restrict_to_owner, staged_pattern, write_atomically


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_atomically(path, "old")
    with replacing(path, sync=True) as staged:
        assert staged.suffix == ".csv"
        staged.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def fail() -> None:
        with replacing(path) as staged:
            staged.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_given_mode_replaces_that_of_the_old_file(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.touch(0o666)
    with replacing(path, mode=mode) as staged:
        assert mode_of(staged) == 0o600
    assert mode_of(path) == mode


def test_an_existing_file_can_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for content in ("first", "second"):
        write_atomically(path, content, if_exists="keep")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("has_links", [True, False])
def test_an_existing_file_can_be_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool) -> None:
    def no_links(*paths: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr("os.link", no_links)
    path = tmp_path / "part"
    write_atomically(path, "first", if_exists="error")
    with pytest.raises(FileExistsError):
        write_atomically(path, "second", if_exists="error")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_of_two_writers_at_the_same_time_one_gets_an_error(tmp_path: Path) -> None:
    path = tmp_path / "part"
    with ExitStack() as first, ExitStack() as second:
        for stack in (second, first):
            stack.enter_context(replacing(path, if_exists="error")).write_text("of one writer")
        first.close()
        with pytest.raises(FileExistsError):
            second.close()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["part-00001.parquet", "n" * 60 + "-00001.parquet"])
def test_temporary_files_are_recognized_by_their_name(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name, staged_suffix=".partial") as staged:
        assert staged_pattern(tmp_path / name, ".partial").fullmatch(staged.name)
        other = tmp_path / name.replace("1", "2")
        assert not staged_pattern(other, ".partial").fullmatch(staged.name)


def test_names_of_the_maximum_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_atomically(path, "text")
    assert path.read_text() == "text"


def test_a_private_folder_is_closed_even_if_it_exists(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True, mode=0o755)
    make_private_folder(folder)
    assert mode_of(folder) == 0o700


def test_access_of_others_is_removed_without_following_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o644)
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True, mode=0o755)
    (folder / "inner" / "file").touch(0o644)
    (folder / "link").symlink_to(outside)
    restrict_to_owner(folder)
    assert [mode_of(path) for path in (folder, folder / "inner", folder / "inner" / "file")] == [0o700, 0o700, 0o600]
    assert mode_of(outside) == 0o644
