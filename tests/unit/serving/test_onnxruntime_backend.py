from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest


class Tensor:
    def __init__(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self._array


class Request:
    def __init__(self, *wanted: str, **arrays: np.ndarray[Any, Any]) -> None:
        self._wanted, self._arrays = wanted, arrays

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, array) for name, array in self._arrays.items()]

    def requested_output_names(self) -> list[str]:
        return list(self._wanted)


class Session:
    """Doubles `x`; refuses negative values; remembers each run's batch and memory."""

    def __init__(self) -> None:
        self.feeds: list[dict[str, np.ndarray[Any, Any]]] = []
        self.asked: list[list[str]] = []

    def run(self, names: list[str], feed: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        self.feeds.append(dict(feed))
        self.asked.append(names)
        if (feed["x"] < 0).any():
            raise RuntimeError("negative\nvalue")
        outputs = {"double": feed["x"] * 2, "half": feed["x"] / 2}
        return [outputs[name] for name in names]


def contract(backend: Any, *, batched: bool = True) -> Any:
    spec = backend.contract.Spec("x", np.float32, (None, None))
    return backend.contract.Contract((spec,), ("double", "half"), batched)


def rows(n_rows: int, n_columns: int = 3, value: float = 1.0) -> np.ndarray[Any, Any]:
    return np.full((n_rows, n_columns), value, np.float32)


def answers(backend: Any, session: Session, *requests: Request) -> list[Any]:
    rules = contract(backend)
    joint = backend.batching.JointRun(session, rules)
    ready = [backend.batching.read_request(index, request, rules) for index, request in enumerate(requests)]
    found: dict[int, Any] = {}
    for group in backend.batching.group_requests(ready, rules):
        found |= {member.index: outcome for member, outcome in zip(group, joint.run(group), strict=True)}
    return [found[index] for index in range(len(requests))]


def test_one_request_runs_on_its_own_memory(backend: Any) -> None:
    session, array = Session(), rows(2)
    answers(backend, session, Request(x=array))
    assert session.feeds[0]["x"] is array


def test_equal_shapes_run_once_and_are_split(backend: Any) -> None:
    session = Session()
    got = answers(backend, session, Request(x=rows(1, value=1)), Request("half", x=rows(3, value=2)))
    assert len(session.feeds) == 1
    assert session.feeds[0]["x"].shape == (4, 3)
    assert set(got[0]) == {"double", "half"}
    assert set(got[1]) == {"half"}
    np.testing.assert_array_equal(got[0]["double"], rows(1, value=2))
    np.testing.assert_array_equal(got[1]["half"], rows(3, value=1))
    assert got[1]["half"].base is not None  # a view of the joint output


def test_only_outputs_that_somebody_wants_are_computed(backend: Any) -> None:
    session = Session()
    answers(backend, session, Request("half", x=rows(1)), Request("half", x=rows(1)))
    assert session.asked == [["half"]]


def test_different_shapes_run_apart(backend: Any) -> None:
    session = Session()
    answers(backend, session, Request(x=rows(1, 3)), Request(x=rows(1, 4)), Request(x=rows(2, 3)))
    assert [feed["x"].shape for feed in session.feeds] == [(3, 3), (1, 4)]


def test_joined_memory_is_reused(backend: Any) -> None:
    session, rules = Session(), contract(backend)
    joint = backend.batching.JointRun(session, rules)
    for n_rows in (4, 2, 3):
        ready = [backend.batching.read_request(index, Request(x=rows(n_rows)), rules) for index in range(2)]
        joint.run(ready)
    first, *later = (feed["x"] for feed in session.feeds)
    assert all(np.shares_memory(first, array) for array in later)


@pytest.mark.parametrize(("n_rows", "runs"), [(1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4]), (11, [4, 4, 3])])
def test_large_batches_run_in_parts(backend: Any, n_rows: int, runs: list[int]) -> None:
    session = Session()
    limited = backend.session.PartsSession(session, 4)
    values = np.arange(3.0 * n_rows, dtype=np.float32).reshape(n_rows, 3)
    double, half = limited.run(["double", "half"], {"x": values})
    assert [len(feed["x"]) for feed in session.feeds] == runs
    np.testing.assert_array_equal(double, values * 2)
    np.testing.assert_array_equal(half, values / 2)


