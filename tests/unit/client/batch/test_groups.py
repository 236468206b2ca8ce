"""Batch jobs over short recordings, which share requests: each file has its own row and its own error."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.support.batch_jobs import rows
from tests.unit.client.batch.job_server import Server, paths_in, write_tone

from tritone import (
    FileAccessError,
    MusicClient,
    RequestRejectedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
)
from tritone.batch.workers import GroupSize
from tritone.exceptions import ConnectionFailedError, InvalidAudioError
from tritone.messages import Request
from tritone.testing import FakeGenreModel, MockTransport

N_FILES = 40
QUIET = "20-quiet.wav"


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """A folder of short recordings, each of another level, and a quiet one in the middle."""
    folder = tmp_path / "recordings"
    for number in range(N_FILES):
        write_tone(folder / f"{number:02d}.wav", gain=0.3 + number / 100)
    write_tone(folder / QUIET, gain=0.1)
    return folder


def has_quiet_window(request: Any) -> bool:
    return bool(np.abs(request.inputs["audio"]).max(axis=1).min() < 0.2)


class Failing:
    """Fails each request with the window of the quiet recording, and counts the windows of those requests."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.n_rows: list[int] = []

    def __call__(self, request: Any) -> None:
        if has_quiet_window(request):
            self.n_rows.append(len(request.inputs["audio"]))
            raise self.error


def errors_in(out: Path) -> dict[str, str]:
    return {Path(path).name: kind for path, kind in rows(out).set_index("path")["error_type"].dropna().items()}


