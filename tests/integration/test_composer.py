"""The `composer` backend inside a real server: pieces streamed, joined, cancelled and refused.

What the server does is told by its own counters, at its metrics endpoint.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tests.integration import composer_stand_in as stand_in
from tritonclient.utils import np_to_triton_dtype

from tritone import (
    ConnectionFailedError,
    InferRequest,
    InferResponse,
    ModelNotFoundError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
)
from tritone.endpoints import make_endpoint
from tritone.messages import StreamRequest
from tritone.transports import make_async_transport, make_transport
from tritone_serving import ServerOptions, TritonServer

pytestmark = pytest.mark.triton

Array = np.ndarray[Any, Any]
OUTPUTS = ("frames", "nll", "first_frame")
TIMEOUT_S = 30.0
SLOW = 9  # about 5 ms a frame
BRIEF = "composer_brief"  # the same graph behind tight limits


@pytest.fixture(scope="module")
def composer_repository(serve_models: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = stand_in.make_repository(tmp_path_factory.mktemp("composer"))
    stand_in.make_repository(path, name=BRIEF, max_streams=2, stream_timeout_seconds=1, max_frames=1024)
    return serve_models(path)


@pytest.fixture(scope="module")
def composer(server: TritonServer, composer_repository: Path) -> TritonServer:
    return server


@pytest.fixture(scope="module")
def transport(composer: TritonServer) -> Iterator[Any]:
    made = make_transport(make_endpoint(composer.grpc_url))
    yield made
    made.close()


@pytest.fixture
def quiet(composer: TritonServer) -> None:
    """No piece of a test before is still being written."""
    wait_until(lambda: counters(composer)["active_streams"] == 0)


def request(inputs: dict[str, Array], model: str = stand_in.MODEL, request_id: str = "piece") -> StreamRequest:
    return StreamRequest(model, request_id, inputs, OUTPUTS)


def counters(server: TritonServer, model: str = stand_in.MODEL) -> dict[str, float]:
    with urllib.request.urlopen(server.metrics_url) as answer:  # noqa: S310 - our own server
        text = answer.read().decode()
    found: dict[str, float] = {}
    for name, labels, value in re.findall(r"^tritone_composer_(\w+)\{([^}]*)\} (\S+)$", text, re.M):
        if f'model="{model}"' in labels:
            found[name] = found.get(name, 0.0) + float(value)
    return found


def wait_until(true: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def joined(answers: list[InferResponse]) -> tuple[Array, Array]:
    """Frames and nll of a piece, from answers that follow one another without a gap."""
    at = 0
    for answer in answers:
        assert answer.outputs["first_frame"].tolist() == [[at]]
        assert answer.outputs["frames"].shape == (1, answer.outputs["nll"].shape[1], 88)
        at += answer.outputs["nll"].shape[1]
    return tuple(np.concatenate([answer.outputs[name][0] for answer in answers]) for name in OUTPUTS[:2])  # type: ignore[return-value]


def check_whole(answers: list[InferResponse], inputs: dict[str, Array]) -> None:
    for got, wanted in zip(joined(answers), stand_in.expected(inputs), strict=True):
        np.testing.assert_array_equal(got, wanted)


def check_stops_writing(server: TritonServer, stop: Callable[[], object]) -> None:
    """One piece is under way; soon after `stop` not one more frame is written.

    `make bench` reports how soon (47 ms, limit 200 ms); a test on a busy machine must not depend on it.
    """
    before = counters(server)
    assert before["active_streams"] == 1
    stop()
    wait_until(lambda: counters(server)["active_streams"] == 0)
    after = counters(server)
    time.sleep(0.3)
    assert counters(server)["frames_total"] == after["frames_total"]
    assert after["frames_total"] - before["frames_total"] < stand_in.MOST_FRAMES / 2
    assert after["cancelled_total"] == before["cancelled_total"] + 1


# --- what comes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_frames", "meter", "lengths"),
    [
        (40, (0, 0), [4, 12, 16, 8]),  # meter unknown: bars of 16
        (37, (12, 5), [4, 3, 12, 12, 6]),
        (9, (3, 0), [3, 3, 3]),  # a bar shorter than the first answer
        (3, (16, 0), [3]),
        (1, (4, 3), [1]),
    ],
)
def test_a_piece_comes_bar_by_bar_and_is_the_same_as_in_one(
    transport: Any, n_frames: int, meter: tuple[int, int], lengths: list[int]
) -> None:
    inputs = stand_in.piece(n_frames, seed=n_frames, meter=meter)
    answers = list(transport.stream(request(inputs), timeout_s=TIMEOUT_S))
    assert [answer.outputs["nll"].shape[1] for answer in answers] == lengths
    check_whole(answers, inputs)
    assert {(answer.model, answer.version, answer.request_id) for answer in answers} == {("composer", "1", "piece")}


async def test_the_same_for_asyncio_and_several_at_once(composer: TritonServer) -> None:
    transport = make_async_transport(make_endpoint(composer.grpc_url))
    pieces = [stand_in.piece(50 + i, seed=i) for i in range(4)]

    async def streamed(inputs: dict[str, Array]) -> list[InferResponse]:
        return [answer async for answer in transport.stream(request(inputs), timeout_s=TIMEOUT_S)]

    try:
        for inputs, answers in zip(pieces, await asyncio.gather(*map(streamed, pieces)), strict=True):
            check_whole(answers, inputs)
    finally:
        await transport.close()


def test_first_notes_come_early(transport: Any, quiet: None) -> None:
    begun_s = time.monotonic()
    answers = transport.stream(request(stand_in.piece(1024, cost=SLOW)), timeout_s=TIMEOUT_S)
    next(answers)
    assert time.monotonic() - begun_s < 1  # the whole piece takes longer: see below
    answers.close()


def test_only_what_was_asked_for(transport: Any) -> None:
    wanted = StreamRequest(stand_in.MODEL, "piece", stand_in.piece(20), ("nll",))
    assert [set(answer.outputs) for answer in transport.stream(wanted, timeout_s=TIMEOUT_S)] == [{"nll"}] * 3


def test_many_pieces_are_written_together_and_each_is_its_own(
    composer: TritonServer, transport: Any, quiet: None
) -> None:
    pieces = [
        stand_in.piece(60 + 7 * i, seed=i, cost=1 + i % 3, meter=(8 + i % 5, i % 8)) for i in range(24)
    ]  # more than one run takes
    before = counters(composer)

    def streamed(inputs: dict[str, Array]) -> list[InferResponse]:
        return list(transport.stream(request(inputs), timeout_s=TIMEOUT_S))

    with ThreadPoolExecutor(len(pieces)) as pool:
        for inputs, answers in zip(pieces, pool.map(streamed, pieces), strict=True):
            check_whole(answers, inputs)
    after = counters(composer)
    n_frames = sum(inputs["noise"].shape[1] for inputs in pieces)
    assert after["frames_total"] - before["frames_total"] == n_frames
    assert (after["frames_total"] - before["frames_total"]) / (after["runs_total"] - before["runs_total"]) > 8
    assert after["bars_total"] - before["bars_total"] >= sum(inputs["noise"].shape[1] // 13 for inputs in pieces)
    assert after["cancelled_total"] == before["cancelled_total"]


def test_a_health_check_is_not_counted(composer: TritonServer, quiet: None) -> None:
    before = counters(composer)
    ended = threading.Event()
    answers: list[Any] = []

    def on_answer(result: Any, error: Any) -> None:
        answers.append(error)
        if error is not None or result.get_response().parameters["triton_final_response"].bool_param:
            ended.set()

    with grpc_client.InferenceServerClient(composer.grpc_url) as client:
        client.start_stream(on_answer)
        tensors = []
        for name, array in stand_in.piece(40).items():
            tensors.append(grpc_client.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
            tensors[-1].set_data_from_numpy(array)
        client.async_stream_infer(stand_in.MODEL, tensors, parameters={"tritone_canary": True})
        assert ended.wait(TIMEOUT_S)
        client.stop_stream()
    assert answers == [None] * len(answers)
    assert counters(composer) == before


# --- nobody listens any more --------------------------------------------------------------------------------


def begin(transport: Any) -> Generator[InferResponse, None, None]:
    answers: Generator[InferResponse, None, None] = transport.stream(
        request(stand_in.piece(stand_in.MOST_FRAMES, cost=SLOW)), timeout_s=TIMEOUT_S
    )
    next(answers)
    next(answers)
    return answers


def test_closing_the_stream_stops_the_writing(composer: TritonServer, transport: Any, quiet: None) -> None:
    check_stops_writing(composer, begin(transport).close)


def test_dropping_the_stream_stops_the_writing(composer: TritonServer, transport: Any, quiet: None) -> None:
    kept = [begin(transport)]
    check_stops_writing(composer, kept.clear)


def test_closing_the_client_stops_the_writing(composer: TritonServer, quiet: None) -> None:
    transport = make_transport(make_endpoint(composer.grpc_url))
    answers = begin(transport)
    check_stops_writing(composer, transport.close)
    with pytest.raises(ConnectionFailedError):
        list(answers)


async def test_cancelling_the_task_stops_the_writing(composer: TritonServer, quiet: None) -> None:
    transport = make_async_transport(make_endpoint(composer.grpc_url))
    inputs = stand_in.piece(stand_in.MOST_FRAMES, cost=SLOW)
    n_heard = 0

    async def listen() -> None:
        nonlocal n_heard
        async for _ in transport.stream(request(inputs), timeout_s=TIMEOUT_S):
            n_heard += 1

    task = asyncio.create_task(listen())
    try:
        while n_heard < 2:
            await asyncio.sleep(0.01)
        cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
        await asyncio.to_thread(check_stops_writing, composer, cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        await transport.close()


def test_killing_the_client_stops_the_writing(composer: TritonServer, quiet: None) -> None:
    root = Path(__file__).parents[2]
    script = (
        "import sys; from tests.integration import composer_stand_in as stand_in\n"
        "from tests.integration.test_composer import begin, make_endpoint, make_transport\n"
        "answers = begin(make_transport(make_endpoint(sys.argv[1])))\n"
        "print('heard', flush=True); [None for _ in answers]\n"
    )
    command = [sys.executable, "-c", script, composer.grpc_url]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"heard\n"
        check_stops_writing(composer, lambda: process.send_signal(signal.SIGKILL))


def test_an_answer_that_takes_too_long_is_an_error_and_stops_the_writing(
    composer: TritonServer, transport: Any, quiet: None
) -> None:
    before = counters(composer)["cancelled_total"]
    inputs = stand_in.piece(1024, cost=SLOW, meter=(512, 0))
    with pytest.raises(RequestTimeoutError, match=r"'composer' within 0\.4 s"):
        for _ in transport.stream(request(inputs), timeout_s=0.4):
            pass
    wait_until(lambda: counters(composer)["active_streams"] == 0, 0.5)
    assert counters(composer)["cancelled_total"] == before + 1


# --- what is refused ----------------------------------------------------------------------------------------


def bad(**arrays: Array) -> dict[str, Array]:
    return {**stand_in.piece(8), **arrays}


PER_FRAME = ("given", "given_mode", "repeats", "noise")
BAD = {
    "temperature of 0": ({"temperature": np.zeros((1, 1), np.float32)}, "invalid temperature: expected.*, got 0.0"),
    "temperature of NaN": (
        {"temperature": np.full((1, 1), np.nan, np.float32)},
        "invalid temperature: expected.*, got nan",
    ),
    "top_p of 0": (
        {"top_p": np.zeros((1, 1), np.float32)},
        "invalid top_p: expected a number above 0 and at most 1.*, got 0.0",
    ),
    "top_k of 0": ({"top_k": np.zeros((1, 1), np.int64)}, "invalid top_k: expected a whole number, 1 or more.*, got 0"),
    "style below 0": ({"style": np.full((1, 1), -1, np.int64)}, "invalid style: expected.*, got -1"),
    "key of 25": ({"key": np.full((1, 1), 25, np.int64)}, "invalid key: expected.*, got 25"),
    "density of 4": ({"density": np.full((1, 1), 4, np.int64)}, "invalid density: expected.*, got 4"),
    "seven voices": ({"n_voices": np.full((1, 1), 7, np.int64)}, "invalid n_voices: expected.*, got 7"),
    "end below 0": ({"end": np.full((1, 1), -1, np.int64)}, "invalid end: expected.*, got -1"),
    "repeats below -1": ({"repeats": np.full((1, 8), -2, np.int64)}, "invalid repeats.*: expected.*, got -2"),
    "noise of 1": (
        {"noise": np.ones((1, 8, 8), np.float32)},
        "invalid .*: expected a number from 0 to below 1.*, got 1.0",
    ),
    "noise of NaN": (
        {"noise": np.full((1, 8, 8), np.nan, np.float32)},
        "invalid .*: expected a number from 0 to below 1.*, got nan",
    ),
    "given of 3": (
        {"given": np.full((1, 8, 88), 3, np.uint8)},
        "invalid .*: expected a whole number from 0 to 2.*, got 3",
    ),
    "mode of 3": (
        {"given_mode": np.full((1, 8), 3, np.uint8)},
        "invalid .*: expected a whole number from 0 to 2.*, got 3",
    ),
    "index beyond the bar": ({"meter": np.array([[4, 4]], np.int64)}, r"invalid meter: expected.*, got \[4, 4\]"),
    "meter below 0": ({"meter": np.array([[-4, 0]], np.int64)}, r"invalid meter: expected.*, got \[-4, 0\]"),
    "lengths that differ": ({"noise": np.zeros((1, 9, 8), np.float32)}, "expected equal sizes of axis frame"),
    "no frames": (
        {name: array[:, :0] for name, array in stand_in.piece(8).items() if name in PER_FRAME},
        "expected a size of 1 to 16384 along axis frame, got 0",
    ),
    "too many frames": (
        {name: array for name, array in stand_in.piece(4097).items() if name in PER_FRAME},
        "expected 1 to 4096 frames, got 4097",
    ),
    "87 pitches": ({"given": np.zeros((1, 8, 87), np.uint8)}, "unexpected shape for input 'given'"),
    "two pieces": (
        {name: np.repeat(array, 2, axis=0) for name, array in stand_in.piece(8).items()},
        "batch-size must be <= 1",
    ),
    "another type": ({"noise": np.zeros((1, 8, 8), np.float64)}, "FP64.*FP32|FP32.*FP64"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named_and_harms_nobody(transport: Any, what: str) -> None:
    arrays, message = BAD[what]
    good = stand_in.piece(64, cost=3)
    answers = transport.stream(request(good), timeout_s=TIMEOUT_S)
    first = next(answers)
    with pytest.raises(RequestRejectedError, match=message):
        list(transport.stream(request(bad(**arrays), request_id="bad"), timeout_s=TIMEOUT_S))
    check_whole([first, *answers], good)


def test_a_piece_that_the_graph_fails_on_ends_alone(transport: Any, composer: TritonServer) -> None:
    good = [stand_in.piece(200, seed=i, cost=5) for i in range(3)]
    others = [transport.stream(request(inputs), timeout_s=TIMEOUT_S) for inputs in good]
    firsts = [next(answers) for answers in others]
    with pytest.raises(RequestRejectedError, match=r"this piece does not fit the model: .*out of data bounds"):
        list(transport.stream(request(bad(style=np.array([[stand_in.N_STYLES]], np.int64))), timeout_s=TIMEOUT_S))
    for inputs, first, answers in zip(good, firsts, others, strict=True):
        check_whole([first, *answers], inputs)


def test_an_unknown_model_is_named(transport: Any) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        list(transport.stream(request(stand_in.piece(4), model="nowhere"), timeout_s=TIMEOUT_S))


def test_a_model_that_streams_is_not_asked_for_one_answer(transport: Any) -> None:
    with pytest.raises(ServerError, match="decoupled"):
        transport.handle(InferRequest(stand_in.MODEL, "one", stand_in.piece(4), OUTPUTS), timeout_s=TIMEOUT_S)


def test_too_many_streams_are_told_so(transport: Any) -> None:
    slow = stand_in.piece(1024, cost=SLOW)
    under_way = [transport.stream(request(slow, BRIEF), timeout_s=TIMEOUT_S) for _ in range(2)]
    for answers in under_way:
        next(answers)
    with pytest.raises(ServerBusyError, match="2 pieces are being streamed already"):
        next(transport.stream(request(slow, BRIEF), timeout_s=TIMEOUT_S))
    for answers in under_way:
        answers.close()


def test_a_piece_that_takes_too_long_is_given_up(composer: TritonServer, transport: Any) -> None:
    wait_until(lambda: counters(composer, BRIEF)["active_streams"] == 0)
    begun_s = time.monotonic()
    with pytest.raises(ServerBusyError, match="request timeout expired: the piece was not done in 1 s"):
        list(transport.stream(request(stand_in.piece(1024, cost=SLOW), BRIEF), timeout_s=TIMEOUT_S))
    assert 0.9 < time.monotonic() - begun_s < 10


# --- versions come and go -----------------------------------------------------------------------------------


def test_a_piece_is_finished_by_the_version_that_began_it(
    composer: TritonServer, composer_repository: Path, transport: Any
) -> None:
    inputs = stand_in.piece(300, seed=5, cost=SLOW)
    answers = transport.stream(request(inputs), timeout_s=TIMEOUT_S)
    first = next(answers)
    folder = composer_repository / stand_in.MODEL
    shutil.copytree(folder / "1", folder / "2")
    try:
        composer.load_model(stand_in.MODEL)
        assert composer.models[stand_in.MODEL] == ["2"]
        (brief,) = transport.stream(request(stand_in.piece(4)), timeout_s=TIMEOUT_S)
        assert brief.version == "2"
        rest = list(answers)
        assert {answer.version for answer in rest} == {"1"}
        check_whole([first, *rest], inputs)
    finally:
        shutil.rmtree(folder / "2")
        composer.load_model(stand_in.MODEL)


def test_a_piece_under_way_is_finished_when_the_model_is_unloaded(composer: TritonServer, transport: Any) -> None:
    inputs = stand_in.piece(100, seed=6, cost=SLOW)
    answers = transport.stream(request(inputs, BRIEF), timeout_s=TIMEOUT_S)
    first = next(answers)
    composer.unload_model(BRIEF)
    try:
        check_whole([first, *answers], inputs)
        with pytest.raises(ModelNotFoundError):
            next(transport.stream(request(inputs, BRIEF), timeout_s=TIMEOUT_S))
    finally:
        composer.load_model(BRIEF)


def test_a_server_that_stops_tells_its_listeners(tmp_path: Path, options_for: Callable[..., ServerOptions]) -> None:
    server = TritonServer.start(options_for(stand_in.make_repository(tmp_path), stop_timeout_s=10))
    transport = make_transport(make_endpoint(server.grpc_url))
    try:
        answers = begin(transport)
        with ThreadPoolExecutor(1) as pool:
            begun_s = time.monotonic()
            stopping = pool.submit(server.stop)
            with pytest.raises(ServerBusyError, match="the server is stopping"):
                list(answers)
            stopping.result()
            assert time.monotonic() - begun_s < server.options.stop_timeout_s
    finally:
        transport.close()
        server.stop()


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("decoupled: true", "decoupled: false", "add model_transaction_policy"),
        ("max_batch_size: 1\n", "max_batch_size: 4\n", "max_batch_size is 4; backend composer wants 1"),
        (
            '"first_frame" data_type: TYPE_INT64',
            '"first_frame" data_type: TYPE_INT32',
            "first_frame is TYPE_INT32 in the config and",
        ),
        ('"first_frame" data_type', '"frame" data_type', r"config lacks output first_frame"),
        ("dims: [ -1, 8 ]", "dims: [ -1, 9 ]", "input noise has shape .*any, any, 9.* in the config"),
        ('"4096"', '"many"', "parameter max_frames is 'many'; expected a whole number"),
    ],
)
def test_a_config_that_cannot_stream_says_why(
    composer: TritonServer, composer_repository: Path, old: str, new: str, part: str
) -> None:
    from tritone_serving import ModelLoadError

    config = composer_repository / stand_in.MODEL / "config.pbtxt"
    good = config.read_text()
    assert old in good
    config.write_text(good.replace(old, new))
    try:
        with pytest.raises(ModelLoadError, match=part):
            composer.load_model(stand_in.MODEL)
        assert composer.models[stand_in.MODEL] == ["1"]
    finally:
        config.write_text(good)
