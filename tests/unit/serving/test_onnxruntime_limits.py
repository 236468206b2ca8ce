"""Limits of a model's inputs in the `onnxruntime` backend: sizes, values, totals, warm-up and non-finite outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

Array = np.ndarray[Any, Any]
F = np.float32
METER = (
    "invalid meter: expected the time steps of a bar and the index of the first step in its bar, counted from 0, or "
    "[0, 0] if they are not known, got "
)

LIMITS = {
    "axes": {"frame": {"min": 1, "max": 64, "total": 128}},
    "inputs": {
        "given": {"axes": ["frame", "pitch"], "max": 2},
        "noise": {"axes": ["frame", "note"], "finite": True, "min": 0, "below": 1},
        "temperature": {"axes": [], "finite": True, "min": 0.001, "max": 100},
        "top_k": {"axes": [], "min": 1, "max": 2**31 - 1},
        "top_p": {"axes": [], "finite": True, "above": 0, "max": 1},
        "density": {"axes": [], "finite": True, "above": 0, "max": 16, "also": [-1]},
        "style": {"axes": [], "min": 0, "n_values": "n_styles"},
        "meter": {"axes": ["part"], "min": 0, "max": 16384, "meter": True},
    },
}


def config(limits: Any = LIMITS, **parameters: str) -> dict[str, Any]:
    """A config as Triton hands it to a backend."""
    text = limits if isinstance(limits, str) else json.dumps(limits)
    ranks = {"given": 2, "noise": 2, "meter": 1}
    names = ("given", "noise", "temperature", "top_k", "top_p", "density", "style", "meter")
    return {
        "input": [{"name": name, "dims": ["-1"] * ranks.get(name, 0)} for name in names],
        "parameters": {key: {"string_value": value} for key, value in {"limits": text, **parameters}.items()},
    }


def session(**metadata: str) -> Any:
    return SimpleNamespace(get_modelmeta=lambda: SimpleNamespace(custom_metadata_map=metadata))


def request(n_rows: int = 1, n_frames: int = 8, **changed: Any) -> dict[str, Array]:
    feed = {
        "given": np.zeros((n_rows, n_frames, 4), np.uint8),
        "noise": np.full((n_rows, n_frames, 3), 0.5, F),
        "temperature": np.ones(n_rows, F),
        "top_k": np.full(n_rows, 5),
        "top_p": np.ones(n_rows, F),
        "density": np.full(n_rows, -1, F),
        "style": np.full(n_rows, 2),
        "meter": np.tile([16, 3], (n_rows, 1)),
    }
    return feed | {name: np.asarray(value, feed[name].dtype) for name, value in changed.items()}


def with_value(n_rows: int, place: tuple[int, ...], value: float) -> Array:
    noise = np.full((n_rows, 8, 3), 0.5, F)
    noise[place] = value
    return noise


@pytest.fixture
def limits(backend: Any) -> Any:
    return backend.limits.read_limits(config(), session(n_styles="3"))


def test_values_within_the_limits_pass(limits: Any) -> None:
    for feed in (
        request(),
        request(2, 64),
        request(temperature=[0.001]),
        request(temperature=[100]),
        request(top_k=[2**31 - 1]),
        request(top_p=[np.finfo(F).tiny]),
        request(density=[16]),
        request(noise=with_value(1, (0, 1, 1), np.nextafter(F(1), F(0)))),
        request(meter=[[0, 0]]),
        request(given=np.full((1, 8, 4), 2)),
    ):
        assert limits.problem(feed, len(feed["top_k"])) is None


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"temperature": [-1]}, "invalid temperature: expected a number from 0.001 to 100, got -1.0"),
        ({"temperature": [0]}, "invalid temperature: expected a number from 0.001 to 100, got 0.0"),
        ({"temperature": [np.nan]}, "invalid temperature: expected a number from 0.001 to 100, got nan"),
        ({"temperature": [np.inf]}, "invalid temperature: expected a number from 0.001 to 100, got inf"),
        ({"top_k": [-5]}, "invalid top_k: expected a whole number from 1 to 2147483647, got -5"),
        ({"top_k": [2**40]}, "invalid top_k: expected a whole number from 1 to 2147483647, got 1099511627776"),
        ({"top_p": [2]}, "invalid top_p: expected a number above 0 and at most 1, got 2.0"),
        ({"top_p": [0]}, "invalid top_p: expected a number above 0 and at most 1, got 0.0"),
        ({"density": [0]}, "invalid density: expected a number above 0 and at most 16, or -1, got 0.0"),
        ({"density": [np.nan]}, "invalid density: expected a number above 0 and at most 16, or -1, got nan"),
        ({"style": [3]}, "invalid style: expected a whole number from 0 to 2, got 3"),
        ({"style": [-1]}, "invalid style: expected a whole number from 0 to 2, got -1"),
        ({"given": np.full((1, 8, 4), 255)}, "invalid given[0, 0]: expected a whole number, at most 2, got 255"),
        ({"noise": with_value(1, (0, 4, 2), 1)}, "invalid noise[4, 2]: expected a number from 0 to below 1, got 1.0"),
        (
            {"noise": with_value(1, (0, 4, 2), -1e-9)},
            "invalid noise[4, 2]: expected a number from 0 to below 1, got -1e-09",
        ),
        (
            {"noise": with_value(1, (0, 7, 0), np.nan)},
            "invalid noise[7, 0]: expected a number from 0 to below 1, got nan",
        ),
        (
            {"noise": with_value(1, (0, 7, 0), -np.inf)},
            "invalid noise[7, 0]: expected a number from 0 to below 1, got -inf",
        ),
        ({"meter": [[4, 4]]}, f"{METER}[4, 4]"),
        ({"meter": [[0, 1]]}, f"{METER}[0, 1]"),
        ({"meter": [[-4, 0]]}, f"{METER}[-4, 0]"),
        ({"meter": [[2**60, 0]]}, f"{METER}[1152921504606846976, 0]"),
    ],
)
def test_a_value_beyond_its_limits_is_refused_by_name(limits: Any, changed: dict[str, Any], says: str) -> None:
    assert str(limits.problem(request(**changed), 1)).startswith(says)


def test_the_row_is_named_in_a_batch(limits: Any) -> None:
    noise = with_value(3, (2, 1, 0), np.nan)
    assert (
        limits.problem(request(3, noise=noise), 3)
        == "row 2: invalid noise[1, 0]: expected a number from 0 to below 1, got nan"
    )
    assert limits.problem(request(2, temperature=[1, -1]), 2).endswith(
        "invalid temperature: expected a number from 0.001 to 100, got -1.0"
    )


@pytest.mark.parametrize(
    ("n_rows", "n_frames", "changed", "says"),
    [
        (1, 65, {}, "invalid given: expected a size of 1 to 64 along axis frame, got 65"),
        (1, 0, {}, "invalid given: expected a size of 1 to 64 along axis frame, got 0"),
        (
            3,
            64,
            {},
            "invalid given: expected at most 128 along axis frame in all rows of a request, got 192 (3 rows of 64)",
        ),
        (0, 8, {}, "invalid request: expected 1 row or more, got 0"),
        (
            1,
            8,
            {"noise": np.zeros((1, 9, 3))},
            "invalid inputs: expected equal sizes of axis frame, got 8 for given, 9 for noise",
        ),
    ],
)
def test_a_size_beyond_its_limits_is_refused(
    limits: Any, n_rows: int, n_frames: int, changed: dict[str, Any], says: str
) -> None:
    assert limits.problem(request(n_rows, n_frames, **changed), n_rows) == says


def test_an_input_that_is_left_out_is_not_checked(limits: Any) -> None:
    feed = request()
    del feed["noise"]
    assert limits.problem(feed, 1) is None


def test_a_large_input_is_checked_in_full(backend: Any) -> None:
    values = backend.limits.ValueLimits(("sample",), least=-64, most=64, finite=True)
    limits = backend.limits.RequestLimits({"audio": values})
    for value in (np.nan, np.inf, -np.inf, 1e38, -65):
        audio = np.zeros((4, 66_150), F)
        audio[3, 66_149] = value
        assert limits.problem({"audio": audio}, 4).startswith(
            "row 3: invalid audio[66149]: expected a number from -64 to 64, got " + str(F(value))
        )
    assert limits.problem({"audio": np.full((4, 66_150), 1e-40, F)}, 4) is None
    assert limits.problem({"audio": np.full((4, 66_150), 1.5, F)}, 4) is None  # a loud mix


def test_the_number_of_values_is_the_versions_own(backend: Any) -> None:
    def style(parameters: dict[str, str], metadata: dict[str, str]) -> Any:
        limits = backend.limits.read_limits(config(**parameters), session(**metadata))
        return limits.problem(request(style=[4]), 1)

    assert "expected a whole number from 0 to 2" in style({"n_styles": "9"}, {"n_styles": "3"})
    assert "expected a whole number from 0 to 3" in style({"n_styles": "4"}, {})
    assert style({}, {}) is None  # an older export: the graph itself may refuse
    assert style({"n_styles": "3"}, {"n_styles": ""}) is None  # this version takes any


def test_a_config_without_limits_refuses_nothing(backend: Any) -> None:
    assert backend.limits.read_limits({"input": [], "parameters": {}}, session()) is None
    spec = backend.contract.Spec("x", np.float32, (None, 3))
    rules = backend.contract.Contract((spec,), ("y",), True)
    nan = SimpleNamespace(name=lambda: "x", as_numpy=lambda: np.full((1, 3), np.nan, F))
    given = SimpleNamespace(inputs=lambda: [nan], requested_output_names=list)
    assert np.isnan(backend.batching.read_request(0, given, rules).feed["x"]).all()


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ({"axes": {}}, "damaged"),
        ({"axes": {}, "inputs": {"noise": {"axes": ["a", "b"], "largest": 1}}}, "unknown entry largest"),
        ({"axes": {}, "inputs": {"loudness": {"axes": []}}}, "does not fit .* loudness"),
        (
            {"axes": {}, "inputs": {"noise": {"axes": ["frame"]}}},
            r"does not fit .* noise has axes \['frame'\], expected 2",
        ),
    ],
)
def test_damaged_limits_stop_the_model_from_loading(backend: Any, limits: Any, says: str) -> None:
    with pytest.raises(backend.session.SessionError, match=says):
        backend.limits.read_limits(config(limits), session())


# --- joined runs --------------------------------------------------------------------------------------------


class Request:
    """A request of n rows of `n_frames` frames; `value` everywhere."""

    def __init__(self, n_rows: int, n_frames: int, value: float = 0.5) -> None:
        self._array = np.full((n_rows, n_frames), value, F)

    def inputs(self) -> list[Any]:
        return [SimpleNamespace(name=lambda: "x", as_numpy=lambda: self._array)]

    def requested_output_names(self) -> list[str]:
        return []


def rules(backend: Any, total: int | None = None) -> Any:
    values = backend.limits.ValueLimits(("frame",), least=0, most=1, finite=True)
    limits = backend.limits.RequestLimits({"x": values}, {"frame": backend.limits.AxisLimits(1, 100, total)})
    return backend.contract.Contract((backend.contract.Spec("x", np.float32, (None, None)),), ("y",), True, limits)


def test_a_run_of_joined_requests_keeps_to_the_total(backend: Any) -> None:
    contract = rules(backend, total=100)
    ready = [backend.batching.read_request(i, Request(n, 20), contract) for i, n in enumerate((2, 2, 1, 1, 5, 1))]
    groups = backend.batching.group_requests(ready, contract)
    assert [[member.index for member in group] for group in groups] == [[0, 1, 2], [3], [4], [5]]
    assert all(sum(member.n_rows for member in group) * 20 <= 100 for group in groups)


def test_only_the_request_with_a_bad_value_fails(backend: Any) -> None:
    contract = rules(backend)
    ready = []
    refused = []
    for index, value in enumerate((0.5, np.nan, 0.25)):
        try:
            ready.append(backend.batching.read_request(index, Request(1, 3, value), contract))
        except backend.batching.Failed as error:
            refused.append((index, str(error)))
    assert refused == [(1, "invalid x[0]: expected a number from 0 to 1, got nan")]
    (group,) = backend.batching.group_requests(ready, contract)
    assert [member.index for member in group] == [0, 2]


def test_an_output_that_is_not_finite_fails_its_own_request(backend: Any) -> None:
    session = SimpleNamespace(run=lambda names, feed: [np.where(feed["x"] > 0.5, F(np.nan), feed["x"])])
    contract = rules(backend)
    joint = backend.batching.JointRun(session, contract)
    ready = [backend.batching.read_request(i, Request(1, 3, v), contract) for i, v in enumerate((0.5, 0.75))]
    good, bad = joint.run(ready)
    np.testing.assert_array_equal(good["y"], np.full((1, 3), 0.5, F))
    assert isinstance(bad, backend.batching.Failed)
    assert not isinstance(bad, backend.batching.Refused)  # the model's fault, so an internal error
    assert "y with NaN or infinity" in str(bad)
    (alone,) = joint.run([ready[1]])
    assert isinstance(alone, backend.batching.Failed)


# --- warm-up ------------------------------------------------------------------------------------------------


def test_warm_up_requests_are_recognised_by_their_number_and_zeros(backend: Any) -> None:
    warm_up = backend.marks.WarmUp({"model_warmup": [{"batch_size": 2, "count": 0}, {"batch_size": 1, "count": 2}]})
    assert [warm_up.consume(Request(1, 2, 0)) for _ in range(5)] == [True] * 4 + [False]


def test_a_callers_request_does_not_pass_as_warm_up(backend: Any) -> None:
    warm_up = backend.marks.WarmUp({"model_warmup": [{"batch_size": 1}]})
    assert not warm_up.consume(Request(1, 2, -1))
    assert not warm_up.consume(Request(1, 2, 0))  # the warm-up is over
    assert not backend.marks.WarmUp({}).consume(Request(1, 2, 0))


# --- denormal numbers ---------------------------------------------------------------------------------------

# Prints the bits of halved denormal numbers: of the thread that opened the session, and of one that it started later.
HALVE = """
import sys, threading
import numpy as np, onnx, onnxruntime
from onnx import TensorProto, helper
from tritone_ort_session import session_options

