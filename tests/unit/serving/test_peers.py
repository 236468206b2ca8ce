"""The comparison with other servers: its requests, what it reads of the kernel, its ratios and its report."""

from __future__ import annotations

import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.benchmark_tools import ROOT, run_tool

from benchmarks.cpu_times import MachineTimes, cpu_seconds, machine_times
from benchmarks.http_clients import HttpClient, ask
from benchmarks.peers import environments, report
from benchmarks.peers.comparison import relative
from benchmarks.peers.environments import REQUIREMENTS, python_of
from benchmarks.peers.interface import Peer, PeerError
from benchmarks.peers.registry import PEERS
from benchmarks.peers.services.raw_models import RawModel
from benchmarks.peers.workloads import Workload

WINDOW = np.arange(6, dtype=np.float32).reshape(1, 6) / 8
ITEMS, WEIGHTS = np.array([[3, 5]]), np.array([[1.0, 0.5]], np.float32)
CONFIG = "max_batch_size: 8 dynamic_batching { priority_levels: 2 default_priority_level: 1 }"
WORKLOADS = (
    Workload("genre_cnn", Path("m/genre_cnn/1/model.onnx"), ({"audio": WINDOW},), {"audio": WINDOW}, ("a",), WINDOW[0]),
    Workload("taste_vae", Path("m/taste_vae/1/model.onnx"), ({"items": ITEMS, "weights": WEIGHTS},), {}, ("b",),
             WEIGHTS[0]),
)  # fmt: skip


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Peer:
    models = {each.model: tmp_path / each.path for each in WORKLOADS}
    return PEERS[request.param](Path(sys.executable), models, tmp_path)


@pytest.mark.parametrize(
    ("peer", "workload"),
    [
        pytest.param(name, workload, id=f"{name}-{workload.model}")
        for name, kind in PEERS.items()
        for workload in WORKLOADS
        if kind.takes(workload.model)
    ],
    indirect=["peer"],
)
def test_requests_hold_the_values_as_bytes(peer: Peer, workload: Workload) -> None:
    sent = list(workload.requests[0].values())
    if peer.name == "triton-int16":
        sent = [(WINDOW * 32_768).astype(np.int16)]
    for transport in peer.protocols:
        request = peer.encode(transport, workload, workload.requests[0])
        assert workload.model in f"{request.target} {request.headers} {request.body[:40]!r}"
        raw = b"".join(array.tobytes() for array in sent)
        if (peer.name, transport) == ("mlserver", "http"):
            assert b"base64" in request.body
        elif peer.name.startswith("triton") and transport == "grpc":  # each tensor is a field of its own
            assert all(array.tobytes() in request.body for array in sent)
        else:
            assert raw in request.body


def test_every_peer_states_how_it_runs(peer: Peer, tmp_path: Path) -> None:
    for path in peer.models.values():
        path.parent.mkdir(parents=True)
        (path.parents[1] / "config.pbtxt").write_text(CONFIG)
    (tmp_path / "m" / "genre_cnn_pcm16").mkdir()
    peer.prepare()
    assert peer.command()[0] == sys.executable
    assert peer.settings
    assert len(set(peer.ports.values())) == len(peer.protocols) + 1
    assert Path(peer.environment().get("PYTHONPATH", ".")).is_dir()


def test_a_repository_without_the_model_for_16_bit_samples(tmp_path: Path) -> None:
    peer = PEERS["triton-int16"](Path(sys.executable), {"genre_cnn": tmp_path / WORKLOADS[0].path}, tmp_path)
    with pytest.raises(PeerError, match="expected genre_cnn_pcm16, got none"):
        peer.prepare()


def test_a_triton_without_queue_policies(tmp_path: Path) -> None:
    models = {"taste_vae": tmp_path / WORKLOADS[1].path}
    models["taste_vae"].parent.mkdir(parents=True)
    (models["taste_vae"].parents[1] / "config.pbtxt").write_text(CONFIG)
    peer = PEERS["triton-no-policies"](Path(sys.executable), models, tmp_path / "own")
    for _ in range(2):  # it may be started again
        peer.prepare()
        text = (tmp_path / "own" / "models" / "taste_vae" / "config.pbtxt").read_text()
        assert "dynamic_batching" in text
        assert "max_batch_size: 8" in text
        assert "priority_levels" not in text
    assert str(tmp_path / "own" / "models") in peer.command()


def test_a_short_response_is_an_error(tmp_path: Path) -> None:
    peer = PEERS["fastapi-plain"](Path(sys.executable), {}, tmp_path)
    with pytest.raises(PeerError, match="24 bytes"):
        peer.decode("http", b"none", WORKLOADS[0])


