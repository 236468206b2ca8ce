"""The parts of the `composer` backend, in this process: a real graph, a client made up."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tests.integration import composer_stand_in as stand_in
from tritonclient.grpc import model_config_pb2

Array = np.ndarray[Any, Any]
TIMEOUT_S = 20.0
DTYPES = model_config_pb2.DataType


def config(**parameters: int | str) -> dict[str, Any]:
    """The stand-in's config as Triton hands it to a backend."""
    message = text_format.Parse(stand_in.CONFIG.format(name="composer", parameters=""), model_config_pb2.ModelConfig())

    def tensor(item: Any) -> dict[str, Any]:
        reshape = {"reshape": {"shape": []}} if item.HasField("reshape") else {}
        return {"name": item.name, "data_type": DTYPES.Name(item.data_type), "dims": list(item.dims), **reshape}

    given = {**stand_in.PARAMETERS, **parameters}
    return {
        "max_batch_size": 1,
        "model_transaction_policy": {"decoupled": True},
        "input": [tensor(item) for item in message.input],
        "output": [tensor(item) for item in message.output],
        "parameters": {key: {"string_value": str(value)} for key, value in given.items()},
    }


@pytest.fixture(scope="module")
def session() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        stand_in.make_graph().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class Client:
    """Takes a piece's answers; `cancel()` as a client does."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.cancelled = False
        self.breaks = False

    def send(self, outputs: dict[str, Array], first_frame: int, *, last: bool) -> None:
        if self.breaks:
            raise RuntimeError("cannot send")
        self.answers.put((outputs, first_frame, last))

    def end(self, reason: Any, text: str) -> None:
        self.answers.put((reason.name, text))

    def is_cancelled(self) -> bool:
        return self.cancelled

    def next(self) -> Any:
        return self.answers.get(timeout=TIMEOUT_S)

    def whole_or_end(self) -> str:
        """How a piece that is not awaited ends: the reason's name, or `whole`."""
        while len(got := self.next()) == 3:
            if got[2]:
                return "whole"
        return str(got[0])

    def whole(self) -> tuple[Array, Array]:
        parts, at, last = [], 0, False
        while not last:
            outputs, first_frame, last = self.next()
            assert first_frame == at
            at += outputs["nll"].shape[1]
            parts.append(outputs)
        assert self.answers.empty()
        return tuple(np.concatenate([part[name][0] for part in parts]) for name in ("frames", "nll"))  # type: ignore[return-value]


