"""Calls of the SDK from workers of a job: what becomes a row, what is tried again, and what fails the task."""

from __future__ import annotations

import importlib
import inspect
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from tritone import MusicClient
from tritone.batch import OPERATIONS
from tritone.batch.failures import MAX_FILE_FAILURES, MAX_LOST
from tritone.bulk_calls import JSON_OPERATIONS, BulkCall, BulkCaller, shared_caller
from tritone.constants import COMPOSE_MODEL, PRIORITIES
from tritone.exceptions import (
    AccessDeniedError,
    ClientError,
    ConnectionFailedError,
    FileAccessError,
    InvalidInputError,
    InvalidModelNameError,
    MissingExtraError,
    ModelNotFoundError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
)
from tritone.messages import InferRequest, ReadyRequest, ReadyResponse
from tritone.results.json_result import JsonResult
from tritone.testing import FakeComposer, FakeGenreModel, FakeRecommender, FakeServer, MockTransport


@pytest.fixture
def recording(tmp_path: Path) -> str:
    path = tmp_path / "noise.wav"
    soundfile.write(path, np.random.default_rng(3).uniform(-0.5, 0.5, 22_050), 22_050)
    return str(path)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritone.batch.failures._FIRST_PAUSE_S", 0.01)


def call_of(operation: str = "embed", **options: Any) -> BulkCall:
    return BulkCall(operation, **{"inputs": {"path": "path"}, **options})


def caller_of(answer: Callable[[Any], Any], **options: Any) -> BulkCaller:
    call = call_of(**{"client": {"retries": 0}, **options})
    return BulkCaller(call, call.make_client(MockTransport(answer)))


def failing(*errors: ClientError) -> Callable[[Any], Any]:
    """A server whose first requests for inference fail."""
    left = list(errors)
    model = FakeServer(FakeGenreModel())

    def answer(request: Any) -> Any:
        if isinstance(request, ReadyRequest) and request.model is None:
            return ReadyResponse(True)
        if isinstance(request, InferRequest) and left:
            raise left.pop(0)
        return model(request)

    return answer


def test_a_row_has_the_columns_of_its_operation(recording: str) -> None:
    for operation in ("classify", "embed"):
        columns = OPERATIONS[operation].columns
        [row] = caller_of(failing(), operation=operation).rows([{"path": recording}])
        assert set(row) == {*columns, "error", "error_type"}
        assert (row["error"], row["error_type"]) == (None, None)
        assert row["duration_s"] == 1.0


