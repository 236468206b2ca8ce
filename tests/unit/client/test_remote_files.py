"""Files by path and URL: local folders and a local S3 server; errors tell what to do."""

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.s3_server import failing_store, forget_connections, s3_server, use_store

from tritone import FileAccessError, MissingExtraError
from tritone.remote_errors import translated_errors
from tritone.remote_files import filesystem, is_remote, list_files, open_file, read_file, read_range, write_file


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    use_store(monkeypatch, store)
    name = f"bucket-{abs(hash(request.node.name))}"
    filesystem("s3://any").call_s3("create_bucket", Bucket=name)
    return f"s3://{name}"


def urls(source: object) -> list[str]:
    return [found.url for found in list_files(source)]


class TestLocalFiles:
    def test_a_folder_is_listed_with_its_subfolders_in_a_fixed_order(self, tmp_path: Path) -> None:
        for name in ("b.wav", "a.wav", "sub/c.wav", ".hidden", ".git/d.wav"):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"123")
        (tmp_path / "nothing.wav").symlink_to(tmp_path / "gone")
        assert urls(tmp_path) == [str(tmp_path / name) for name in ("a.wav", "b.wav", "nothing.wav", "sub/c.wav")]
        assert next(iter(list_files(tmp_path))).n_bytes == 3
        assert urls(f"file://{tmp_path}") == urls(tmp_path)

    def test_globs_and_single_files(self, tmp_path: Path) -> None:
        for name in ("a.wav", "b.mp3", "c[1].wav"):
            (tmp_path / name).write_bytes(b"1")
        assert urls(tmp_path / "*.mp3") == [str(tmp_path / "b.mp3")]
        assert urls(tmp_path / "c[1].wav") == [str(tmp_path / "c[1].wav")]
        assert len(urls(tmp_path / "**")) == 3

    @pytest.mark.parametrize(("name", "reason"), [("gone", "missing"), ("*.flac", "missing"), ("a\0b", "missing")])
    def test_a_source_that_cannot_be_listed_is_an_error(self, tmp_path: Path, name: str, reason: str) -> None:
        with pytest.raises(FileAccessError) as caught:
            urls(tmp_path / name)
        assert caught.value.reason == reason
        assert not caught.value.retryable

    def test_opening_a_folder_or_a_missing_file_is_an_error(self, tmp_path: Path) -> None:
        for path, reason in ((tmp_path, "is_folder"), (tmp_path / "gone", "missing")):
            with pytest.raises(FileAccessError) as caught:
                open_file(path)
            assert caught.value.reason == reason
            assert caught.value.url == str(path)

    def test_a_written_file_replaces_the_old_one_in_one_step(self, tmp_path: Path) -> None:
        path = tmp_path / "new folder" / "a.bin"
        write_file(path, b"1")
        write_file(path, b"2")
        assert read_file(path) == b"2"
        assert read_range(path, 0, 9) == b"2"
        assert list(path.parent.iterdir()) == [path]
        with pytest.raises(FileAccessError) as caught:
            write_file(path, b"3", if_exists="error")
        assert caught.value.reason == "exists"
        assert read_file(path) == b"2"

    def test_a_full_disk_is_told_from_a_missing_permission(self) -> None:
        for number, reason in ((errno.ENOSPC, "no_space"), (errno.EACCES, "access_denied"), (errno.EIO, "unreadable")):
            with pytest.raises(FileAccessError) as caught, translated_errors("a"):
                raise OSError(number, os.strerror(number))
            assert caught.value.reason == reason

    def test_errors_of_the_program_are_not_translated(self) -> None:
        with pytest.raises(KeyError), translated_errors("a"):
            raise KeyError("a")

    def test_an_unknown_scheme_is_refused(self) -> None:
        with pytest.raises(FileAccessError) as caught:
            is_remote("ftp://host/a")
        assert caught.value.reason == "invalid_url"

    def test_a_missing_package_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "s3fs", None)
        with pytest.raises(MissingExtraError, match=r"tritone\[batch\]"):
            open_file("s3://bucket/key")