class TestSharedRequests:
    def test_short_recordings_share_requests_and_have_rows_of_their_own(
        self, server: Server, tones: Path, tmp_path: Path
    ) -> None:
        server.run(tones, tmp_path / "out", operation="embed")
        assert sum(server.n_rows) == N_FILES + 1
        assert len(server.n_rows) < N_FILES / 2
        assert max(server.n_rows) <= 16
        found = rows(tmp_path / "out").set_index("path")
        assert sorted(found.index) == paths_in(tones)
        with MusicClient(transport=MockTransport(FakeGenreModel())) as music:
            for path in paths_in(tones):
                assert found["embedding"][path] == pytest.approx(music.embed(path), abs=1e-6)

    def test_recordings_of_several_windows_share_requests_too(self, server: Server, tmp_path: Path) -> None:
        for number in range(30):
            write_tone(tmp_path / "in" / f"{number}.wav", 3.0 + number % 3)
        server.run(tmp_path / "in", tmp_path / "out")
        assert sum(server.n_rows) == 50
        assert len(server.n_rows) < 20
        found = rows(tmp_path / "out")
        assert found["duration_s"].tolist() == pytest.approx([3.0 + int(Path(path).stem) % 3 for path in found["path"]])

    def test_a_long_recording_among_short_ones(self, server: Server, tones: Path, tmp_path: Path) -> None:
        write_tone(tones / "30-long.wav", 100.0)
        server.run(tones, tmp_path / "out")
        found = rows(tmp_path / "out").set_index("path")
        assert found["error"].isna().all()
        assert found["duration_s"][str(tones / "30-long.wav")] == pytest.approx(100.0)
        assert max(server.n_rows) <= 16

    def test_files_that_cannot_be_used_do_not_affect_the_others(
        self, server: Server, tones: Path, tmp_path: Path
    ) -> None:
        (tones / "10-text.wav").write_text("no audio")
        (tones / "11-empty.wav").touch()
        soundfile.write(tones / "12-silent.wav", np.zeros(40_000), 8_000)
        write_tone(tones / "13-long.wav", 30.0)
        write_tone(tones / "14-short.wav", 0.1)
        (tones / "15-gone.wav").symlink_to(tones / "nothing")
        summary = server.run(tones, tmp_path / "out", max_duration_s=15.0)
        assert summary.complete
        assert errors_in(tmp_path / "out") == {
            "10-text.wav": "unreadable",
            "11-empty.wav": "empty",
            "12-silent.wav": "silent",
            "13-long.wav": "too_long",
            "14-short.wav": "too_short",
            "15-gone.wav": "missing",
        }
        assert sum(server.n_rows) == N_FILES + 1

    def test_parts_and_resuming(self, server: Server, tones: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        stop = threading.Event()
        server.row_s = 0.003
        server.fail = lambda request: stop.set() if max(server.n_rows) > 1 else None
        first = server.run(tones, out, stop=stop, rows_per_part=3, concurrency=1)
        assert 0 < first.n_done < N_FILES
        server.fail = lambda request: None
        assert server.run(tones, out, resume=True, rows_per_part=3).complete
        assert rows(out)["path"].tolist() == paths_in(tones)

    def test_objects_that_cannot_be_opened_are_opened_again(
        self, server: Server, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: Counter[str] = Counter()

        def open_file(url: str) -> Any:
            opened[url] += 1
            name = url.rpartition("/")[2]
            if name == "05.wav" and opened[url] < 3:
                raise FileAccessError(f"{url}: busy", url=url, reason="busy")
            if name == "07.wav":
                raise FileAccessError(f"{url}: does not exist", url=url, reason="missing")
            return io.BytesIO(b"no audio" if name == "06.wav" else (tones / name).read_bytes())

        monkeypatch.setattr("tritone.batch.file_calls.open_file", open_file)
        names = sorted(path.name for path in tones.iterdir())
        manifest = tmp_path / "list.txt"
        manifest.write_text("".join(f"s3://music/{name}\n" for name in names))
        assert server.run(manifest, tmp_path / "out", outage_timeout_s=30.0).complete
        assert errors_in(tmp_path / "out") == {"06.wav": "unreadable", "07.wav": "missing"}
        error = rows(tmp_path / "out").set_index("path")["error"]["s3://music/06.wav"]
        assert error.startswith("s3://music/06.wav: ")


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "kind", "n_alone"),
        [
            (RequestRejectedError("audio: out of range"), "rejected", 1),
            (ServerError("inference failed"), "server_error", 3),
            (RequestTimeoutError("no response"), "timeout", 3),
            (ConnectionFailedError("lost", reason="lost", n_lost=1), "connection_lost", 4),
        ],
    )
    def test_only_the_file_that_causes_an_error_gets_it(
        self, server: Server, tones: Path, tmp_path: Path, *, error: Exception, kind: str, n_alone: int
    ) -> None:
        failing = server.fail = Failing(error)
        summary = server.run(tones, tmp_path / "out", outage_timeout_s=60.0)
        assert summary.errors == {kind: 1}
        assert errors_in(tmp_path / "out") == {QUIET: kind}
        assert failing.n_rows[0] > 1
        assert failing.n_rows[1:] == [1] * n_alone
        assert rows(tmp_path / "out")["path"].tolist() == paths_in(tones)

    def test_files_whose_connection_was_lost_are_called_one_at_a_time(
        self, server: Server, tones: Path, tmp_path: Path
    ) -> None:
        lock = threading.Lock()
        lost: set[float] = set()  # the files, by their level
        running: set[float] = set()
        most_running = [0]

        def fail(request: Any) -> None:
            levels = {round(float(level), 3) for level in np.abs(request.inputs["audio"]).max(axis=1)}
            if len(levels) > 1:
                with lock:
                    lost.update(levels)
                raise ConnectionFailedError("lost", reason="lost", n_lost=1)
            with lock:
                running.update(levels & lost)
                most_running[0] = max(most_running[0], len(running))
            time.sleep(0.002)
            with lock:
                running.difference_update(levels)

        server.fail = fail
        assert server.run(tones, tmp_path / "out", outage_timeout_s=60.0, concurrency=4).errors == {}
        assert len(lost) > N_FILES / 2
        assert most_running[0] == 1

    def test_a_busy_server_gets_the_same_request_again(self, server: Server, tones: Path, tmp_path: Path) -> None:
        refused: list[int] = []

        def fail(request: Any) -> None:
            n_rows = len(request.inputs["audio"])
            if n_rows > 1 and len(refused) < 3:
                refused.append(n_rows)
                raise ServerBusyError("the queue is full")

        server.fail = fail
        assert server.run(tones, tmp_path / "out", outage_timeout_s=30.0).errors == {}
        assert len(refused) == 3
        assert sum(server.n_rows) == N_FILES + 1 + sum(refused)

    def test_an_error_of_all_files_stops_the_job(self, server: Server, tones: Path, tmp_path: Path) -> None:
        from tritone import AccessDeniedError, BatchError

        def fail(request: Request) -> None:
            if max(server.n_rows) > 1:
                raise AccessDeniedError("wrong key")

        server.fail = fail
        with pytest.raises(BatchError) as caught:
            server.run(tones, tmp_path / "out")
        assert caught.value.reason == "server"
        assert rows(tmp_path / "out")["error"].isna().all()