def test_the_rows_of_a_run_are_a_parameter(backend: Any) -> None:
    def config(text: str, max_batch_size: int = 64) -> dict[str, Any]:
        return {"max_batch_size": max_batch_size, "parameters": {"max_rows_per_run": {"string_value": text}}}

    assert backend.session.max_rows_per_run({"max_batch_size": 64}) == 0
    assert backend.session.max_rows_per_run(config("8")) == 8
    for text in ("-1", "8.0", "many", "", "\u0663", "9" * 5_000):
        with pytest.raises(backend.session.SessionError, match=f"max_rows_per_run is '{text}'; expected a whole"):
            backend.session.max_rows_per_run(config(text))
    with pytest.raises(backend.session.SessionError, match="max_rows_per_run is 8, but the model has no batches"):
        backend.session.max_rows_per_run(config("8", max_batch_size=0))


def test_one_failure_does_not_spoil_the_others(backend: Any) -> None:
    session = Session()
    got = answers(backend, session, Request(x=rows(1)), Request(x=rows(1, value=-1)), Request(x=rows(2)))
    assert isinstance(got[1], backend.batching.Failed)
    assert str(got[1]) == "the model failed on this request: negative value"
    np.testing.assert_array_equal(got[0]["double"], rows(1, value=2))
    np.testing.assert_array_equal(got[2]["double"], rows(2, value=2))


@pytest.mark.parametrize(
    ("module", "text", "others", "is_refused"),
    [
        ("onnxruntime.capi", "indices element out of data bounds", True, True),
        ("onnxruntime.capi", "indices element out of data bounds", False, False),
        ("onnxruntime.capi", "Failed to allocate memory for requested buffer", True, False),
        ("builtins", "some fault of ours", True, False),
    ],
)
def test_who_is_to_blame_for_a_failed_run(backend: Any, module: str, text: str, others: bool, is_refused: bool) -> None:
    class Broken(Session):
        def run(self, names: list[str], feed: dict[str, Any]) -> list[Any]:
            if feed["x"].any() or not others:
                raise type("Raised", (Exception,), {"__module__": module})(text)
            return super().run(names, feed)

    got = answers(backend, Broken(), Request(x=rows(1, value=1)), Request(x=rows(1)))
    assert isinstance(got[0], backend.batching.Refused) is is_refused
    assert text in str(got[0])


def test_an_output_without_a_batch_is_refused_not_split(backend: Any) -> None:
    session = SimpleNamespace(run=lambda names, _feed: [np.zeros((), np.float32) for _ in names])
    got = answers(backend, session, Request(x=rows(1)), Request(x=rows(1)))  # type: ignore[arg-type]
    assert all("first axis must be the batch" in str(outcome) for outcome in got)


@pytest.mark.parametrize(
    ("request_", "part"),
    [
        (Request(), "input x is missing"),
        (Request(x=np.zeros(3, np.float32)), "expected shape [any, any], got [3]"),
        (Request(x=np.zeros((1, 3), np.float64)), "expected type float32, got float64"),
    ],
)
def test_what_does_not_fit_is_named(backend: Any, request_: Request, part: str) -> None:
    with pytest.raises(backend.batching.Failed) as caught:
        backend.batching.read_request(0, request_, contract(backend))
    assert part in str(caught.value)


def test_text_is_decoded_and_bad_bytes_are_named(backend: Any) -> None:
    spec = backend.contract.Spec("x", np.object_, (None,))
    rules = backend.contract.Contract((spec,), ("y",), True)
    ready = backend.batching.read_request(0, Request(x=np.array(["é".encode()], np.object_)), rules)
    assert ready.feed["x"].tolist() == ["é"]
    with pytest.raises(backend.batching.Failed, match="not UTF-8"):
        backend.batching.read_request(0, Request(x=np.array([b"\xff"], np.object_)), rules)


def test_options_have_the_native_backends_meaning(backend: Any) -> None:
    parameters = {
        "intra_op_thread_count": "3",
        "inter_op_thread_count": "2",
        "execution_mode": "1",
        "enable_mem_arena": "0",
        "enable_mem_pattern": "false",
        "session.intra_op.allow_spinning": "1",
    }
    options = backend.session.session_options(onnxruntime, {"optimization": {"graph": {"level": -1}}}, parameters)
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 2
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"