class TestBuckets:
    def test_objects_are_written_listed_and_read(self, bucket: str) -> None:
        for name in ("x/b.wav", "x/a.wav", "x/y/c.wav", "xyz/d.wav", "x/.hidden"):
            write_file(f"{bucket}/{name}", name.encode())
        expected = [f"{bucket}/x/{name}" for name in ("a.wav", "b.wav", "y/c.wav")]
        assert urls(f"{bucket}/x/") == urls(f"{bucket}/x") == expected
        assert urls(f"{bucket}/x/*.wav") == expected[:2]
        assert [found.n_bytes for found in list_files(f"{bucket}/x/a.wav")] == [7]
        assert len(urls(bucket)) == 4
        with open_file(f"{bucket}/x/y/c.wav") as file:
            assert file.read() == b"x/y/c.wav"
        assert read_range(f"{bucket}/x/y/c.wav", 2, 5) == b"y/c"

    @pytest.mark.slow
    def test_more_objects_than_one_page_are_listed(self, bucket: str) -> None:
        store = filesystem(bucket)
        for number in range(1_005):
            store.call_s3("put_object", Bucket=bucket.removeprefix("s3://"), Key=f"{number:05d}", Body=b"")
        assert urls(bucket) == [f"{bucket}/{number:05d}" for number in range(1_005)]

    def test_an_existing_object_is_kept(self, bucket: str) -> None:
        write_file(f"{bucket}/a", b"1")
        with pytest.raises(FileAccessError) as caught:
            write_file(f"{bucket}/a", b"2", if_exists="error")
        assert caught.value.reason == "exists"
        assert read_file(f"{bucket}/a") == b"1"

    @pytest.mark.parametrize(
        ("call", "url", "reason"),
        [
            (open_file, "{bucket}/gone", "missing"),
            (read_file, "{bucket}/gone", "missing"),
            (lambda name: read_range(name, 0, 4), "{bucket}/gone", "missing"),
            (urls, "{bucket}/gone/", "missing"),
            (urls, "s3://no-such-bucket/a/", "no_bucket"),
            (lambda url: write_file(url, b"1"), "s3://no-such-bucket/a", "no_bucket"),
            (urls, "s3:///a", "invalid_url"),
        ],
    )
    def test_missing_objects_and_buckets_are_told_apart(
        self, bucket: str, call: Callable[[str], object], url: str, reason: str
    ) -> None:
        with pytest.raises(FileAccessError) as caught:
            call(url.format(bucket=bucket))
        assert caught.value.reason == reason
        assert not caught.value.retryable

    @pytest.mark.parametrize(
        ("status", "code", "reason", "retryable"),
        [
            (400, "ExpiredToken", "expired_credentials", True),
            (403, "InvalidAccessKeyId", "wrong_credentials", False),
            (403, "SignatureDoesNotMatch", "wrong_credentials", False),
            (403, "AccessDenied", "access_denied", False),
        ],
    )
    def test_answers_of_a_store_become_reasons(
        self, monkeypatch: pytest.MonkeyPatch, status: int, code: str, reason: str, retryable: bool
    ) -> None:
        with failing_store(status, code) as url:
            use_store(monkeypatch, url)
            for call in (urls, read_file, lambda name: write_file(name, b"1")):
                with pytest.raises(FileAccessError) as caught:
                    call("s3://bucket/a")
                assert (caught.value.reason, caught.value.retryable) == (reason, retryable)

    @pytest.mark.slow
    def test_a_store_that_cannot_be_reached_is_retryable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        use_store(monkeypatch, f"http://127.0.0.1:{port}")
        with pytest.raises(FileAccessError) as caught:
            read_file("s3://bucket/a")
        assert caught.value.reason == "unreachable"
        assert caught.value.retryable

    def test_missing_credentials_are_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: str) -> None:
        use_store(monkeypatch, store)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        forget_connections()
        with pytest.raises(FileAccessError) as caught:
            read_file("s3://bucket/a")
        assert caught.value.reason == "no_credentials"