class Counted:
    """Counts in this process."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.n_bars = self.n_notes = self.n_cancelled = self.n_active = 0

    def add_frames(self, n_frames: int) -> None:
        self.runs.append(n_frames)

    def add_notes(self, n_notes: int) -> None:
        self.n_notes += n_notes

    def add_bar(self) -> None:
        self.n_bars += 1

    def add_cancelled(self) -> None:
        self.n_cancelled += 1

    def set_active(self, n_streams: int) -> None:
        self.n_active = n_streams


@pytest.fixture
def start(composer: Any, session: Any) -> Iterator[Callable[..., Any]]:
    """An engine on the stand-in: `.begin(inputs)` answers a `Client`."""
    engines = []

    def make(
        *, is_stopping: Callable[[], bool] = lambda: False, graph: Any = None, n_graphs: int = 2, **parameters: int
    ) -> Any:
        described = config(**parameters)
        options = composer.graph.read_options(described)
        counted = Counted()
        warnings: list[str] = []
        engine = composer.engine.Engine(
            [graph or composer.graph.ChunkGraph(session, described, "m.onnx")] * n_graphs,
            options,
            counted,
            is_stopping=is_stopping,
            warn=warnings.append,
        )
        engines.append(engine)

        def begin(inputs: dict[str, Array], client: Client | None = None, *, is_canary: bool = False) -> Client:
            client = client or Client()
            engine.add(composer.graph.RequestedPiece(feed(inputs), options), client, is_canary=is_canary)
            return client

        return SimpleNamespace(begin=begin, counted=counted, engine=engine, warnings=warnings)

    yield make
    for engine in engines:
        engine.close()


def feed(inputs: dict[str, Array]) -> dict[str, Array]:
    """As the backend gets it: scalars of a piece as Triton reshapes them."""
    scalars = ("style", "key", "density", "n_voices", "end", "temperature", "top_k", "top_p")
    return {name: array[:, 0] if name in scalars else array for name, array in inputs.items()}


def check(client: Client, inputs: dict[str, Array]) -> None:
    for got, wanted in zip(client.whole(), stand_in.expected(inputs), strict=True):
        np.testing.assert_array_equal(got, wanted)


def wait_until(true: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# --- a piece, cut along time --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_frames", "meter", "cuts"),
    [
        (50, (0, 0), [4, 16, 32, 48, 50]),
        (50, (12, 0), [4, 12, 24, 36, 48, 50]),
        (30, (12, 10), [2, 14, 26, 30]),
        (5, (1, 0), [1, 2, 3, 4, 5]),
        (3, (16, 0), [3]),
    ],
)
def test_answers_end_at_bar_lines(composer: Any, n_frames: int, meter: tuple[int, int], cuts: list[int]) -> None:
    options = composer.graph.Options()
    piece = composer.graph.RequestedPiece(feed(stand_in.piece(n_frames, meter=meter)), options)
    found = [0]
    while found[-1] < n_frames:
        found.append(piece.next_cut(found[-1]))
    assert found[1:] == cuts
    assert [cut for cut in cuts if piece.ends_bar(cut)] == [
        cut for cut in cuts if cut == n_frames or (meter[1] + cut) % (meter[0] or 16) == 0
    ]


def test_chunks_look_ahead_and_are_silent_beyond_the_end(composer: Any) -> None:
    inputs = feed(stand_in.piece(6))
    piece = composer.graph.RequestedPiece(inputs, composer.graph.Options(lookahead_frames=3))
    chunk = piece.chunk(4, 2)
    assert chunk["noise"].shape == (1, 2, 8)
    np.testing.assert_array_equal(chunk["noise"], inputs["noise"][:, 4:])
    np.testing.assert_array_equal(chunk["repeats"], inputs["repeats"][:, 4:])
    assert all(chunk[name] == inputs[name] for name in ("key", "density", "n_voices", "end"))
    np.testing.assert_array_equal(chunk["given"][:, :2], inputs["given"][:, 4:])
    assert chunk["given"].shape == (1, 5, 88)
    assert not chunk["given"][:, 2:].any()
    assert not chunk["given_mode"][:, 2:].any()
    assert chunk["meter"].shape == (1, 2)


def test_graphs_of_earlier_releases_have_no_repeats(composer: Any) -> None:
    inputs = feed(stand_in.piece(6))
    del inputs["repeats"]
    chunk = composer.graph.RequestedPiece(inputs, composer.graph.Options()).chunk(4, 2)
    assert "repeats" not in chunk
    assert chunk["noise"].shape == (1, 2, 8)


def test_repeats_are_as_long_as_the_piece(composer: Any) -> None:
    inputs = feed(stand_in.piece(6))
    inputs["repeats"] = inputs["repeats"][:, :5]
    with pytest.raises(composer.batching.Failed, match=r"equal numbers of frames, .*'repeats': 5"):
        composer.graph.RequestedPiece(inputs, composer.graph.Options())


def test_a_piece_keeps_nothing_of_the_requests_memory(composer: Any) -> None:
    inputs = feed(stand_in.piece(6))
    piece = composer.graph.RequestedPiece(inputs, composer.graph.Options())
    assert not any(np.shares_memory(array, inputs[name]) for name, array in piece.chunk(0, 6).items())


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("temperature", [-1.0], "invalid temperature: expected a number from 0.001 to 100.*, got -1.0"),
        ("temperature", [np.inf], "invalid temperature: .*, got inf"),
        ("top_p", [1.5], "invalid top_p: expected a number above 0 and at most 1.*, got 1.5"),
        ("top_p", [np.nan], "invalid top_p: .*, got nan"),
        ("top_k", [0], "invalid top_k: .*, got 0"),
        ("style", [-2], "invalid style: .*, got -2"),
        ("meter", [[4, 9]], r"invalid meter: expected.*, got \[4, 9\]"),
        ("meter", [[0, 1]], r"invalid meter: expected.*, got \[0, 1\]"),
        ("key", [25], "invalid key: expected a whole number from 0 to 24.*, got 25"),
        ("density", [-1], "invalid density: expected a whole number from 0 to 3.*, got -1"),
        ("n_voices", [7], "invalid n_voices: expected a whole number from 0 to 6.*, got 7"),
        ("end", [-1], "invalid end: .*, got -1"),
        ("repeats", np.full((1, 6), -2), r"invalid repeats\[0\]: .*, got -2"),
        ("repeats", np.zeros((1, 7)), "equal sizes of axis frame, .*7 for repeats"),
        ("given", np.full((1, 6, 88), 7), r"invalid given\[0, 0\]: expected a whole number from 0 to 2.*, got 7"),
        ("given_mode", np.full((1, 6), 9), r"invalid given_mode\[0\]: .*, got 9"),
        ("given_mode", np.zeros((1, 7)), "equal sizes of axis frame, .*7 for given_mode"),
        ("noise", np.full((1, 6, 8), -0.1), r"invalid noise\[0, 0\]: expected a number from 0 to below 1.*, got -0.1"),
        ("noise", np.full((1, 6, 8), np.nan), r"invalid noise\[0, 0\]: .*, got nan"),
    ],
)
def test_requests_beyond_the_limits_are_refused(composer: Any, session: Any, name: str, value: Any, part: str) -> None:
    inputs = feed(stand_in.piece(6))
    inputs[name] = np.asarray(value).astype(inputs[name].dtype)
    contract = composer.graph.ChunkGraph(session, config(), "m.onnx").contract
    request = SimpleNamespace(
        inputs=lambda: [
            SimpleNamespace(name=lambda n=key: n, as_numpy=lambda a=array: a) for key, array in inputs.items()
        ],
        requested_output_names=list,
    )
    with pytest.raises(composer.batching.Failed, match=part):
        composer.batching.read_request(0, request, contract)


# --- the graph against its config ---------------------------------------------------------------------------


def test_states_begin_as_zeros_and_free_axes_at_length_0(composer: Any, session: Any) -> None:
    graph = composer.graph.ChunkGraph(session, config(), "m.onnx")
    state = graph.first_state()
    assert {name: (array.shape, array.dtype.name) for name, array in state.items()} == {
        "state_frame": ((1,), "int64"),
        "state_sums": ((1, 2), "int64"),
    }
    assert not any(array.any() for array in state.values())
    node = SimpleNamespace(name="state_x", type="tensor(float)", shape=["batch", "past", 3])
    after = SimpleNamespace(name="next_state_x", type="tensor(float)", shape=["batch", "past_and_now", 3])
    (spec,) = composer.graph._states({"state_x": node}, {"next_state_x": after}, "m.onnx")
    assert spec.dims == (None, None, 3)


def test_a_graph_without_its_state_is_refused(composer: Any, session: Any) -> None:
    takes, answers = session.get_inputs(), session.get_outputs()

    def graph(takes: Any, answers: Any) -> Any:
        double = SimpleNamespace(
            get_inputs=lambda: takes, get_outputs=lambda: answers, get_modelmeta=session.get_modelmeta
        )
        return composer.graph.ChunkGraph(double, config(), "m.onnx")

    with pytest.raises(composer.session.SessionError, match="has no state"):
        graph([node for node in takes if not node.name.startswith("state")], answers)
    with pytest.raises(composer.session.SessionError, match=r"takes state_sums .* no next_state_sums like it"):
        graph(takes, [node for node in answers if node.name != "next_state_sums"])
    with pytest.raises(composer.session.SessionError, match="config lacks input extra"):
        graph([*takes, SimpleNamespace(name="extra", type="tensor(float)", shape=["batch"])], answers)


def test_an_answer_of_another_length_is_an_error(composer: Any, session: Any) -> None:
    described = config()
    graph = composer.graph.ChunkGraph(session, described, "m.onnx")
    graph._session = SimpleNamespace(run=lambda names, _feed: [np.zeros((1, 3)) for _ in names])
    piece = composer.graph.RequestedPiece(feed(stand_in.piece(6)), composer.graph.Options())
    with pytest.raises(composer.batching.Failed, match=r"answered frames with shape \[1, 3\] for 2 frames"):
        graph.advance(piece.chunk(0, 2), graph.first_state())


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("max_frames", "0", "max_frames is '0'; expected a whole number from 1"),
        ("lookahead_frames", "-1", "lookahead_frames is '-1'"),
        ("step_milliseconds", "soon", "step_milliseconds is 'soon'"),
        ("max_streams", "9999999999", "max_streams is '9999999999'"),
    ],
)
def test_a_wrong_parameter_is_named(composer: Any, key: str, value: str, part: str) -> None:
    with pytest.raises(composer.session.SessionError, match=part):
        composer.graph.read_options(config(**{key: value}))


# --- the engine ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_milliseconds", [1, 40, 10_000])
def test_steps_of_any_length_write_the_same_piece(start: Any, step_milliseconds: int) -> None:
    inputs = stand_in.piece(100, seed=1, cost=2, meter=(12, 5))
    engine = start(step_milliseconds=step_milliseconds)
    check(engine.begin(inputs), inputs)
    assert sum(engine.counted.runs) == 100
    assert engine.counted.n_bars == 9
    frames, _ = stand_in.expected(inputs)
    assert engine.counted.n_notes == np.count_nonzero(frames == 2) > 0
    wait_until(lambda: engine.counted.n_active == 0)


class Observed:
    """A graph that calls a function before each run, and notes the styles of its pieces."""

    def __init__(self, graph: Any, before_run: Callable[[], Any] = lambda: None) -> None:
        self._graph = graph
        self._before_run = before_run
        self.first_state = graph.first_state
        self.styles: list[list[int]] = []

    def advance(self, feed: dict[str, Array], state: dict[str, Array]) -> Any:
        self.styles.append(feed["style"].tolist())
        self._before_run()
        return self._graph.advance(feed, state)


class Gate(Observed):
    """A graph whose runs wait until `open` is set."""

    def __init__(self, graph: Any) -> None:
        self.open = threading.Event()
        super().__init__(graph, lambda: self.open.wait(TIMEOUT_S))


@pytest.fixture
def graph(composer: Any, session: Any) -> Any:
    return composer.graph.ChunkGraph(session, config(), "m.onnx")


def test_pieces_advance_together_whatever_their_place(graph: Any, start: Any) -> None:
    pieces = [stand_in.piece(120 + 9 * i, seed=i, cost=1, meter=(7 + i, i)) for i in range(5)]
    clients: list[Client] = []

    def begin_next() -> None:  # each joins while the others are under way
        if len(clients) < len(pieces):
            clients.append(engine.begin(pieces[len(clients)]))

    observed = Observed(graph, begin_next)
    engine = start(graph=observed, n_graphs=1)
    begin_next()
    wait_until(lambda: len(clients) == len(pieces))
    for client, inputs in zip(clients, pieces, strict=True):
        check(client, inputs)
    assert max(map(len, observed.styles)) == len(pieces)
    assert sum(len(styles) > 1 for styles in observed.styles) > 0.8 * len(observed.styles)


def test_pieces_at_different_places_of_a_bar_do_not_shorten_each_others_runs(graph: Any, start: Any) -> None:
    n_frames = 400
    pieces = [stand_in.piece(n_frames, seed=i, meter=(16, 2 * i)) for i in range(8)]
    gate = Gate(graph)
    engine = start(graph=gate, step_milliseconds=10_000, n_graphs=1)
    clients = [engine.begin(inputs) for inputs in pieces]
    gate.open.set()
    for client, inputs in zip(clients, pieces, strict=True):
        check(client, inputs)
    whole = [n for n in engine.counted.runs if n == 16 * len(pieces)]
    assert sum(whole) > 0.9 * len(pieces) * n_frames


@pytest.mark.parametrize(("n_pieces", "share"), [(3, 2), (4, 2), (5, 3), (8, 4)])
def test_each_of_two_simultaneous_runs_has_half_of_the_pieces(
    graph: Any, start: Any, n_pieces: int, share: int
) -> None:
    gate = Gate(graph)
    engine = start(graph=gate)
    pieces = [stand_in.piece(200, seed=i, meter=(8, 0)) for i in range(n_pieces)]
    clients = [engine.begin(inputs) for inputs in pieces]
    wait_until(lambda: len(gate.styles) == 2)  # both graphs are in use before a run is done
    gate.open.set()
    for client, inputs in zip(clients, pieces, strict=True):
        check(client, inputs)
    assert max(map(len, gate.styles)) == share


@pytest.fixture
def one_held(graph: Any) -> Any:
    """A graph whose first run, of all graphs, waits until `let_go` is set; `is_held` is set when it waits."""
    let_go, is_held, first = threading.Event(), threading.Event(), threading.Lock()

    def hold_the_first() -> None:
        if first.acquire(blocking=False):
            is_held.set()
            let_go.wait(TIMEOUT_S)

    observed: Any = Observed(graph, hold_the_first)
    observed.let_go, observed.is_held = let_go, is_held
    return observed


def test_runs_do_not_wait_for_each_other(start: Any, one_held: Any) -> None:
    engine = start(graph=one_held)
    inputs = stand_in.piece(60, seed=1)
    first = engine.begin(inputs)
    assert one_held.is_held.wait(TIMEOUT_S)
    check(engine.begin(inputs), inputs)  # to its end
    assert first.answers.empty()
    one_held.let_go.set()
    check(first, inputs)


def test_a_piece_is_cancelled_while_its_run_goes_on(start: Any, one_held: Any) -> None:
    engine = start(graph=one_held)
    client = engine.begin(stand_in.piece(60))
    assert one_held.is_held.wait(TIMEOUT_S)
    client.cancelled = True
    assert client.next()[0] == "CANCELLED"
    one_held.let_go.set()
    inputs = stand_in.piece(60, seed=1)
    check(engine.begin(inputs), inputs)
    assert client.answers.empty()


def test_closing_waits_for_the_run_in_progress(start: Any, one_held: Any) -> None:
    engine = start(graph=one_held)
    client = engine.begin(stand_in.piece(60))
    assert one_held.is_held.wait(TIMEOUT_S)
    closing = threading.Thread(target=engine.engine.close)
    closing.start()
    assert client.next()[0] == "CLOSING"
    assert closing.is_alive()
    one_held.let_go.set()
    closing.join(TIMEOUT_S)
    assert not closing.is_alive()
    assert client.answers.empty()


def test_a_fault_in_one_run_ends_only_its_pieces(start: Any, one_held: Any) -> None:
    advance = one_held.advance

    def faulty(feed: dict[str, Array], state: dict[str, Array]) -> Any:
        if 9 in feed["style"]:
            raise ZeroDivisionError("a fault")
        return advance(feed, state)

    one_held.advance = faulty
    engine = start(graph=one_held)
    inputs = stand_in.piece(60)
    first = engine.begin(inputs)
    assert one_held.is_held.wait(TIMEOUT_S)
    assert engine.begin(stand_in.piece(60, cost=9)).next()[0] == "BROKEN"
    assert engine.warnings == ["composer: ZeroDivisionError: a fault"]
    one_held.let_go.set()
    check(first, inputs)


@pytest.mark.parametrize(("n_cores", "most", "expected"), [(8, 2, 2), (1, 2, 1), (8, 3, 3)])
def test_there_is_a_graph_for_each_core_and_one_on_a_gpu(
    composer: Any, monkeypatch: pytest.MonkeyPatch, n_cores: int, most: int, expected: int
) -> None:
    monkeypatch.setattr(composer.graph.os, "sched_getaffinity", lambda _pid: range(n_cores))
    options = composer.graph.Options(max_parallel_runs=most)
    assert composer.graph.n_graphs(options, "CPU") == expected
    assert composer.graph.n_graphs(options, "GPU") == 1


def test_pieces_of_one_graph_share_runs(graph: Any, start: Any) -> None:
    gate = Gate(graph)
    engine = start(graph=gate, n_graphs=1)
    pieces = [stand_in.piece(60, seed=i) for i in range(6)]
    clients = [engine.begin(inputs) for inputs in pieces]
    gate.open.set()
    for client, inputs in zip(clients, pieces, strict=True):
        check(client, inputs)
    assert max(map(len, gate.styles)) == len(pieces)


def test_more_pieces_than_one_run_holds_take_turns(start: Any) -> None:
    engine = start(max_batch_streams=2)
    pieces = [stand_in.piece(300, seed=i, cost=2) for i in range(5)]
    clients = [engine.begin(inputs) for inputs in pieces]
    for client in clients:
        while client.answers.empty():
            time.sleep(0.001)
    assert engine.counted.n_active == 5  # each has been heard, and none is done
    for client, inputs in zip(clients, pieces, strict=True):
        check(client, inputs)


def test_new_pieces_run_before_those_in_progress_in_their_order(graph: Any, start: Any) -> None:
    gate = Gate(graph)
    gate.open.set()
    engine = start(graph=gate, n_graphs=1, max_batch_streams=1)
    old = [engine.begin(stand_in.piece(2000, cost=3)) for _ in range(4)]
    for client in old:
        client.next()
    gate.open.clear()
    n_runs = len(gate.styles)
    wait_until(lambda: len(gate.styles) > n_runs)  # a run of an old piece is held
    n_runs = len(gate.styles)
    new = [engine.begin(stand_in.piece(4, cost=cost)) for cost in (1, 2)]
    gate.open.set()
    for client in new:
        client.next()
    assert gate.styles[n_runs : n_runs + 2] == [[1], [2]]
    for client in old:
        client.cancelled = True


def test_a_failing_piece_ends_alone(graph: Any, start: Any) -> None:
    gate = Gate(graph)
    engine = start(graph=gate, n_graphs=1)
    good = [stand_in.piece(150, seed=i, cost=3) for i in range(2)]
    clients = [engine.begin(good[0]), engine.begin(stand_in.piece(50, cost=stand_in.N_STYLES)), engine.begin(good[1])]
    gate.open.set()
    reason, text = clients.pop(1).next()
    assert reason == "INVALID"  # a style that is not there
    assert "out of data bounds" in text
    for client, inputs in zip(clients, good, strict=True):
        check(client, inputs)
    assert any(stand_in.N_STYLES in styles and len(styles) > 1 for styles in gate.styles)
    assert [stand_in.N_STYLES] in gate.styles


def test_pieces_in_progress_do_not_wait_for_new_ones_without_a_limit(
    composer: Any, graph: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composer.engine, "MAX_WAIT_S", 0.05)
    engine = start(graph=graph, n_graphs=1, max_batch_streams=1)
    inputs = stand_in.piece(60, cost=1)
    old = engine.begin(inputs)
    done = threading.Event()

    def begin_new_ones() -> None:  # keeps pieces waiting that have not begun
        waiting: list[Client] = []
        while not done.is_set():
            waiting = [client for client in waiting if client.answers.empty()]
            while len(waiting) < 20:
                waiting.append(engine.begin(stand_in.piece(1, cost=9)))
            time.sleep(0.001)

    thread = threading.Thread(target=begin_new_ones)
    thread.start()
    try:
        check(old, inputs)
    finally:
        done.set()
        thread.join()


def test_a_piece_whose_response_cannot_be_sent_ends(start: Any) -> None:
    engine = start()
    broken = Client()
    broken.breaks = True
    engine.begin(stand_in.piece(100, cost=2), broken)
    assert broken.next() == ("BROKEN", "a response could not be sent; see the server's log")
    wait_until(lambda: engine.counted.n_active == 0)


def test_metrics_and_senders_that_fail_harm_no_other_piece(start: Any) -> None:
    engine = start()

    def fail(*_: int) -> None:
        raise OSError("gone")

    for name in ("add_frames", "add_bar", "add_notes", "set_active", "add_cancelled"):
        setattr(engine.counted, name, fail)
    broken = Client()
    broken.is_cancelled = fail  # type: ignore[method-assign, assignment]
    engine.begin(stand_in.piece(4000, cost=9), broken)
    inputs = stand_in.piece(100, cost=2)
    check(engine.begin(inputs), inputs)
    assert broken.whole_or_end() == "BROKEN"


def test_nothing_of_a_piece_is_kept_after_its_end(graph: Any, start: Any) -> None:
    kept: list[weakref.ref[Array]] = []
    observed = Observed(graph)

    def advance(feed: dict[str, Array], state: dict[str, Array]) -> Any:
        kept.extend(weakref.ref(array) for array in (*feed.values(), *state.values()))
        return graph.advance(feed, state)

    observed.advance = advance  # type: ignore[method-assign]
    engine = start(graph=observed)
    inputs = stand_in.piece(50)
    client = engine.begin(inputs)
    check(client, inputs)
    assert engine.begin(stand_in.piece(50, cost=stand_in.N_STYLES)).next()[0] == "INVALID"
    del client
    wait_until(lambda: not any(ref() is not None for ref in kept))


def test_a_cancelled_piece_is_not_written_on(start: Any) -> None:
    engine = start()
    client = engine.begin(stand_in.piece(4000, cost=9))
    client.next()
    client.cancelled = True
    begun_s = time.monotonic()
    while (got := client.next())[0] != "CANCELLED":
        assert len(got) == 3
    assert time.monotonic() - begun_s < 5
    n_runs = len(engine.counted.runs)
    time.sleep(0.1)
    assert len(engine.counted.runs) == n_runs
    assert (engine.counted.n_cancelled, engine.counted.n_active) == (1, 0)


def test_a_client_that_cannot_be_answered_harms_nobody(start: Any) -> None:
    engine = start()
    inputs = stand_in.piece(100, cost=2)
    other = engine.begin(inputs)
    broken = Client()
    broken.breaks = True
    engine.begin(stand_in.piece(100, cost=2), broken)
    check(other, inputs)
    wait_until(lambda: engine.counted.n_active == 0)
    assert "a response could not be sent: cannot send" in engine.warnings[0]


def test_a_piece_whose_run_does_not_end_is_late(graph: Any, start: Any) -> None:
    gate = Gate(graph)
    engine = start(graph=gate, n_graphs=1, stream_timeout_seconds=2)
    client = engine.begin(stand_in.piece(20))
    reason, text = client.next()
    assert reason == "LATE"
    assert "request timeout expired" in text
    gate.open.set()
    inputs = stand_in.piece(20, seed=3)
    check(engine.begin(inputs), inputs)
    assert client.answers.empty()  # the outputs of the late run are dropped


def test_places_are_limited_and_given_back(start: Any) -> None:
    engine = start(max_streams=2)
    first = [engine.begin(stand_in.piece(3000, cost=9)) for _ in range(2)]
    assert engine.begin(stand_in.piece(4)).next() == (
        "BUSY",
        "too many requests: 2 pieces are being streamed already",
    )
    for client in first:
        client.cancelled = True
    wait_until(lambda: engine.counted.n_cancelled == 2)
    inputs = stand_in.piece(4)
    check(engine.begin(inputs), inputs)


def test_closing_ends_every_piece_and_later_ones_at_once(start: Any) -> None:
    engine = start()
    clients = [engine.begin(stand_in.piece(4000, cost=9)) for _ in range(3)]
    for client in clients:
        client.next()
    engine.engine.close()
    for client in clients:
        while (got := client.next())[0] != "CLOSING":
            assert not got[2]
    assert engine.begin(stand_in.piece(4)).next()[0] == "CLOSING"
    assert engine.counted.n_active == 0


def test_a_server_that_stops_lets_short_pieces_finish(
    composer: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composer.engine, "GRACE_S", 0.3)
    stopping = threading.Event()
    engine = start(is_stopping=stopping.is_set)
    short, long = stand_in.piece(20, cost=2), stand_in.piece(4000, cost=9)
    clients = engine.begin(short), engine.begin(long)
    stopping.set()
    check(clients[0], short)
    while (got := clients[1].next())[0] != "CLOSING":
        assert len(got) == 3


def test_a_fault_of_the_engine_ends_its_pieces_and_not_the_engine(composer: Any, session: Any, start: Any) -> None:
    graph = composer.graph.ChunkGraph(session, config(), "m.onnx")
    advance, failing = graph.advance, [True]

    def faulty(*arguments: Any) -> Any:
        if failing.pop() if failing else False:
            raise ZeroDivisionError("a fault")
        return advance(*arguments)

    graph.advance = faulty
    engine = start(graph=graph)
    reason, text = engine.begin(stand_in.piece(20)).next()
    assert (reason, "ZeroDivisionError" in text) == ("BROKEN", True)
    assert engine.warnings == ["composer: ZeroDivisionError: a fault"]
    inputs = stand_in.piece(20)
    check(engine.begin(inputs), inputs)


# --- metrics ------------------------------------------------------------------------------------------------


def test_a_server_without_metrics_is_served_without(composer: Any) -> None:
    class RefusedError(Exception):
        pass

    def family(**_: Any) -> Any:
        raise RefusedError("metrics are off")

    said: list[str] = []
    family.COUNTER = family.GAUGE = 0  # type: ignore[attr-defined]
    utils = SimpleNamespace(
        MetricFamily=family, TritonModelException=RefusedError, Logger=SimpleNamespace(log_warn=said.append)
    )
    counters = composer.metrics.make_counters(utils, {})
    counters.add_frames(4)
    counters.set_active(1)
    assert said == ["composer: no metrics: metrics are off"]


def test_a_canary_is_counted_nowhere(start: Any) -> None:
    engine = start()
    canary = stand_in.piece(20, seed=1)
    check(engine.begin(canary, is_canary=True), canary)
    assert engine.counted.runs == []
    assert (engine.counted.n_bars, engine.counted.n_notes, engine.counted.n_active) == (0, 0, 0)
    gone = Client()
    gone.cancelled = True
    assert engine.begin(stand_in.piece(4000, cost=9), gone, is_canary=True).whole_or_end() == "CANCELLED"
    assert engine.counted.n_cancelled == 0


def test_pieces_beside_a_canary_are_counted(start: Any) -> None:
    engine = start()
    piece = stand_in.piece(40, seed=2)
    clients = engine.begin(stand_in.piece(40, seed=3), is_canary=True), engine.begin(piece)
    check(clients[1], piece)
    clients[0].whole()
    assert sum(engine.counted.runs) == 40


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("", False),
        ("{}", False),
        ('{"tritone_canary": true}', True),
        ('{"tritone_canary": true, "other": 2}', True),
        ('{"tritone_canary": "1"}', False),
        ('{"tritone_canary": false}', False),
        ('["tritone_canary"]', False),
        ("tritone_canary", False),
    ],
)
def test_a_request_is_marked_as_a_canary_by_its_parameter(composer: Any, parameters: str, expected: bool) -> None:
    request = SimpleNamespace(parameters=lambda: parameters)
    assert composer.marks.is_canary(request) is expected


def test_an_answer_that_is_not_finite_is_an_error(composer: Any, session: Any) -> None:
    graph = composer.graph.ChunkGraph(session, config(), "m.onnx")
    advanced = session.run

    def run(names: list[str], given: dict[str, Array]) -> list[Array]:
        values = dict(zip(names, advanced(names, given), strict=True))
        values["nll"] = np.full_like(values["nll"], np.nan)
        return [values[name] for name in names]

    graph._session = SimpleNamespace(run=run)
    piece = composer.graph.RequestedPiece(feed(stand_in.piece(6)), composer.graph.Options(lookahead_frames=2))
    with pytest.raises(composer.batching.Failed, match="answered nll with NaN or infinity"):
        graph.advance(piece.chunk(0, 2), graph.first_state())
