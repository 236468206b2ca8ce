"""The exchange of values and files between the processes of a training, over one store in one process."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from tritone_training.exceptions import OtherProcessError, ProcessGroupError, TrainingError
from tritone_training.processes.group import TrainingGroup, is_communication_error


@pytest.fixture
def groups() -> Sequence[TrainingGroup]:
    """Two ranks with the same store."""
    store = distributed.HashStore()
    return [TrainingGroup(rank, 2, 2, 2.0, store, None) for rank in range(2)]


calls: list[str] = []


def run(text: str) -> None:
    calls.append(text)


class Payload:
    """Calls `run` when it is unpickled."""

    def __reduce__(self) -> Any:
        return run, ("unpickled",)


SUMMARY = {"checkpoint": "runs/ä", "n_epochs": 3, "metrics": {"valid": {"ndcg": 0.1 + 0.2, "none": None}}, "ok": True}


@pytest.mark.parametrize("value", [None, True, 2**40, "ä", ["a", "b"], SUMMARY])
def test_all_ranks_get_the_value_of_rank_0(value: Any, groups: Sequence[TrainingGroup]) -> None:
    with ThreadPoolExecutor() as pool:
        other = pool.submit(groups[1].broadcast, "ignored")
        assert groups[0].broadcast(value) == value
        assert other.result() == value


def test_a_value_that_is_not_json_is_refused_by_rank_0(groups: Sequence[TrainingGroup]) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        groups[0].broadcast(Payload())
    assert not groups[0].store.check(["value/1"])


def test_a_pickle_in_the_store_is_not_loaded(groups: Sequence[TrainingGroup]) -> None:
    groups[1].store.set("value/1", pickle.dumps(Payload()))
    with pytest.raises(ProcessGroupError, match="value/1: expected JSON of process 0"):
        groups[1].broadcast()
    assert not calls
    pickle.loads(pickle.dumps(Payload()))  # noqa: S301 - shows that it would have run
    assert calls == ["unpickled"]


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside"])
def test_a_file_outside_the_folder_is_not_written(name: str, groups: Sequence[TrainingGroup], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    groups[0].broadcast([name])
    groups[0].broadcast(0)
    with pytest.raises(ProcessGroupError, match=r"expected the path of a file in .*, got one outside"):
        groups[1].broadcast_files(folder)
    assert not (tmp_path / "outside").exists()


@pytest.fixture
def cpu_group(groups: Sequence[TrainingGroup]) -> Iterator[None]:
    """A group of torch with rank 0 alone, so that its broadcast is the identity."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("cpu_group")
def test_files_of_rank_0_are_announced_by_name_and_size(groups: Sequence[TrainingGroup], tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    for name, content in {"fit.ckpt": b"state", "best/fit.ckpt": b"", "other": b"x"}.items():
        (tmp_path / name).write_bytes(content)
    groups[0].broadcast_files(tmp_path, ["fit.ckpt", "missing"])
    assert [groups[1].broadcast() for _ in range(3)] == [["best/fit.ckpt", "fit.ckpt"], 0, len(b"state")]


def test_a_rank_0_that_does_not_respond_is_named(groups: Sequence[TrainingGroup]) -> None:
    groups[1].timeout_s = 0.1
    with pytest.raises(ProcessGroupError, match="process 0 of 0 to 1 did not respond within"):
        groups[1].broadcast()


def test_an_error_of_another_rank_ends_the_wait(groups: Sequence[TrainingGroup]) -> None:
    timer = threading.Timer(0.1, groups[0].report, ["disk full"])
    timer.start()
    with pytest.raises(OtherProcessError, match="process 0 failed: disk full"):
        groups[1].broadcast()
    timer.join()
    assert not groups[1].report("second error")


def test_a_different_text_is_an_error_in_all_ranks(groups: Sequence[TrainingGroup]) -> None:
    with ThreadPoolExecutor() as pool:
        found = [pool.submit(group.require_equal, f"digest {group.rank}", "weights") for group in groups]
        for each in found:
            with pytest.raises(TrainingError, match="expected the same in all 2 processes, got another in process 1"):
                each.result()


GLOO = "/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (f"[{GLOO}/pair.cc:553] Connection closed by peer [127.0.0.1]:12194. This is typically caused by", True),
        (f"[{GLOO}/unbound_buffer.cc:78] Timed out waiting 3000ms for recv operation to complete", True),
        (f"[enforce fail at {GLOO}/pair.cc:456] op.preamble.length <= op.nbytes. 20 vs 12.", True),
        ("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Read error", True),
        ("Gloo connectFullMesh failed with [../third_party/gloo/gloo/transport/tcp/pair.cc:144] no error", True),
        ("Operation timed out!", True),
        ("Application timeout caused pair closure", True),
        ("/data/gloomy: file is damaged", False),
        ("[/data/gloo/plays.csv:12] wrong number of columns", False),
        ("cannot read /home/me/gloo/pair.cc:12", False),
        ("[enforce fail at inline_container.cc:208] /data/gloo/fit.ckpt: not enough space", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_only_messages_of_gloo_itself_are_errors_of_communication(message: str, expected: bool) -> None:
    assert is_communication_error(RuntimeError(message)) is expected


def test_errors_of_the_store_are_errors_of_communication() -> None:
    assert is_communication_error(distributed.DistNetworkError("the client socket has timed out"))
