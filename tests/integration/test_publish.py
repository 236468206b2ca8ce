"""`tritone publish` and `rollback` on a real server under load: no request fails, and nothing bad goes live."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.python_models import Clients, Watched

from tritone.endpoints import make_endpoint
from tritone_export import DiskFullError, RepositoryError, check_repository
from tritone_export.config import parse_config
from tritone_export.publishing import Live, publish_live, rollback
from tritone_export.tuned import TunedSetting, reset, setting_of, tune
from tritone_serving import RefusedVersionError, ServerOptions, TritonServer
from tritone_serving.admin import AdminApi
from tritone_serving.calls import Answer, Calls
from tritone_serving.trial import Bounds

pytestmark = pytest.mark.triton

MODEL = "scale"
WIDTH = 32
# y = k x, after some rounds of work that change nothing.
GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
scale (float[batch, 32] x) => (float[batch, {width}] y) {{
  k = Constant <value = float {{{k}}}> ()
  n_rounds = Constant <value = int64 {{{n_rounds}}}> ()
  yes = Constant <value = bool {{1}}> ()
  side = Constant <value = int64[2] {{128, 128}}> ()
  start = ConstantOfShape <value = float[1] {{0.001}}> (side)
  burnt = Loop (n_rounds, yes, start) <body = burn (int64 i, bool go, float[128, 128] a)
    => (bool still, float[128, 128] b) {{ still = Identity (go)  aa = MatMul (a, a)  b = Tanh (aa) }}>
  most = ReduceMax <keepdims = 0> (burnt)
  nothing_f = Constant <value = float {{0.0}}> ()
  nothing = Mul (most, nothing_f)
  scaled = Mul (x, k)
  {nan}
  whole = Add (broken, nothing)
  from = Constant <value = int64[1] {{0}}> ()
  to = Constant <value = int64[1] {{{width}}}> ()
  axis = Constant <value = int64[1] {{1}}> ()
  y = Slice (whole, from, to, axis)
}}
"""
CONFIG = """
name: "scale"
backend: "onnxruntime"
max_batch_size: 8
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 32 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {width} ] label_filename: "labels.txt" }} ]
instance_group [ {{ kind: KIND_CPU count: {count} }} ]
dynamic_batching {{ }}
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "1" }} }}
"""


def make_source(
    path: Path,
    *,
    k: float,
    width: int = WIDTH,
    n_rounds: int = 0,
    nan: bool = False,
    count: int = 1,
    tolerance: Any = None,
) -> Path:
    """A repository with one version of the model, as an export leaves it."""
    import onnx

    text = GRAPH.format(
        k=k,
        width=width,
        n_rounds=n_rounds,
        nan="not = Div (nothing, nothing)  broken = Add (scaled, not)" if nan else "broken = Identity (scaled)",
    )
    model = onnx.parser.parse_model(text)
    version = path / MODEL / "1"
    version.mkdir(parents=True)
    content = model.SerializeToString()
    (version / "model.onnx").write_bytes(content)
    card = {
        "model": MODEL,
        "version": 1,
        "parity": {"tolerance": {"y": 1e-5 if tolerance is None else tolerance}},
        "files": {"model.onnx": {"sha256": hashlib.sha256(content).hexdigest(), "n_bytes": len(content)}},
    }
    (version / "model_card.json").write_text(json.dumps(card))
    (path / MODEL / "config.pbtxt").write_text(CONFIG.format(width=width, count=count))
    (path / MODEL / "labels.txt").write_text("\n".join(f"{k} {i}" for i in range(width)))
    return path


