"""`tritone serve` and `TritonServer`: starting, refusing to start, and leaving nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tritone_serving import (
    ModelLoadError,
    ModelRepositoryError,
    PortTakenError,
    ServerOptions,
    StartupTimeoutError,
    TritonServer,
)
from tritone_serving.server import runtime_folder as runtime

pytestmark = pytest.mark.triton

READY_TARGET_S = 20.0
STOP_TARGET_S = 10.0
# The command with its one verb, so that these tests do not depend on the other commands.
CLI = """
import sys, typer
from tritone_cli import console
from tritone_cli.commands import serve
from tritone import TritoneError
app = typer.Typer(pretty_exceptions_enable=False)
app.callback()(lambda: None)
app.command()(serve.serve)
try:
    app()
except TritoneError as error:
    console.fail(str(error))
    sys.exit(1)
"""


@contextmanager
def cli(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLI, "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=STOP_TARGET_S)


def free_ports() -> tuple[str, ...]:
    return ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


def ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr.read() if process.stderr else ""
    facts: dict[str, Any] = json.loads(line)
    return facts


def processes_of(prefix: str) -> list[str]:
    """Command lines of the running processes that name a server's private folder or shared memory."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if prefix in line:
                found.append(line)
    return found


def prefix_of(pid: int) -> str:
    """The name that all that belongs to a server carries."""
    line = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    option = next(part for part in line if "shm-region-prefix-name=" in part)
    return option.rpartition("=")[2].rstrip("-")


def left_of(prefix: str) -> list[str]:
    folders = [runtime.SHARED_MEMORY, Path(os.environ.get("TMPDIR", "/tmp"))]
    return processes_of(prefix) + [str(path) for folder in folders for path in folder.glob(f"{prefix}*")]


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  - the server's own address
        body: bytes = answer.read()
    return body


def test_ready_in_time(server: TritonServer) -> None:
    assert server.ready_s < READY_TARGET_S
    assert server.models == {"genre_cnn": ["1"]}
    assert server.is_alive()
    assert b"nv_inference_count" in fetched(server.metrics_url)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(repository: Path, number: signal.Signals) -> None:
    with cli("--repository", str(repository), *free_ports(), "--json") as process:
        facts = ready(process)
        prefix = prefix_of(facts["pid"])
        token = Path(facts["token"])
        assert processes_of(prefix)
        assert any(runtime.SHARED_MEMORY.glob(f"{prefix}*"))
        assert token.stat().st_mode & 0o777 == 0o600
        begun = time.monotonic()
        process.send_signal(number)
        assert process.wait(STOP_TARGET_S) == 0
        assert time.monotonic() - begun < STOP_TARGET_S
        assert left_of(prefix) == []
        assert not token.exists()


def test_a_killed_launcher_takes_its_server_along(repository: Path) -> None:
    with cli("--repository", str(repository), *free_ports(), "--json") as process:
        prefix = prefix_of(ready(process)["pid"])
        process.kill()
        process.wait(5)
        assert wait_until(lambda: not left_of(prefix), STOP_TARGET_S), left_of(prefix)


def test_a_server_that_dies_is_reported(repository: Path) -> None:
    with cli("--repository", str(repository), *free_ports(), "--json", "--no-supervise") as process:
        facts = ready(process)
        prefix = prefix_of(facts["pid"])
        os.kill(facts["pid"], signal.SIGKILL)
        _, said = process.communicate(timeout=STOP_TARGET_S)
        assert process.returncode == 1
        assert "killed by signal 9" in said
        assert facts["log"] in said
        assert left_of(prefix) == []


def tells_metrics(url: str) -> bool:
    try:
        return b"nv_inference_count" in fetched(url)
    except OSError:
        return False


def test_a_server_that_dies_is_started_again_in_its_place(repository: Path) -> None:
    with cli("--repository", str(repository), *free_ports(), "--json") as process:
        facts = ready(process)
        prefix = prefix_of(facts["pid"])
        os.kill(facts["pid"], signal.SIGKILL)
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(2)]
        assert "the server ended by itself (killed by signal 9); restarting the server" in lines[0]
        assert "the server answers again after" in lines[1]
        assert wait_until(lambda: tells_metrics(facts["metrics"]), 5)  # Triton opens this port last
        assert Path(facts["token"]).exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_TARGET_S) == 0
        assert left_of(prefix) == []
        assert not Path(facts["token"]).exists()


def test_a_killed_supervisor_takes_the_server_along(repository: Path, options_for: Callable[..., Any]) -> None:
    with TritonServer.start(options_for(repository)) as server:
        prefix = prefix_of(server.pid)
        supervisor = server._supervisor
        assert supervisor is not None
        supervisor.kill()
        assert server.wait(5) is not None
        assert wait_until(lambda: not processes_of(prefix), 5), processes_of(prefix)
    for path in runtime.SHARED_MEMORY.glob(f"{prefix}*"):
        path.unlink()  # its owner, this process, lives; a later start would remove it


def test_what_a_dead_owner_left_is_removed_at_the_next_start() -> None:
    program = (
        "from tritone_serving.server import runtime_folder as runtime; folder = runtime.make_runtime_folder(); "
        "(runtime.SHARED_MEMORY / f'{folder.name}-region').write_bytes(b'x'); print(folder)"
    )
    folder = Path(
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.strip()
    )
    mine = runtime.make_runtime_folder()
    removed = runtime.remove_left_behind()
    assert folder in removed
    assert runtime.SHARED_MEMORY / f"{folder.name}-region" in removed
    assert not folder.exists()
    assert mine.exists()
    mine.rmdir()