def test_rows_keep_their_order_and_errors_their_row(recording: str, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    inputs = [recording, str(tmp_path / "text.wav"), recording, str(tmp_path / "gone.wav"), "ftp://host/a.wav", None, 7]
    rows = caller_of(failing(), concurrency=3).rows({"path": path} for path in inputs)
    kinds = [row["error_type"] for row in rows]
    assert kinds == [None, "unreadable", None, "missing", "invalid_url", "rejected", "rejected"]
    assert "text.wav" in rows[1]["error"]
    assert rows[1]["embedding"] is None


def test_the_content_of_a_file_may_stand_for_its_path(recording: str) -> None:
    by_path, by_content = caller_of(failing()).rows([{"path": recording}, {"path": Path(recording).read_bytes()}])
    np.testing.assert_array_equal(by_path["embedding"], by_content["embedding"])


def test_other_operations_give_json() -> None:
    call = BulkCall("recommend", inputs={"history": "listened"}, arguments={"n": 2})
    client = call.make_client(MockTransport(FakeServer(FakeRecommender(["a", "b", "c"]))))
    [row] = BulkCaller(call, client).rows([{"history": ["a"]}])
    assert row["error"] is None
    assert '"track_id"' in row["result"]


def test_json_operations_return_json_results() -> None:
    for operation in JSON_OPERATIONS:
        annotation = inspect.signature(getattr(MusicClient, operation)).return_annotation
        module = importlib.import_module("tritone")
        assert issubclass(getattr(module, annotation), JsonResult)


TEMPORARY = [
    ConnectionFailedError("gone", reason="unreachable"),
    ConnectionFailedError("gone", reason="lost", n_lost=1),
    ServerBusyError("full"),
    ModelNotFoundError("not yet loaded"),
    RequestTimeoutError("late"),
]


@pytest.mark.parametrize("error", TEMPORARY, ids=str)
def test_a_worker_waits_for_the_server(error: ClientError, recording: str) -> None:
    [row] = caller_of(failing(error)).rows([{"path": recording}])
    assert row["error"] is None


@pytest.mark.parametrize(
    "error",
    [
        ConnectionFailedError("gone", reason="unreachable"),
        ConnectionFailedError("no TLS", reason="tls"),
        ServerBusyError("full"),
        AccessDeniedError("no key"),
        ModelNotFoundError("none"),
    ],
    ids=str,
)
def test_what_is_wrong_with_the_server_fails_the_task(error: ClientError, recording: str) -> None:
    with pytest.raises(type(error)):
        caller_of(failing(*[error] * 20), outage_timeout_s=0.0).rows([{"path": recording}])


@pytest.mark.parametrize(
    ("error", "n", "error_type"),
    [
        (RequestTimeoutError("late"), MAX_FILE_FAILURES, "timeout"),
        (ServerError("internal"), MAX_FILE_FAILURES, "server_error"),
        (ConnectionFailedError("lost", reason="lost", n_lost=1), MAX_LOST, "connection_lost"),
    ],
    ids=str,
)
def test_what_fails_for_one_row_alone_is_its_error(error: ClientError, n: int, error_type: str, recording: str) -> None:
    rows = caller_of(failing(*[error] * n), concurrency=1).rows([{"path": recording}] * 2)
    assert [row["error_type"] for row in rows] == [error_type, None]
    assert rows[0]["error"]
    assert rows[0]["embedding"] is None


@pytest.mark.parametrize("reason", ["no_credentials", "wrong_credentials", "no_bucket", "expired_credentials"])
def test_a_bucket_that_refuses_all_files_fails_the_task(
    reason: str, recording: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str) -> Any:
        raise FileAccessError("refused", url=url, reason=reason)

    monkeypatch.setattr("tritone.batch.file_calls.open_file", refuse)
    with pytest.raises(FileAccessError):
        caller_of(failing(), outage_timeout_s=0.0).rows([{"path": "s3a://bucket/a.wav"}])


def test_calls_of_one_file_that_time_out_do_not_count_as_an_outage(
    recording: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now_s[0], sleep=lambda seconds: None)
    monkeypatch.setattr("tritone.bulk_calls.time", clock)
    late = failing(*[RequestTimeoutError("late")] * MAX_FILE_FAILURES)

    def answer(request: Any) -> Any:
        now_s[0] += 150.0 * isinstance(request, InferRequest)
        return late(request)

    rows = caller_of(answer, outage_timeout_s=300.0, concurrency=1).rows([{"path": recording}] * 2)
    assert [row["error_type"] for row in rows] == ["timeout", None]


class BusyServer:
    """Processes a number of requests at once, and refuses the others, as Triton with a full queue.

    Attributes:
        n_refused: refused requests.
        most: largest number of requests at once, refused ones included.
        priorities: of all requests.
    """

    def __init__(self, n_parallel: int, request_s: float = 0.005) -> None:
        self.n_parallel, self.request_s = n_parallel, request_s
        self.n_refused = self.most = 0
        self.priorities: set[int] = set()
        self._n_running = 0
        self._lock = threading.Lock()
        self._model = FakeServer(FakeGenreModel())

    def __call__(self, request: Any) -> Any:
        if not isinstance(request, InferRequest):
            return self._model(request)
        with self._lock:
            self._n_running += 1
            self.priorities.add(request.priority)
            self.most = max(self.most, self._n_running)
            is_full = self._n_running > self.n_parallel
            self.n_refused += is_full
        try:
            time.sleep(self.request_s)
            if is_full:
                raise ServerBusyError("Exceeds maximum queue size")
            return self._model(request)
        finally:
            with self._lock:
                self._n_running -= 1


def test_a_worker_limits_its_requests_in_flight(recording: str) -> None:
    server = BusyServer(n_parallel=2)
    rows = caller_of(server, concurrency=16).rows([{"path": recording}] * 40)
    assert {row["error"] for row in rows} == {None}
    assert (server.most, server.n_refused) == (2, 0)
    assert server.priorities == {PRIORITIES["batch"]}


def test_a_refused_request_lowers_the_limit_and_is_sent_again(recording: str) -> None:
    server = BusyServer(n_parallel=1)
    rows = caller_of(server, concurrency=16).rows([{"path": recording}] * 40)
    assert {row["error"] for row in rows} == {None}
    assert 1 <= server.n_refused <= 2  # those that were in flight when the first one was refused


def test_a_row_that_is_refused_while_others_succeed_does_not_fail_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeServer(FakeRecommender(["a", "b"]))
    now_s, n_refused = 1.0, 0
    may_succeed = threading.Semaphore(0)  # calls of other rows

    def answer(request: Any) -> Any:
        nonlocal n_refused
        if isinstance(request, InferRequest):
            if b"a" not in request.inputs["history"]:
                assert may_succeed.acquire(timeout=10)
            elif n_refused < 5:
                n_refused += 1
                raise ServerBusyError("full")
            else:
                may_succeed.release(20)
        return model(request)

    def sleep(seconds: float) -> None:
        """Let 100 s pass, after the call of another row has succeeded."""
        nonlocal now_s
        may_succeed.release()
        ends_s = time.monotonic() + 10
        while caller._succeeded_s < now_s and time.monotonic() < ends_s:
            time.sleep(0.01)
        now_s += 100.0

    monkeypatch.setattr("tritone.bulk_calls.time", SimpleNamespace(monotonic=lambda: now_s, sleep=sleep))
    call = BulkCall("recommend", inputs={"history": "listened"}, concurrency=8, outage_timeout_s=300.0)
    caller = BulkCaller(call, MusicClient(transport=MockTransport(answer), retries=0))
    rows = caller.rows({"history": [track]} for track in ("a", *("b" * 20)))
    assert n_refused == 5
    assert {row["error"] for row in rows} == {None}


def test_the_time_limit_of_a_file_is_that_of_the_client_or_of_batch_jobs(recording: str) -> None:
    limits_s: list[float] = []

    class Transport(MockTransport):
        def handle(self, request: Any, *, timeout_s: float) -> Any:
            limits_s.append(timeout_s)
            return super().handle(request, timeout_s=timeout_s)

    for client, arguments in (({}, {}), ({"timeout_s": 90}, {}), ({"timeout_s": 90}, {"timeout_s": 30})):
        call = call_of(client=client, arguments=arguments)
        BulkCaller(call, call.make_client(Transport(failing()))).rows([{"path": recording}])
    n = len(limits_s) // 3
    assert [round(max(limits_s[start : start + n])) for start in range(0, 3 * n, n)] == [600, 90, 30]


def test_a_server_that_hangs_fails_the_task(recording: str) -> None:
    def answer(request: Any) -> Any:
        if isinstance(request, InferRequest | ReadyRequest):
            raise RequestTimeoutError("late")
        return FakeServer(FakeGenreModel())(request)

    with pytest.raises(RequestTimeoutError):
        caller_of(answer, outage_timeout_s=0.0).rows([{"path": recording}])
    recommend = {"operation": "recommend", "inputs": {"history": "listened"}}
    with pytest.raises(RequestTimeoutError):
        caller_of(answer, outage_timeout_s=0.0, **recommend).rows([{"history": ["a"]}])


def test_a_row_that_times_out_on_a_server_that_responds_is_its_error() -> None:
    def answer(request: Any) -> Any:
        if isinstance(request, ReadyRequest):
            return ReadyResponse(True)
        if isinstance(request, InferRequest):
            raise RequestTimeoutError("late")
        return FakeServer(FakeRecommender(["a", "b"]))(request)

    [row] = caller_of(answer, operation="recommend", inputs={"history": "listened"}).rows([{"history": ["a"]}])
    assert (row["result"], row["error_type"]) == (None, "timeout")


def test_an_object_that_stays_busy_while_others_can_be_read_is_its_error(
    recording: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_file(url: str) -> Any:
        if url.endswith("busy.wav"):
            raise FileAccessError(f"{url}: busy", url=url, reason="busy")
        return Path(recording).open("rb")

    monkeypatch.setattr("tritone.batch.file_calls.open_file", open_file)
    monkeypatch.setattr("tritone.batch.file_calls.read_range", lambda url, start, end: b"R")
    inputs = [{"path": f"s3a://bucket/{name}.wav"} for name in ("a", "busy", "b")]
    rows = caller_of(failing(), concurrency=1).rows(inputs)
    assert [row["error_type"] for row in rows] == [None, "busy", None]


def test_an_invalid_default_model_fails_the_task(recording: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATIONS, "embed", replace(OPERATIONS["embed"], model="no model"))
    with pytest.raises(InvalidModelNameError):
        caller_of(failing()).rows([{"path": recording}])


def test_a_model_that_does_something_else_fails_the_task(recording: str) -> None:
    with pytest.raises(ServerError) as raised:
        caller_of(FakeServer(FakeComposer()), arguments={"model": COMPOSE_MODEL}).rows([{"path": recording}])
    assert raised.value.reason == "unsuitable_model"


def test_an_invalid_argument_of_all_rows_fails_the_task(recording: str) -> None:
    with pytest.raises(InvalidInputError, match="invalid timeout_s"):
        caller_of(failing(), arguments={"timeout_s": 0}).rows([{"path": recording}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operation": "close"}, "unknown operation: expected one of classify, embed, .*, got 'close'"),
        ({"inputs": {}}, "invalid inputs"),
        ({"inputs": {"sound": "path"}}, "unknown argument of embed: .*got 'sound'"),
        ({"operation": "recommend", "inputs": {"who": "user"}}, "unknown argument of recommend: .*got 'who'"),
        ({"arguments": {"bars": 2}}, "unknown argument of embed: .*got 'bars'"),
        ({"client": {"patience": 2}}, "unknown argument of the client: .*got 'patience'"),
        ({"client": {"api_key": "secret"}}, "secrets in the arguments of a job: .* got api_key"),
        ({"concurrency": 0}, "concurrency"),
        ({"outage_timeout_s": -1}, "invalid outage_timeout_s"),
        ({"outage_timeout_s": float("nan")}, "invalid outage_timeout_s"),
        ({"server": "host:99999"}, "99999"),
    ],
)
def test_invalid_options_are_refused_before_the_job(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as raised:
        call_of(**options)
    assert "secret'" not in str(raised.value)


def test_a_call_can_be_pickled() -> None:
    call = call_of(client={"timeout_s": 9}, server=["a:8001", "b:8001"])
    assert pickle.loads(pickle.dumps(call)) == call  # noqa: S301 - written by this test


def test_the_address_may_have_variables_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_IP", "10.1.2.3")
    for server in ("$NODE_IP:8001", "${NODE_IP}:8001", lambda: "$NODE_IP:8001"):
        with call_of(server=server).make_client() as client:
            assert "grpc://10.1.2.3:8001" in repr(client)
    with pytest.raises(InvalidInputError, match=r"expected NO_SUCH_NODE .* not set"):
        call_of(server="$NO_SUCH_NODE:8001").make_client()


def test_a_process_has_one_client_for_calls_of_a_kind() -> None:
    first, again = (shared_caller(call_of(server="127.0.0.1:9")) for _ in range(2))
    assert first._client is again._client
    for different in ({"client": {"timeout_s": 5}}, {"operation": "classify"}, {"concurrency": 2}):
        assert first._client is not shared_caller(call_of(**{"server": "127.0.0.1:9", **different}))._client
    assert first._client._priority != MusicClient()._priority


@pytest.mark.parametrize("engine", ["ray", "spark"])
def test_a_missing_package_is_named_with_the_command(engine: str) -> None:
    package = {"ray": "ray", "spark": "pyspark"}[engine]
    script = f"import sys; sys.modules['{package}'] = None; import tritone.{engine}"
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert f"need the package {package}" in ended.stderr
    assert f"pip install 'tritone[{engine}]'" in ended.stderr
    assert issubclass(MissingExtraError, ImportError)