class World:
    """A server with the first version (k = 2), and what is needed to change it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = make_source(folder / "repository", k=2)
        self.ks = {"1": 2.0}
        self.watched = Watched(self.repository)  # the watchdog must not take a change of versions for a fault
        self.server = self.watched.server
        host, port = self.server.http_url.removeprefix("http://").split(":")
        self.live = Live(
            self.repository,
            AdminApi(host, int(port), token=self.server.admin_token),
            Calls(make_endpoint(self.server.grpc_url)),
            Bounds(max_slowdown=3),
        )

    def source(self, name: str, **given: Any) -> Path:
        return make_source(self.folder / name, **given)

    @contextmanager
    def under_load(self) -> Iterator[Clients]:
        rng = np.random.default_rng()

        def inputs() -> Any:
            return {"x": rng.random((1, WIDTH), np.float32)}

        def is_right(sent: Any, answer: Answer) -> bool:
            return bool(np.allclose(answer.outputs["y"], sent["x"] * self.ks[answer.version]))

        with Clients(self.server.grpc_url, MODEL, inputs, is_right=is_right) as clients:
            yield clients

    @property
    def version(self) -> str:
        answer = self.live.calls.infer(MODEL, {"x": np.ones((1, WIDTH), np.float32)}, timeout_s=5)
        assert np.allclose(answer.outputs["y"], self.ks[answer.version])
        return answer.version

    def files(self) -> dict[str, bytes]:
        folder = self.repository / MODEL
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("publish"))
    try:
        yield made
        assert made.watched.said == []
    finally:
        made.live.calls.close()
        made.watched.stop()


def test_a_good_version_goes_live_under_load_and_comes_back(world: World) -> None:
    world.ks |= {"2": 3.0, "3": 2.0}
    with world.under_load() as clients:
        (published,) = publish_live(world.source("good", k=3, count=2), [MODEL], world.live)
        assert (published.version, published.before) == (2, 1)
        assert world.version == "2"
        labels = world.repository / MODEL / "labels.txt"
        assert labels.read_text().startswith("3 0")
        back = rollback(MODEL, world.live)
        assert (back.version, back.before) == (3, 2)
        assert world.version == "3"
    assert clients.errors == []
    assert {key for key in clients.got if key.startswith("wrong")} == set()
    assert clients.got["1"] > 10
    assert clients.got["2"] + clients.got["3"] > 10
    assert labels.read_text().startswith("2 0")
    assert published.trial is not None
    assert published.trial.max_abs_difference["y"] <= 1e-5
    assert json.loads((world.repository / MODEL / "3" / "model_card.json").read_text())["version"] == 3
    assert not list(world.repository.glob("*.candidate"))
    assert set(world.server.models) == {MODEL}
    assert [each for each in check_repository(world.repository).findings if each.severity == "error"] == []
    with pytest.raises(RepositoryError, match="no version before the live one"):  # 2 was withdrawn, 1 is the same
        rollback(MODEL, world.live)


def corrupt(source: Path) -> None:
    file = source / MODEL / "1" / "model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_and_card_gone(source: Path) -> None:
    file = source / MODEL / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[:200])
    (source / MODEL / "1" / "model_card.json").unlink()


def config_of_another(source: Path) -> None:
    config = source / MODEL / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [ 32 ] label", "dims: [ 16 ] label"))


@pytest.mark.parametrize(
    ("given", "spoil", "reason"),
    [
        ({"width": 16}, None, r"output y is TYPE_FP32 \[16\] and was TYPE_FP32 \[32\]"),
        ({"nan": True}, None, "output y holds 32 of 32 numbers that are NaN"),
        ({"n_rounds": 2_000}, None, "it takes .* ms where the live version takes"),
        ({"tolerance": -1.0}, None, "output y differs by 0 from what its file computes"),
        ({}, corrupt, "model.onnx does not match the checksum"),
        ({}, cut_and_card_gone, "it does not load: onnxruntime cannot load"),
        ({}, config_of_another, "it does not load: .*config.pbtxt and .* differ"),
    ],
    ids=["shape", "nan", "slow", "parity", "corrupt", "cut", "config"],
)
def test_a_bad_version_is_refused_and_the_old_one_serves_on(
    world: World, tmp_path: Path, given: dict[str, Any], spoil: Callable[[Path], None] | None, reason: str
) -> None:
    before, version = world.files(), world.version
    source = make_source(tmp_path / "bad", **{"k": 5.0, **given})
    if spoil is not None:
        spoil(source)
    with world.under_load() as clients:
        with pytest.raises(RefusedVersionError, match=reason) as caught:
            publish_live(source, [MODEL], world.live)
        assert world.version == version
    assert caught.value.model == MODEL
    assert "\n" not in str(caught.value)
    assert clients.errors == []
    assert set(clients.got) == {version}
    assert world.files() == before
    assert not list(world.repository.glob("*.candidate"))
    assert set(world.server.models) == {MODEL}


def test_on_the_command_line(world: World) -> None:
    number = len(world.ks) + 1
    world.ks |= {str(number): 7.0, str(number + 1): 2.0}
    port = world.server.http_url.rpartition(":")[2]
    to_server = ["--repository", str(world.repository), "--json"]
    to_server += ["--server", f"{world.server.http_url},{world.server.grpc_url}"]

    def run_tritone(*arguments: str) -> tuple[int, dict[str, Any], str]:
        ended = subprocess.run(
            [sys.executable, "-m", "tritone_cli", *arguments], capture_output=True, text=True, check=False
        )
        return ended.returncode, json.loads(ended.stdout or "{}"), ended.stderr

    source = world.source("again", k=7)
    code, said, _ = run_tritone("publish", MODEL, "--from", str(source), "--max-slowdown", "5", *to_server)
    assert (code, said["published"][0]["version"]) == (0, number)
    assert world.version == str(number)
    code, said, _ = run_tritone("rollback", MODEL, *to_server)
    assert (code, said["published"][0]["version"]) == (0, number + 1)
    assert world.version == str(number + 1)
    code, said, error = run_tritone("publish", MODEL, "--from", str(world.source("nan", k=1, nan=True)), *to_server)
    assert (code, said) == (1, {})
    assert "refused, the previous one stays live" in error
    code, said, error = run_tritone("publish", MODEL, "--from", str(source), "--admin-token-file", "/nonexistent")
    assert code == 2
    assert "--admin-token-file" in error
    assert port


def test_a_full_disk_is_told_and_leaves_the_live_version(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    before, version = world.files(), world.version
    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(DiskFullError):
        publish_live(world.source("no_room", k=4), [MODEL], world.live)
    assert world.files() == before
    assert world.version == version
    assert not list(world.repository.glob("*.candidate"))


def test_what_optimize_found_stays_where_it_was_found(world: World) -> None:
    number = len(world.ks) + 1
    world.ks |= {str(number): 6.0, str(number + 1): 2.0}
    folder = world.repository / MODEL
    config = (folder / "config.pbtxt").read_bytes()
    setting = TunedSetting(instances=3, threads=1, preferred_batch_sizes=(4,), max_queue_delay_microseconds=100)
    tune(folder, setting, measured={})
    publish_live(world.source("tuned", k=6), [MODEL], world.live)
    assert setting_of(world.live.calls.config(MODEL, timeout_s=5)) == setting, "and it is served so"
    assert world.version == str(number)
    reset(folder)
    assert rollback(MODEL, world.live).version == number + 1
    assert setting_of(parse_config((folder / "config.pbtxt").read_bytes())) == setting_of(parse_config(config))
    assert not (folder / "serving.json").exists(), "going back to a version is not going back to its settings"
    assert world.version == str(number + 1)


def test_what_a_killed_publication_left_is_never_served_and_removed_by_the_next(world: World, tmp_path: Path) -> None:
    left = make_source(tmp_path, k=9) / MODEL
    left.rename(world.repository / f"{MODEL}.candidate")
    options = ServerOptions(repository=world.repository, http_port=0, grpc_port=0, metrics_port=0, stop_timeout_s=2)
    with TritonServer.start(options) as other:
        assert set(other.models) == {MODEL}
    with pytest.raises(RefusedVersionError):
        publish_live(world.source("wrong", k=1, width=8), [MODEL], world.live)
    assert not list(world.repository.glob("*.candidate"))
