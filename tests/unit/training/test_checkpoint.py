from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tritone_training import CheckpointError, checkpoint
from tritone_training.kinds.genre_cnn.config import GenreConfig
from tritone_training.kinds.genre_cnn.network import load_network

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}


def save(folder: Path, weights: dict[str, torch.Tensor] | None = None, **info: Any) -> None:
    checkpoint.save(folder, kind="genre_cnn", info={"labels": ["x", "ÿ"], **info}, weights=weights or WEIGHTS)


def rewrite(folder: Path, **changes: Any) -> None:
    info = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    checkpoint.update_info(folder, {**info, **changes})


def plant(folder: Path, content: bytes) -> None:
    """Put other weights into a checkpoint, with the right hash."""
    (folder / "weights-planted.pt").write_bytes(content)
    rewrite(folder, weights="weights-planted.pt", weights_sha256=hashlib.sha256(content).hexdigest())


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path / "new" / "run")
    loaded = checkpoint.load(tmp_path / "new" / "run", kind="genre_cnn")
    assert loaded.info["labels"] == ["x", "ÿ"]
    assert torch.__version__.startswith(loaded.info["versions"]["torch"].split("+")[0])
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in WEIGHTS.items())
    assert sorted(p.name for p in (tmp_path / "new" / "run").iterdir()) == ["checkpoint.json", loaded.info["weights"]]


def test_a_write_that_fails_keeps_the_old_checkpoint_and_tells_the_reason(tmp_path: Path) -> None:
    save(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            save(tmp_path, {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert set(checkpoint.load(tmp_path, kind="genre_cnn").weights) == set(WEIGHTS)


def test_saving_again_replaces_and_leaves_nothing_old(tmp_path: Path) -> None:
    save(tmp_path, run=1)
    save(tmp_path, {"a": torch.zeros(1)}, run=2)
    loaded = checkpoint.load(tmp_path, kind="genre_cnn")
    assert loaded.info["run"] == 2
    assert list(loaded.weights) == ["a"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_missing_checkpoint_names_the_command(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=f"holds no checkpoint; `tritone train genre_cnn --out {folder}`"):
            checkpoint.load(folder, kind="genre_cnn")


@pytest.mark.parametrize("content", ["{", "", "\x00", '{"format": 1', "[" * 100_000, "9" * 5_000])
def test_damaged_json(tmp_path: Path, content: str) -> None:
    save(tmp_path)
    (tmp_path / "checkpoint.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: is damaged .*; train again"):
        checkpoint.load(tmp_path, kind="genre_cnn")


def test_json_that_is_not_text(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "checkpoint.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(tmp_path, kind="genre_cnn")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "is of format 99, this version reads 1"),
        ({"kind": "music_vae"}, "is a checkpoint of 'music_vae', expected 'genre_cnn'"),
        ({"weights": "weights-other.pt"}, "is missing or not the file"),
        ({"weights": None}, "is missing or not the file"),
        ({"weights_sha256": "0" * 64}, "is missing or not the file"),
    ],
)
def test_another_kind_format_or_file(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save(tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(tmp_path, kind="genre_cnn")


def test_json_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="is of format list"):
        checkpoint.load(tmp_path, kind="genre_cnn")


def test_weights_are_never_read_from_outside_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "run")
    (weights,) = (tmp_path / "run").glob("weights-*.pt")
    weights.rename(tmp_path / weights.name)
    rewrite(tmp_path / "run", weights=f"../{weights.name}")
    with pytest.raises(CheckpointError, match="is missing"):
        checkpoint.load(tmp_path / "run", kind="genre_cnn")


def test_one_changed_byte_of_the_weights_is_noticed(tmp_path: Path) -> None:
    save(tmp_path)
    (weights,) = tmp_path.glob("weights-*.pt")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="is missing or not the file"):
        checkpoint.load(tmp_path, kind="genre_cnn")


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    save(tmp_path)
    trace = tmp_path / "trace"
    staged = tmp_path / "staged.pt"
    for content in ({"a": Harmful(trace)}, Harmful(trace)):
        torch.save(content, staged)
        plant(tmp_path, staged.read_bytes())
        with pytest.raises(CheckpointError, match="holds more than tensors"):
            checkpoint.load(tmp_path, kind="genre_cnn")
    plant(tmp_path, pickle.dumps(Harmful(trace), protocol=2))
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path, kind="genre_cnn")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Harmful(trace)))  # noqa: S301 - the proof that it would have
    assert trace.exists()


def test_other_files_under_the_right_hash(tmp_path: Path) -> None:
    save(tmp_path)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        file.writestr("x", "y")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    for content in (b"", b"nonsense", (tmp_path / "z.zip").read_bytes(), (tmp_path / "list.pt").read_bytes()):
        plant(tmp_path, content)
        with pytest.raises(CheckpointError, match="train again"):
            checkpoint.load(tmp_path, kind="genre_cnn")


# --- a checkpoint and the network it describes --------------------------------------------------------------


GOOD = {"config": GenreConfig(width=4).to_dict(), "pretrained": None, "emotions_trained": False}


def test_weights_of_another_shape_or_name(tmp_path: Path) -> None:
    for index, weights in enumerate(({"genre_head.weight": torch.zeros(2, 7)}, {"other": torch.zeros(1)})):
        save(tmp_path / str(index), weights, **GOOD)
        with pytest.raises(CheckpointError):
            load_network(tmp_path / str(index))


@pytest.mark.parametrize("changes", [{"config": {"wideness": 3}}, {"config": None}, {"emotions_trained": None}])
def test_a_description_that_is_not_complete(tmp_path: Path, changes: dict[str, Any]) -> None:
    info = {**GOOD, **changes}
    save(tmp_path, **{key: value for key, value in info.items() if key != "emotions_trained" or value is not None})
    with pytest.raises(CheckpointError, match="train again"):
        load_network(tmp_path)


# --- a crash in the middle ----------------------------------------------------------------------------------

_SAVE_FOREVER = """
    import itertools, sys
    from pathlib import Path
    import torch
    from tritone_training import checkpoint

    folder = Path(sys.argv[1])
    for run in itertools.count():
        checkpoint.save(folder, kind="k", info={"run": run}, weights={"a": torch.full((200_000,), float(run))})
        print(run, flush=True)
"""


def test_a_kill_at_any_point_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(_SAVE_FOREVER), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for _ in range(20):
                # Read whatever state the writer is stopped in, then let it go on.
                process.stdout.readline()
                process.send_signal(signal.SIGSTOP)
                try:
                    loaded = checkpoint.load(tmp_path, kind="k")
                    assert (loaded.weights["a"] == loaded.info["run"]).all()
                finally:
                    process.send_signal(signal.SIGCONT)
        finally:
            process.kill()
            process.stdout.read()
    loaded = checkpoint.load(tmp_path, kind="k")
    assert (loaded.weights["a"] == loaded.info["run"]).all()
    checkpoint.save(tmp_path, kind="k", info={"run": -1}, weights={"a": torch.zeros(1)})
    assert len(list(tmp_path.glob("weights-*.pt"))) == 1


def test_a_write_that_fails_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, run=1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space"):
            save(tmp_path, {"a": torch.ones(3)}, run=2)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    with pytest.raises(TypeError):
        save(tmp_path, {"a": torch.ones(3)}, run=object())
    assert checkpoint.load(tmp_path, kind="genre_cnn").info["run"] == 1
    assert not list(tmp_path.glob(".*"))