def test_defaults_are_all_cores_all_optimizations_and_no_spinning(backend: Any) -> None:
    options = backend.session.session_options(onnxruntime, {}, {})
    assert options.intra_op_num_threads == 0
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("config", "parameters", "part"),
    [
        ({}, {"intra_op_thread_count": "-1"}, "intra_op_thread_count is '-1'"),
        ({}, {"execution_mode": "2"}, "execution_mode is '2'; expected a whole number from 0 to 1"),
        ({}, {"enable_mem_arena": "maybe"}, "enable_mem_arena is 'maybe'"),
        ({"optimization": {"graph": {"level": 7}}}, {}, "level is 7"),
    ],
)
def test_a_wrong_option_is_named(backend: Any, config: dict[str, Any], parameters: dict[str, str], part: str) -> None:
    with pytest.raises(backend.session.SessionError, match=part):
        backend.session.session_options(onnxruntime, config, parameters)


def test_cuda_options(backend: Any) -> None:
    accelerator = {"name": "cuda", "parameters": {"use_ep_level_unified_stream": "1"}}
    config = {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}}
    assert backend.session.cuda_options({}, {}, 1) == {"device_id": "1", "cudnn_conv_algo_search": "HEURISTIC"}
    assert backend.session.cuda_options(config, {"cudnn_conv_algo_search": "0", "arena_extend_strategy": "1"}, 0) == {
        "device_id": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "arena_extend_strategy": "kSameAsRequested",
        "use_ep_level_unified_stream": "1",
    }


def test_a_gpu_without_its_provider_names_the_package(backend: Any, tmp_path: Path) -> None:
    if backend.session.CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(backend.session.SessionError, match=r"pip install 'tritone\[serve-gpu\]'"):
        backend.session.open_session(str(tmp_path / "model.onnx"), {}, instance_kind="GPU", device_id=0)


def node(name: str, type_: str = "tensor(float)", shape: tuple[int | str, ...] = ("batch", 3)) -> Any:
    return SimpleNamespace(name=name, type=type_, shape=list(shape))


def stated(name: str, dtype: str = "TYPE_FP32", dims: tuple[int, ...] = (3,), **more: Any) -> dict[str, Any]:
    return {"name": name, "data_type": dtype, "dims": [str(size) for size in dims], **more}


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        (stated("y"), r"no input y \(it has x\); the config lacks input x"),
        (stated("x", "TYPE_INT64"), "TYPE_INT64 in the config and TYPE_FP32 in the model"),
        (stated("x", dims=(4,)), r"\[any, 4\] in the config \(batch first\) and \[any, 3\] in the model"),
        (stated("x", dims=(-1,)), r"\[any, any\] in the config"),
        (stated("x", dims=(3, 1)), r"\[any, 3, 1\] in the config"),
        (stated("x"), None),
        (stated("x", dims=(1, 3), reshape={"shape": ["3"]}), None),
    ],
)
def test_config_and_model_must_agree(backend: Any, tensor: dict[str, Any], part: str | None) -> None:
    session = SimpleNamespace(
        get_inputs=lambda: [node("x")],
        get_outputs=lambda: [node("z"), node("unused")],
        get_overridable_initializers=list,
    )
    config = {"max_batch_size": 8, "input": [tensor], "output": [stated("z")]}
    if part is None:
        assert backend.contract.read_contract(config, session, "m.onnx").outputs == ("z",)
        return
    with pytest.raises(backend.session.SessionError, match=part):
        backend.contract.read_contract(config, session, "m.onnx")


def test_a_fixed_batch_is_named(backend: Any) -> None:
    fixed = SimpleNamespace(
        get_inputs=lambda: [node("x", shape=(1, 3))],
        get_outputs=lambda: [node("z")],
        get_overridable_initializers=list,
    )
    config = {"max_batch_size": 8, "input": [stated("x")], "output": [stated("z")]}
    with pytest.raises(backend.session.SessionError, match="fixed batch of 1"):
        backend.contract.read_contract(config, fixed, "m.onnx")


@pytest.mark.parametrize("name", ["../model.onnx", "/model.onnx", "a/../../model.onnx"])
def test_a_config_names_no_file_outside_its_version(backend: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    (tmp_path / "1").mkdir()
    with pytest.raises(backend.session.SessionError, match="inside the version's folder"):
        backend.session.model_file(str(tmp_path / "1"), {"default_model_filename": name})
