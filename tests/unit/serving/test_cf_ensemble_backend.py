"""The parts of the `cf_ensemble` backend, in this process: what is read, asked and counted."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.support import recommender_artifacts as models

from tritone_serving.recommender import (
    NOBODY,
    InvalidRequestError,
    LocalScores,
    RecommendRequest,
    RemoteInputs,
    SearchRequest,
    SimilarItem,
)

Array = np.ndarray[Any, Any]


def texts(*rows: list[bytes]) -> Array:
    return np.array(rows, np.object_)


# --- questions ----------------------------------------------------------------------------------------------


def test_a_question_is_what_its_tensors_say(cf_ensemble: Any) -> None:
    tensors = {
        "user_id": texts(["Zoë".encode()]),
        "history": texts([b"a", b"b"]),
        "weights": np.array([[1, 2]], np.float32),
        "times": np.array([[30, 0]], np.int64),
        "skipped": texts([b"c"]),
        "friends": texts([b"f"]),
        "exclude": texts([b"d"]),
        "mood": texts([b"power"]),
        "k": np.array([[3]], np.int32),
        "filter_listened": np.array([[False]]),
        "explain": np.array([[True]]),
        "diversity": np.array([[0.5]], np.float32),
        "novelty": np.array([[0.25]], np.float32),
    }
    [request] = cf_ensemble.inputs.read_requests(tensors)
    assert request.weights.tolist() == [1, 2]
    assert request.times.tolist() == [30, 0]
    assert vars(request) == vars(
        RecommendRequest(
            user="Zoë",
            history=["a", "b"],
            weights=request.weights,
            times=request.times,
            skipped=["c"],
            friends=["f"],
            exclude=["d"],
            mood="power",
            k=3,
            filter_listened=False,
            explain=True,
            diversity=0.5,
            novelty=0.25,
            caller=NOBODY,
        )
    )


def test_what_is_left_out_has_the_librarys_defaults(cf_ensemble: Any) -> None:
    [request] = cf_ensemble.inputs.read_requests({"user_id": texts([b""])})
    assert vars(request) == vars(RecommendRequest(caller=NOBODY))


def test_filled_up_lists_lose_what_fills_them(cf_ensemble: Any) -> None:
    tensors = {
        "history": texts([b"a", b"", b"b"], [b"", b"", b""]),
        "weights": np.array([[1, 9, 2], [9, 9, 9]], np.float32),
        "times": np.array([[10, 99, 20], [9, 9, 9]], np.int64),
    }
    first, second = cf_ensemble.inputs.read_requests(tensors)
    assert (first.history, first.weights.tolist(), first.times.tolist()) == (["a", "b"], [1, 2], [10, 20])
    assert (second.history, second.weights.tolist(), second.times.tolist()) == ([], [], [])


def test_what_is_alike_is_another_question(cf_ensemble: Any) -> None:
    similarity = cf_ensemble.similar.SimilarRequest
    read = cf_ensemble.inputs.read_requests
    assert read({"similar_to": texts([b"a"])}) == [similarity("a", None, "both", 10)]
    [by_sound] = read({"by": texts([b"sound"]), "embedding": np.ones((1, 256), np.float32)})
    assert (by_sound.item, by_sound.by, by_sound.embedding.shape) == (None, "sound", (256,))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"history": texts([b"a", b"\xc3"])}, r"history\[1\] holds bytes that are not UTF-8"),
        ({"friends": texts([b"", b"\xff"])}, r"friends\[1\] holds"),
        ({"mood": texts([b"\xff"])}, "mood holds bytes"),
        ({"k": np.ones((2, 1), np.int32), "mood": texts([b"power"])}, "batch sizes differ"),
        ({"user_id": texts([b"a"], [b"\xff"])}, "row 1: user_id holds"),
        ({"history": texts([b"a"]), "weights": np.ones((1, 3), np.float32)}, "invalid weights: .*, got 3 for 1 ids"),
        ({"history": texts([b"a"]), "times": np.ones((1, 2), np.int64)}, "invalid times: .*, got 2 for 1 ids"),
        ({"times": np.ones((1, 2), np.int64)}, "invalid times: .*, got 2 for 0 ids"),
    ],
)
def test_what_cannot_be_read(cf_ensemble: Any, tensors: dict[str, Array], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        cf_ensemble.inputs.read_requests(tensors)


# --- answers ------------------------------------------------------------------------------------------------


def test_searches_are_read_and_answered(cf_ensemble: Any, tmp_path: Path) -> None:
    recommender = models.opened(models.make_artifact(tmp_path / "a", tmp_path / "k"), tmp_path / "k")
    tensors = {
        "query": texts(["Örtchen".encode()], [b""]),
        "query_field": texts([b"artist"], [b""]),
        "offset": np.array([[1], [0]], np.int32),
        "k": np.array([[3], [2]], np.int32),
    }
    search, request = cf_ensemble.inputs.read_requests(tensors)
    assert search == SearchRequest("Örtchen", "artist", 3, 1)
    assert isinstance(request, RecommendRequest)
    rows = [cf_ensemble.outputs.row_of_search(recommender.catalogue.search(search))]
    rows += [cf_ensemble.outputs.row_of(answer) for answer in recommender.recommend([request])]
    made = cf_ensemble.outputs.OutputTensors(recommender)
    assert made.make("item_ids", rows).tolist()[0] == [b"track-2", b"track-4", b"track-6"]
    assert made.make("match", rows).tolist() == [[b"words"] * 3, [b"", b"", b""]]
    assert made.make("match_field", rows).tolist()[0] == [b"artist"] * 3
    assert made.make("total", rows).tolist() == [[60], [0]]
    assert made.make("total", rows).dtype == np.int32


def test_the_total_of_all_rows_bounds_searches_too(cf_ensemble: Any) -> None:
    tensors = {"query": texts(*[[b"a"]] * 64), "k": np.full((64, 1), 10_000, np.int32)}
    with pytest.raises(
        InvalidRequestError, match=r"expected at most 100,000 items in all rows of a request, .*; send fewer rows"
    ):
        cf_ensemble.inputs.read_requests(tensors)


def test_embeddings_are_held_against_the_served_network_only_if_there_are_any(cf_ensemble: Any) -> None:
    asked: list[bool] = []

    def fits() -> bool:
        asked.append(True)
        return False

    read = cf_ensemble.inputs.read_requests
    assert read({"k": np.array([[1]], np.int32)}, embeddings_fit=fits)[0].embedding_fits
    assert not asked
    embedding = {"embedding": np.ones((1, 256), np.float32)}
    assert not read(embedding, embeddings_fit=fits)[0].embedding_fits
    assert not read({**embedding, "by": texts([b"sound"])}, embeddings_fit=fits)[0].embedding_fits


def test_rows_of_different_lengths_are_filled_up(cf_ensemble: Any, tmp_path: Path) -> None:
    recommender = models.opened(models.make_artifact(tmp_path / "a", tmp_path / "k"), tmp_path / "k")
    tensors = cf_ensemble.outputs.OutputTensors(recommender)
    [answer] = recommender.recommend([RecommendRequest(k=3, explain=True, friends=["?", models.user_id(1)])])
    rows = [
        cf_ensemble.outputs.row_of(answer),
        cf_ensemble.outputs.row_of_similar([SimilarItem("track-5", 0.5)]),
    ]
    assert tensors.make("item_ids", rows).tolist()[1] == [b"track-5", b"", b""]
    assert tensors.make("scores", rows).tolist()[1] == [0.5, 0, 0]
    assert tensors.make("scores", rows).dtype == np.float32
    assert tensors.make("titles", rows).tolist()[1] == [b"Song 5", b"", b""]
    assert tensors.make("source", rows).tolist() == [[b"friends"], [b"similar"]]
    assert tensors.make("unknown", rows).tolist()[0] == [
        b'{"user":false,"history":[],"skipped":[],"friends":["?"],"exclude":[],"mood":false,"audio":false,'
        b'"events":false}'
    ]
    assert all(text.startswith(b'[{"base_model":') for text in tensors.make("reasons", rows)[0])
    assert tensors.make("reasons", rows[1:]).tolist() == [[b""]]


# --- taste_vae ----------------------------------------------------------------------------------------------


class FakeTriton:
    """As much of pb_utils as asking another model takes."""

    TRITONSERVER_MEMORY_CPU = 0

    class TritonModelException(Exception):  # noqa: N818 - Triton's name
        pass

    def __init__(self, scores: Array | None = None, error: str = "", raises: str = "") -> None:
        self.asked: list[Any] = []
        self.release = threading.Event()
        self.release.set()

        def execute() -> Any:
            assert self.release.wait(5)
            if raises:
                raise self.TritonModelException(raises)
            return SimpleNamespace(
                has_error=lambda: bool(error), error=lambda: SimpleNamespace(message=lambda: error), scores=scores
            )

        self.logged: list[str] = []
        self.Logger = SimpleNamespace(log_warn=self.logged.append)
        self.Tensor = lambda name, array: (name, array)
        self.PreferredMemory = lambda kind: kind
        self.InferenceRequest = lambda **given: self.asked.append(given) or SimpleNamespace(exec=execute)
        self.get_output_tensor_by_name = lambda response, name: SimpleNamespace(as_numpy=lambda: response.scores)


INPUTS = RemoteInputs({"items": np.zeros((2, 1), np.int64), "weights": np.ones((2, 1), np.float32)})
LOCAL: Any = object()


def make_remote(cf_ensemble: Any, triton: FakeTriton, **given: Any) -> Any:
    return cf_ensemble.remote.RemoteModel(triton, "taste_vae", "taste_vae_model", 4, **given)


def test_local_base_models_are_scored_while_the_remote_one_runs(cf_ensemble: Any) -> None:
    triton = FakeTriton(np.ones((2, 4), np.float32))
    triton.release.clear()
    remote = make_remote(cf_ensemble, triton)

    def score_local() -> LocalScores:
        triton.release.set()  # the remote model answers only now: if it had to be first, it would time out
        return LOCAL

    fetched = cf_ensemble.remote.fetch_scores([(remote, INPUTS)], score_local)
    assert fetched.remote["taste_vae"].shape == (2, 4)
    assert fetched.local is LOCAL
    assert fetched.waited_s["taste_vae"] >= 0
    assert triton.asked[0]["model_name"] == "taste_vae_model"
    remote.close()


def test_errors_of_local_base_models_are_raised(cf_ensemble: Any) -> None:
    def fail() -> LocalScores:
        raise ZeroDivisionError

    for triton in (FakeTriton(np.ones((2, 4), np.float32)), FakeTriton(raises="gone")):
        remote = make_remote(cf_ensemble, triton)
        with pytest.raises(ZeroDivisionError):
            cf_ensemble.remote.fetch_scores([(remote, INPUTS)], fail)
        remote.close()


@pytest.mark.parametrize(
    ("triton", "reason"),
    [
        (FakeTriton(error="no such model"), "no such model"),
        (FakeTriton(raises="gone"), "gone"),
        (FakeTriton(np.ones((2, 5), np.float32)), "expected shape (2, 4), got (2, 5)"),
        (FakeTriton(np.full((2, 4), np.nan, np.float32)), "NaN"),
    ],
)
def test_a_failure_of_the_remote_model_is_logged_and_opens_the_circuit_breaker(
    cf_ensemble: Any, triton: FakeTriton, reason: str
) -> None:
    now = [100.0]
    remote = make_remote(cf_ensemble, triton, clock=lambda: now[0])
    for n_calls in (1, 1, 2):  # the second fetch meets an open circuit breaker, the third a closed one
        fetched = cf_ensemble.remote.fetch_scores([(remote, INPUTS)], lambda: LOCAL)
        assert fetched.remote == {"taste_vae": None}
        assert fetched.local is LOCAL
        assert len(triton.asked) == len(triton.logged) == n_calls
        now[0] += cf_ensemble.remote.PAUSE_S / 2
    assert reason in triton.logged[0]
    remote.close()


def test_remote_base_models_run_at_once_and_fail_alone(cf_ensemble: Any) -> None:
    both = threading.Barrier(2, timeout=10)  # each answers only when the other was called too
    good, bad = FakeTriton(np.ones((2, 4), np.float32)), FakeTriton(error="gone")
    for triton in (good, bad):
        triton.release = SimpleNamespace(wait=lambda timeout: both.wait() >= 0)
    first = make_remote(cf_ensemble, good)
    second = cf_ensemble.remote.RemoteModel(bad, "taste_sequence", "taste_sequence", 4)
    fetched = cf_ensemble.remote.fetch_scores([(first, INPUTS), (second, INPUTS)], lambda: LOCAL)
    assert fetched.remote["taste_vae"].shape == (2, 4)
    assert fetched.remote["taste_sequence"] is None
    assert fetched.waited_s.keys() == {"taste_vae"}
    # Only the breaker of the one that failed is open.
    assert (first.send(INPUTS) is None, second.send(INPUTS) is None) == (False, True)
    first.close()
    second.close()


def test_a_late_response_is_not_waited_for(cf_ensemble: Any) -> None:
    triton, now = FakeTriton(np.ones((2, 4), np.float32)), [100.0]
    triton.release.clear()
    remote = make_remote(cf_ensemble, triton, timeout_s=0.05, clock=lambda: now[0])
    began_s = time.perf_counter()
    assert cf_ensemble.remote.fetch_scores([(remote, INPUTS)], lambda: LOCAL).remote == {"taste_vae": None}
    assert time.perf_counter() - began_s < 5
    assert "no response within 0.05 s" in triton.logged[0]
    now[0] += 2 * cf_ensemble.remote.PAUSE_S  # the breaker is closed, but the call has not returned
    assert remote.send(INPUTS) is None
    triton.release.set()
    while not remote._late.done():
        time.sleep(0.01)
    assert cf_ensemble.remote.fetch_scores([(remote, INPUTS)], lambda: LOCAL).remote["taste_vae"] is not None
    remote.close()


# --- metrics ------------------------------------------------------------------------------------------------


class FakeMetrics:
    """As much of pb_utils as metrics take; `told` is what Prometheus would see."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str], float] = {}
        self.messages = 0
        outer = self

        class Family:
            COUNTER, GAUGE = "counter", "gauge"

            def __init__(self, name: str, description: str, kind: str) -> None:
                self.name = name

            def Metric(self, labels: dict[str, str]) -> Any:  # noqa: N802 - Triton's name
                key = (self.name, ",".join(f"{name}={labels[name]}" for name in sorted(labels)))

                def tell(value: float, *, add: bool) -> None:
                    outer.messages += 1
                    outer.told[key] = value + (outer.told.get(key, 0) if add else 0)

                return SimpleNamespace(increment=lambda v: tell(v, add=True), set=lambda v: tell(v, add=False))

        self.MetricFamily = Family