class TestGroupSize:
    def test_files_fill_a_request(self) -> None:
        size = GroupSize()
        assert size.n_files(10) == 1  # before the first result
        size.add(2.0)
        assert [size.n_files(n_rows) for n_rows in (1, 6, 16, 64)] == [1, 6, 16, 16]

    def test_longer_recordings_make_smaller_groups(self) -> None:
        size = GroupSize()
        for _ in range(200):
            size.add(20.0)  # 7 windows
        assert [size.n_files(n_rows) for n_rows in (1, 6, 16)] == [1, 1, 2]
        for _ in range(200):
            size.add(3.0)
        assert size.n_files(16) in (15, 16)


class TestClassifyGroup:
    def test_results_equal_those_of_single_calls(self, connect: Any, model: Any, make_noise: Any) -> None:
        audios = [
            make_noise(seconds, seed=number, gain=0.05 * (number + 1)) for number, seconds in enumerate((1, 8, 3))
        ]
        ask = connect()
        expected = [ask("classify", audio) for audio in audios]
        model.requests.clear()
        found = ask("classify_group", audios)
        assert [len(request.inputs["audio"]) for request in model.inferences()] == [4, 1]  # max_batch_size is 4
        for one, other in zip(found, expected, strict=True):
            assert dict(one.probabilities) == pytest.approx(dict(other.probabilities))
            assert one.duration_s == other.duration_s
            assert [window.start_s for window in one.timeline] == [window.start_s for window in other.timeline]
        first, last = (request.request_id for request in model.inferences())
        assert [each.request_ids for each in found] == [(first,), (first,), (last,)]
        assert all(each.request_s > 0 for each in found)

    def test_the_error_of_a_recording_takes_its_place(self, connect: Any, model: Any, make_noise: Any) -> None:
        silent = (np.zeros(7 * 22_050, np.float32), 22_050)  # known after its last window
        audios = [make_noise(3), b"no audio", silent, make_noise(20), make_noise(3)]
        found = connect()("classify_group", audios, max_duration_s=10.0)
        assert [getattr(each, "reason", None) for each in found] == [None, "unreadable", "silent", "too_long", None]
        assert isinstance(found[1], InvalidAudioError)
        assert [len(request.inputs["audio"]) for request in model.inferences()] == [2]

    def test_windows_of_an_unusable_recording_may_have_been_sent(
        self, connect: Any, model: Any, make_noise: Any
    ) -> None:
        silent = (np.zeros(25 * 22_050, np.float32), 22_050)
        ask = connect()
        found = ask("classify_group", [make_noise(3), silent, make_noise(3, gain=0.2)])
        assert [len(request.inputs["audio"]) for request in model.inferences()] == [4, 4, 1]
        assert found[1].reason == "silent"
        assert dict(found[2].probabilities) == pytest.approx(
            dict(ask("classify", make_noise(3, gain=0.2)).probabilities)
        )

    def test_no_request_without_windows(self, connect: Any, model: Any) -> None:
        assert connect()("classify_group", []) == []
        (error,) = connect()("classify_group", [b"no audio"])
        assert isinstance(error, InvalidAudioError)
        assert not model.inferences()

    def test_an_error_of_the_server_is_raised(self, connect: Any, model: Any, make_noise: Any) -> None:
        def reject(request: Request) -> None:
            if type(request).__name__ == "InferRequest":
                raise RequestRejectedError("no")

        model.before = reject
        with pytest.raises(RequestRejectedError):
            connect()("classify_group", [make_noise(3), make_noise(3)])


class TestLongestRecording:
    def test_a_length_in_the_header_is_checked_before_decoding(self, connect: Any, model: Any, tmp_path: Path) -> None:
        path = write_tone(tmp_path / "a.wav", 20.0)
        for audio in (str(path), path.read_bytes()):
            (error,) = connect()("classify_group", [audio], max_duration_s=15.0)
            assert error.reason == "too_long"
        assert not model.inferences()

    def test_a_length_that_no_header_has_is_checked_while_decoding(self, connect: Any, make_noise: Any) -> None:
        (error,) = connect()("classify_group", [make_noise(20)], max_duration_s=15.0)
        assert error.reason == "too_long"

    def test_a_recording_may_be_as_long_as_the_limit(self, connect: Any, tmp_path: Path) -> None:
        for rate_hz in (8_000, 22_050, 44_100):
            path = tmp_path / f"{rate_hz}.wav"
            soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 5 * rate_hz), rate_hz)
            (result,) = connect()("classify_group", [str(path)], max_duration_s=5.0)
            assert result.duration_s == pytest.approx(5.0, abs=0.001)