def test_all_environments_have_this_projects_onnx_runtime() -> None:
    (ours,) = re.findall(r"^onnxruntime==.*", (ROOT / "constraints.txt").read_text(), re.M)
    files = {each.requirements for each in PEERS.values() if each.requirements}
    assert files == {path.name for path in REQUIREMENTS.iterdir()}
    for name in files:
        text = (REQUIREMENTS / name).read_text()
        assert ours in text.splitlines()
        assert all("==" in line for line in text.splitlines() if not line.startswith("#"))


def test_the_length_of_a_response_is_not_that_of_its_json() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: 2\r\nContent-Length: 6\r\n\r\n{}")
        theirs.sendall(b"more")
        assert ask(ours, b"GET / HTTP/1.1\r\n\r\n") == (200, b"{}more")


def test_a_client_of_a_server_that_ends_fails_until_it_is_back() -> None:
    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        port = listener.getsockname()[1]
        client = HttpClient(port, [b"GET / HTTP/1.1\r\n\r\n"])
        pool.submit(answer, listener)
        assert client.call(0)
        pool.submit(int).result()  # the connection has been closed
    assert not client.call(1)  # closed by the server
    assert not client.call(2)  # refused
    with socket.create_server(("127.0.0.1", port)) as listener, ThreadPoolExecutor(1) as pool:
        pool.submit(answer, listener)
        assert client.call(3)
    client.close()


def saved(path: Path, **widths: int | str) -> str:
    """Save a graph that adds up its inputs, float32 but for `items`, as `sum` (batch, 1)."""
    import onnx
    from onnx import TensorProto, helper

    types = {name: TensorProto.INT64 if name == "items" else TensorProto.FLOAT for name in widths}
    nodes = [helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT) for name in widths]
    nodes.append(helper.make_node("Concat", [f"{name}_f" for name in widths], ["all"], axis=1))
    nodes.append(helper.make_node("ReduceSum", ["all", "axes"], ["sum"], keepdims=1))
    inputs = [helper.make_tensor_value_info(name, types[name], ["batch", width]) for name, width in widths.items()]
    outputs = [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["batch", 1])]
    axes = onnx.numpy_helper.from_array(np.array([1]), "axes")
    graph = helper.make_graph(nodes, "sum", inputs, outputs, [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return str(path)


def test_raw_requests_of_fixed_width_have_as_many_rows_as_fit(tmp_path: Path) -> None:
    model = RawModel(saved(tmp_path / "model.onnx", audio=3), n_threads=1)
    found = model.run_bytes(np.arange(6, dtype=np.float32).tobytes())
    assert np.frombuffer(found, np.float32).tolist() == [3, 12]
    for wrong in (b"", b"1234"):
        with pytest.raises(ValueError, match="a multiple of 12 bytes"):
            model.run_bytes(wrong)


def test_raw_requests_of_any_width_have_one_row(tmp_path: Path) -> None:
    model = RawModel(saved(tmp_path / "model.onnx", items="n", weights="n"), n_threads=1)
    found = model.run_bytes(np.array([3, 5]).tobytes() + np.array([1, 0.5], np.float32).tobytes())
    assert np.frombuffer(found, np.float32).tolist() == [9.5]
    with pytest.raises(ValueError, match="a multiple of 12 bytes"):
        model.run_bytes(bytes(13))


def lacking(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Peer]:
    (tmp_path / "own.txt").write_text(text)
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    return type("Own", (Peer,), {"name": "own", "title": "Own", "requirements": "own.txt"})


@pytest.mark.slow
def test_packages_that_cannot_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = lacking("--no-index\nno-such-package-of-ours==1\n", monkeypatch, tmp_path)
    with pytest.raises(PeerError, match=r"Own cannot be installed: .*no-such-package-of-ours"):
        python_of(own, tmp_path / "environments")


def test_an_environment_is_used_again_until_its_packages_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], _: type[Peer]) -> None:
        ran.append(command)
        (tmp_path / "environments" / "own").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(environments, "_run", run)
    own = lacking("a==1\n", monkeypatch, tmp_path)
    python = python_of(own, tmp_path / "environments")
    assert python == tmp_path / "environments" / "own" / "bin" / "python"
    assert len(ran) == 2
    python_of(own, tmp_path / "environments")
    assert len(ran) == 2
    (tmp_path / "own.txt").write_text("a==2\n")
    python_of(own, tmp_path / "environments")
    assert len(ran) == 4


def test_times_of_the_machine() -> None:
    text = "cpu  100 10 50 1000 20 5 5 30 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
    assert machine_times(text) == MachineTimes(busy_s=1.7, steal_s=0.3)