def test_two_servers_side_by_side(
    server: TritonServer, repository: Path, options_for: Callable[..., ServerOptions]
) -> None:
    with TritonServer.start(options_for(repository)) as other:
        assert other.http_url != server.http_url
        assert other.models == server.models
    assert server.is_alive()
    assert server.models == {"genre_cnn": ["1"]}


@pytest.mark.parametrize("name", ["two words", "it's (here) & $HOME;"])
def test_a_repository_may_be_called_anything(
    name: str, make_model_repository: Callable[..., Path], options_for: Callable[..., Any], tmp_path: Path
) -> None:
    with TritonServer.start(options_for(make_model_repository(tmp_path / name))) as server:
        assert server.models == {"genre_cnn": ["1"]}


def test_a_taken_port_is_named_before_anything_starts(
    repository: Path, options_for: Callable[..., ServerOptions]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"{port} .*--grpc-port") as caught:
            TritonServer.start(options_for(repository, grpc_port=port))
    assert (caught.value.port, caught.value.option) == (port, "grpc_port")


@pytest.mark.parametrize("missing", ["folder", "models", "versions"])
def test_an_empty_repository_names_the_command_that_fills_it(
    tmp_path: Path, options_for: Callable[..., ServerOptions], missing: str
) -> None:
    repository = tmp_path / "repository"
    if missing != "folder":
        repository.mkdir()
    if missing == "versions":
        (repository / "genre_cnn").mkdir()
        (repository / "genre_cnn" / "config.pbtxt").write_text('name: "genre_cnn"\n')
    with pytest.raises(ModelRepositoryError, match="tritone export genre_cnn"):
        TritonServer.start(options_for(repository))


def corrupt_onnx(model: Path) -> None:
    file = model / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[:2000])


def wrong_type(model: Path) -> None:
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_FP32 dims: [ 66150 ]", "TYPE_INT32 dims: [ 66150 ]"))


def wrong_name(model: Path) -> None:
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace('"audio"', '"sound"'))


def wrong_shape(model: Path) -> None:
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace("[ 256 ]", "[ 128 ]"))


def no_file(model: Path) -> None:
    (model / "1" / "model.onnx").unlink()


def gpu_on_cpu(model: Path) -> None:
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace("KIND_CPU", "KIND_GPU"))


def bad_syntax(model: Path) -> None:
    (model / "config.pbtxt").write_text('name: "genre_cnn"\nbackend = onnx\n')


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (corrupt_onnx, "onnxruntime cannot load .*model.onnx: .*[Pp]rotobuf"),
        (wrong_type, "input audio is TYPE_INT32 in the config and TYPE_FP32 in the model"),
        (wrong_name, r"the model has no input sound \(it has audio\)"),
        (wrong_shape, r"output embedding has shape \[any, 128\] .* and \[any, 256\] in the model"),
        (no_file, "is empty; expected model.onnx"),
        (gpu_on_cpu, "GPU"),
        (bad_syntax, "config.pbtxt|config"),
    ],
)
def test_a_model_that_does_not_load_says_why(
    tmp_path: Path,
    make_model_repository: Callable[..., Path],
    options_for: Callable[..., ServerOptions],
    spoil: Callable[[Path], None],
    reason: str,
) -> None:
    repository = make_model_repository(tmp_path)
    spoil(repository / "genre_cnn")
    with pytest.raises(ModelLoadError, match=reason) as caught:
        TritonServer.start(options_for(repository))
    said = caught.value.reasons["genre_cnn"]
    assert "\n" not in said
    assert len(said) < 400, said
    assert "At:" not in said


def test_a_start_that_takes_too_long_ends_with_the_log(
    repository: Path, options_for: Callable[..., ServerOptions]
) -> None:
    with pytest.raises(StartupTimeoutError, match=r"startup_timeout_s is 0\.05") as caught:
        TritonServer.start(options_for(repository, startup_timeout_s=0.05))
    assert str(caught.value.log_path) in str(caught.value)


def test_a_new_version_goes_live_and_a_broken_one_does_not(
    tmp_path: Path, make_model_repository: Callable[..., Path], options_for: Callable[..., ServerOptions]
) -> None:
    repository = make_model_repository(tmp_path)
    model = repository / "genre_cnn"
    with TritonServer.start(options_for(repository)) as server:
        (model / "2").mkdir()
        (model / "2" / "model.onnx").write_bytes(b"not a model")
        with pytest.raises(ModelLoadError, match="genre_cnn does not load: onnxruntime cannot load"):
            server.load_model("genre_cnn")
        assert server.models == {"genre_cnn": ["1"]}
        (model / "2" / "model.onnx").write_bytes((model / "1" / "model.onnx").read_bytes())
        server.load_model("genre_cnn")
        assert server.models == {"genre_cnn": ["2"]}
        server.unload_model("genre_cnn")
        assert wait_until(lambda: server.models == {}, 10)


def test_a_config_without_tensors_is_completed_when_asked(
    tmp_path: Path, make_model_repository: Callable[..., Path], options_for: Callable[..., ServerOptions]
) -> None:
    repository = make_model_repository(tmp_path)
    (repository / "genre_cnn" / "config.pbtxt").write_text(
        'name: "genre_cnn"\nbackend: "onnxruntime"\nmax_batch_size: 8\n'
    )
    with TritonServer.start(options_for(repository, auto_complete=True)) as server:
        facts = json.loads(fetched(f"{server.http_url}/v2/models/genre_cnn"))
    assert facts["inputs"] == [{"name": "audio", "datatype": "FP32", "shape": [-1, 66150]}]
    assert [tensor["name"] for tensor in facts["outputs"]] == ["probabilities", "emotions", "embedding"]