def test_what_is_counted_is_told_in_few_messages_and_to_the_last(cf_ensemble: Any) -> None:
    triton, metrics = FakeMetrics(), cf_ensemble.metrics
    counts = metrics.MetricCounts()
    coverage = metrics.Coverage(("a", "b"), 4, int, None)
    reporter = metrics.Reporter(triton, counts, coverage, {"model": "m"})
    for _ in range(1000):
        counts.add("answers_total", source="user", arm="a")
    coverage.add("a", ["0", "1"])
    coverage.add("a", ["1", "2"])
    counts.add("seconds_total", 0.25)
    reporter.close()
    assert triton.told["tritone_recommender_answers_total", "arm=a,model=m,source=user"] == 1000
    assert triton.told["tritone_recommender_seconds_total", "model=m"] == 0.25
    assert triton.told["tritone_recommender_catalogue_coverage", "arm=a,model=m"] == 0.75
    assert triton.told["tritone_recommender_catalogue_coverage", "arm=b,model=m"] == 0
    assert triton.messages < 20


def test_instances_share_what_they_covered(cf_ensemble: Any, tmp_path: Path) -> None:
    shared = tmp_path / "coverage"
    one, other = (cf_ensemble.metrics.Coverage(("a",), 10, int, shared) for _ in range(2))
    one.add("a", ["1", "2"])
    other.add("a", ["2", "3"])
    assert other.take() == {"a": 0.3}
    assert other.take() == {}


def test_the_thread_sleeps_while_nothing_is_counted(cf_ensemble: Any) -> None:
    triton, metrics = FakeMetrics(), cf_ensemble.metrics
    counts = metrics.MetricCounts()
    reporter = metrics.Reporter(triton, counts, metrics.Coverage(("a",), 1, int, None), {})
    counts.add("calls_total")
    time.sleep(3 * metrics.PERIOD_S)
    settled = triton.messages
    time.sleep(2 * metrics.PERIOD_S)
    assert triton.messages == settled
    assert triton.told["tritone_recommender_calls_total", ""] == 1
    reporter.close()