def test_cpu_time_of_a_process_that_has_ended_is_none() -> None:
    assert cpu_seconds([2**22 + 1]) == 0


def trials(*rates: float, p99_ms: float = 10.0) -> list[dict[str, float]]:
    return [{"per_s": rate, "p99_ms": p99_ms, "n": rate} for rate in rates]


def test_ratios_are_those_of_the_rounds() -> None:
    found = relative(trials(100, 200, 300, p99_ms=20), trials(50, 100, 150))
    assert found == {"per_s": 2.0, "p99": 2.0, "spread": 0.0}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(None, trials(1)), (trials(100, 200, 300), trials(100, 100, 100)), (trials(100, 0), trials(100, 100))],
    ids=["Triton was not measured", "rounds disagree", "a round without responses"],
)
def test_no_ratio(ours: Any, theirs: Any) -> None:
    found = relative(ours, theirs)
    assert found["per_s"] is None
    assert found["p99"] is None


def row(peer: str, per_s: float, ratio: float | None, p99: float | None, **others: Any) -> dict[str, Any]:
    return {
        "model": "genre_cnn", "peer": peer, "transport": "http", "clients": 8, "per_s": per_s, "p50_ms": 1.25,
        "p99_ms": 2.5, "server_cpu_s_per_1000": 1.5, "generator_cpu_s_per_1000": 0.1, "steal_cores": 0.01,
        "other_cores": 0.02, "n": 10, "n_failed": 0, "spread": 0.05, "of_ceiling": 0.5,
        "reference": {"per_s": ratio, "p99": p99, "spread": 0.1}, **others,
    }  # fmt: skip


def result(*rows: dict[str, Any], **others: Any) -> dict[str, Any]:
    peers = {
        each["peer"]: {
            "title": each["peer"].title(), "version": "1.0", "settings": "2 workers", "processes": 3,
            "protocols": {"http": "raw"}, "idle_cores": 0.012, "memory_mb": 321.4, "restarted": False,
        }
        for each in rows
    }  # fmt: skip
    ceilings = {"genre_cnn": {"layout": "2 sessions", "before_per_s": 600.0, "after_per_s": 610.0}}
    plan = {"clients": [8], "rounds": 5, "seconds": 2.5, "reference": "triton"}
    models = {"genre_cnn": {"bytes": 5_800_000, "request_bytes": 264_600, "values": 269}}
    return {
        "models": models,
        "cores": 2,
        "plan": plan,
        "peers": peers,
        "missing": {},
        "ceilings": ceilings,
        "rows": rows,
        **others,
    }


def test_the_report_says_where_triton_loses() -> None:
    rows = (row("triton", 500, 1.0, 1.0), row("fast", 600, 0.83, 1.2), row("slow", 100, 5.0, 0.2))
    text = "\n".join(report.tables(result(*rows, missing={"ray": "Ray Serve cannot be installed: no\nmore"}), "run it"))
    assert "0.83 times the throughput and 1.20 times the p99 of Fast" in text
    assert "p99 of Slow" not in text
    assert "- Not measured: `ray`: Ray Serve cannot be installed: no more\n" in text
    assert "`genre_cnn` 600/s before and 610/s after" in text
    assert "`run it`" in text
    assert "| `genre_cnn` | Triton, HTTP | 500 | 1.25 | 2.5 | 1.50 | 0.50 | - |" in text


def test_the_report_with_another_reference() -> None:
    measured = result(row("triton", 500, 1.4, 0.7), row("triton-int16", 700, 1.0, 1.0))
    measured["plan"]["reference"] = "triton-int16"
    text = "\n".join(report.tables(measured, "run it"))
    assert "| Triton, 16-bit samples: throughput; p99 |" in text
    assert "| 1.40; 0.70 |" in text
    assert "Triton, 16-bit samples has a higher throughput" in text


def test_the_report_without_a_loss_and_with_failures() -> None:
    rows = (row("triton", 500, 1.0, 1.0), row("slow", 100, None, None, n_failed=3))
    text = "\n".join(report.tables(result(*rows), "run it"))
    assert "Triton has a higher throughput and a lower p99 in every row" in text
    assert "Slow, HTTP (3 failed)" in text
    assert "| ?; ? |" in text


@pytest.mark.parametrize(
    "words",
    [
        ["--clients", "0"],
        ["--seconds", "inf"],
        ["--peers", "nginx"],
        ["--repository", "/nonexistent"],
        ["--table", "/nonexistent.md"],
    ],
)
def test_arguments_that_measure_nothing(tmp_path: Path, words: list[str]) -> None:
    done = run_tool("peers", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("peers: error: ")