value = helper.make_tensor_value_info
graph = helper.make_graph(
    [helper.make_node("Mul", ["x", "half"], ["y"])], "halve",
    [value("x", TensorProto.FLOAT, ["n"])], [value("y", TensorProto.FLOAT, ["n"])],
    [onnx.numpy_helper.from_array(np.array(0.5, np.float32), "half")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
parameters = {"intra_op_thread_count": sys.argv[1], "session.set_denormal_as_zero": sys.argv[2]}
if sys.argv[2] == "default":
    del parameters["session.set_denormal_as_zero"]
options = session_options(onnxruntime, {}, parameters)
halve = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
x = np.full(1 << 20, 1e-40, np.float32)  # large enough to be shared out among the threads

def show():
    print(int(np.count_nonzero(halve.run(None, {"x": x})[0].view(np.uint32))))

show()
thread = threading.Thread(target=show)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("n_threads", ["1", "2"])
@pytest.mark.parametrize(("setting", "n_left"), [("default", 0), ("0", 1 << 20)])
def test_denormal_numbers_are_flushed_to_zero(backend: Any, n_threads: str, setting: str, n_left: int) -> None:
    """In a process of its own, as a model's is: onnxruntime sets the processor's flag with the first session."""
    folder = Path(backend.session.__file__).parent
    ran = subprocess.run(
        [sys.executable, "-c", HALVE, n_threads, setting],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout.split() == [str(n_left)] * 2, ran.stderr
