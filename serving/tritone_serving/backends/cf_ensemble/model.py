"""Triton's `cf_ensemble` backend, which recommends items from the artifact in the version folder.

All requests of an execute call are scored together, while `taste_vae` and `taste_sequence` run as separate models. Ids
and histories are never logged; error messages that contain them go only to the sender of the request. A user's stored
data is used only for authorised callers, see `tritone_serving.security.callers`.

Triton's stub loads this file as a top-level module named `model`, and the modules next to it by their own names.
Scoring is done by `tritone_serving.recommender`, which offline evaluation uses too.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
import tritone_cf_package

tritone_cf_package.make_importable()
# Triton loads this backend through a link. The onnxruntime backend, which shares code, is next to the link's target.
sys.path.append(str(Path(__file__).resolve().parent.parent / "onnxruntime"))

# ruff: noqa: E402  - the imports below need the changes to sys.path above
from tritone_cf_events import make_event_reader
from tritone_cf_inputs import AnyRequest, read_requests
from tritone_cf_loading import LoadError, load, make_remote_encoder, make_remote_models, scoring_description
from tritone_cf_metrics import FALLBACKS, Coverage, MetricCounts, Reporter
from tritone_cf_outputs import (
    NOT_RECOMMENDED,
    OutputRow,
    OutputTensors,
    repeated_value,
    row_of,
    row_of_playlist,
    row_of_search,
    row_of_similar,
    row_of_text,
)
from tritone_cf_remote import fetch_scores
from tritone_cf_similar import SimilarItemFinder, SimilarRequest
from tritone_ort_marks import is_health_check

from tritone_serving.recommender import (
    TASTE,
    Caller,
    CallerCheck,
    InvalidRequestError,
    PlaylistRequest,
    RecommendRequest,
    RecommendResponse,
    SearchRequest,
    TextRequest,
    TextResponse,
)
from tritone_serving.recommender.artifact import EMBEDDING_MODEL
from tritone_serving.recommender.embedding_weights import EmbeddingWeights
from tritone_serving.recommender.exceptions import cut
from tritone_serving.recommender.recent_events import RecentEvents
from tritone_serving.security.callers import read_parameters

# A folder that `tritone serve` makes for each server and removes with it.
_FOLDER = Path(os.environ["TRITONE_STOP_FILE"]).parent if "TRITONE_STOP_FILE" in os.environ else None


class TritonPythonModel:
    """One instance of a model; Triton calls each instance from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the artifact and run one request, so that the first real request is not slower."""
        config = json.loads(args["model_config"])
        self._counts = MetricCounts()
        self._is_counting = False
        self._callers = CallerCheck.from_environment(
            lambda text: pb_utils.Logger.log_warn(f"cf_ensemble: {args['model_name']}: {text}")
        )
        try:
            self._recommender = load(
                Path(args["model_repository"]) / args["model_version"], config, on_base_model=self._count_base_model
            )
        except LoadError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        pb_utils.Logger.log_info(f"cf_ensemble: {args['model_name']}: {scoring_description(self._recommender, config)}")
        self._similar = SimilarItemFinder(self._recommender)
        self._embeddings = EmbeddingWeights(
            Path(args["model_repository"]).parent, self._recommender.artifact.manifest.get(EMBEDDING_MODEL)
        )
        if not self._embeddings.fits:
            pb_utils.Logger.log_warn(
                f"cf_ensemble: {args['model_name']}: recordings are ignored: the genre_cnn of this repository did not "
                f"embed the recommender's items; see `tritone lint`"
            )
        self._remotes = make_remote_models(self._recommender, config, pb_utils)
        try:
            self._encoder = make_remote_encoder(self._recommender, config, pb_utils)
        except LoadError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        self._events = make_event_reader(pb_utils, args["model_name"])
        self._tensors = OutputTensors(self._recommender)
        self._repeated: dict[tuple[str, str | bytes], Any] = {}
        self._outputs = [output["name"] for output in config["output"]]
        self._recommender.recommend([RecommendRequest(history=self._recommender.item_ids[:2])])
        # Built at load, so that the first search and the first playlist are not slower.
        catalogue = self._recommender.catalogue
        _ = catalogue.track_search, catalogue.text_search, self._recommender.playlist_maker
        index_of: Callable[[str], Any] = self._recommender.resolver.item  # never None for a recommended item
        self._coverage = Coverage(
            tuple(self._recommender.artifact.manifest["ensembles"]),
            self._recommender.artifact.n_items,
            index_of,
            _FOLDER and _FOLDER / f"coverage-{args['model_name']}-{args['model_version']}",
        )
        labels = {"model": args["model_name"], "version": args["model_version"]}
        try:
            self._reporter: Reporter | None = Reporter(pb_utils, self._counts, self._coverage, labels)
        except pb_utils.TritonModelException as error:
            pb_utils.Logger.log_warn(f"cf_ensemble: no metrics: {error}")
            self._reporter = None

    def execute(self, requests: list[Any]) -> list[Any]:
        """Process the requests of one call; each row of a request is one query, and all are scored together."""
        checks = [is_health_check(request) for request in requests]
        if not any(checks):
            return self._execute(requests)
        answers = iter(self._execute([each for each, is_check in zip(requests, checks, strict=True) if not is_check]))
        return [pb_utils.InferenceResponse(output_tensors=[]) if is_check else next(answers) for is_check in checks]

    def _execute(self, requests: list[Any]) -> list[Any]:
        if not requests:
            return []
        began_s = time.perf_counter()
        senders = self._senders(requests)
        read = [self._read(request, caller) for request, (caller, _) in zip(requests, senders, strict=True)]
        # Requests marked as canaries are answered like any other, but metrics count only traffic.
        is_traffic = [not is_canary for _, is_canary in senders]
        self._is_counting = any(is_traffic)
        asked = [query for queries in read if not isinstance(queries, InvalidRequestError) for query in queries]
        answered = iter(self._answer(asked))
        responses = []
        for request, queries, is_counted in zip(requests, read, is_traffic, strict=True):
            self._is_counting = is_counted
            if isinstance(queries, InvalidRequestError):
                self._count("refused_total")
                responses.append(_refusal(queries))
            else:
                responses.append(self._response(request, [next(answered) for _ in queries]))
        self._is_counting = any(is_traffic)
        self._count("calls_total")
        self._count("seconds_total", time.perf_counter() - began_s)
        return responses

    def finalize(self) -> None:
        """Report the last counts and stop the threads."""
        self._repeated.clear()  # while the server's shared memory exists
        if self._reporter is not None:
            self._reporter.close()
        for remote in self._remotes:
            remote.close()
        if self._events is not None:
            self._events.close()

    def _senders(self, requests: list[Any]) -> list[tuple[Caller, bool]]:
        """Return the caller of each request and whether it is a canary; equal parameters are checked once."""
        known: dict[str, tuple[Caller, bool]] = {}
        senders = []
        for request in requests:
            text = _parameters(request)
            if text not in known:
                parameters = read_parameters(text)
                known[text] = self._callers.caller(parameters), parameters.is_canary
            senders.append(known[text])
        return senders

    def _read(self, request: Any, caller: Caller) -> list[AnyRequest] | InvalidRequestError:
        try:
            tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            return read_requests(
                tensors,
                caller,
                embeddings_fit=lambda: self._embeddings.fits,
                titles=self._recommender.catalogue.title_resolver() if "resolve" in tensors else None,
            )
        except InvalidRequestError as error:
            return error
        except Exception as error:  # a shape not checked by Triton must not fail the other requests of the call
            return InvalidRequestError(f"the inputs' shapes and data do not fit each other ({type(error).__name__})")

    def _answer(self, asked: list[AnyRequest]) -> list[OutputRow | Exception]:
        queries = [query for query in asked if isinstance(query, RecommendRequest)]
        try:
            recommended: Iterator[RecommendResponse | Exception] = iter(self._recommend(queries))
        except Exception:
            recommended = iter(self._one_by_one(queries))
        described = iter(self._search([query for query in asked if isinstance(query, TextRequest)]))
        rows: list[OutputRow | Exception] = []
        for query in asked:
            if isinstance(query, RecommendRequest):
                answer = next(recommended)
                rows.append(row_of(answer) if isinstance(answer, RecommendResponse) else answer)
            elif isinstance(query, TextRequest):
                found = next(described)
                rows.append(row_of_text(found) if isinstance(found, TextResponse) else found)
            else:
                rows.append(self._looked_up(query))
        return rows

    def _recommend(self, queries: list[RecommendRequest]) -> list[RecommendResponse | InvalidRequestError]:
        if not queries:
            return []
        resolved = self._recommender.resolve(queries, recent=self._recent_events(queries))
        inputs = self._recommender.needed_remote_inputs(resolved)
        calls = [(remote, inputs[remote.base_model]) for remote in self._remotes if remote.base_model in inputs]
        if not calls:
            return self._recommender.respond(resolved)
        fetched = fetch_scores(calls, lambda: self._recommender.score_local(resolved))
        for name, scores in fetched.remote.items():
            if scores is None:
                self._count(FALLBACKS.get(name, FALLBACKS[TASTE]))
            else:
                self._count_base_model(name, fetched.waited_s[name])
        return self._recommender.respond(resolved, remote_scores=fetched.remote, local=fetched.local)

    def _recent_events(self, queries: list[RecommendRequest]) -> RecentEvents | None:
        if self._events is None:
            return None
        recent = self._events.read([self._recommender.resolver.pseudonym_of(each) for each in queries])
        if not recent.is_available:
            self._count("event_fallbacks_total")
        return recent

    def _one_by_one(self, queries: list[RecommendRequest]) -> list[RecommendResponse | Exception]:
        """Process queries one by one after an internal error, so that only the query that causes it fails."""
        answers: list[RecommendResponse | Exception] = []
        for query in queries:
            try:
                resolved = self._recommender.resolve([query], recent=self._recent_events([query]))
                answers += self._recommender.respond(resolved)
            except Exception as error:
                # The message is not logged, because it may contain ids.
                where = traceback.extract_tb(error.__traceback__)[-1]
                pb_utils.Logger.log_error(f"cf_ensemble: {type(error).__name__} at {where.filename}:{where.lineno}")
                answers.append(error)
        return answers

    def _search(self, queries: list[TextRequest]) -> list[TextResponse | InvalidRequestError]:
        """Search by descriptions, which are embedded together."""
        answers: list[TextResponse | InvalidRequestError | None] = [None] * len(queries)
        for index, query in enumerate(queries):
            try:
                query.check()
            except InvalidRequestError as error:
                answers[index] = error
        valid = [index for index, answer in enumerate(answers) if answer is None]
        embeddings = None
        if valid and self._encoder is not None:
            embeddings = self._encoder.embed([queries[index].text for index in valid])
            if embeddings is None:
                self._count("text_fallbacks_total", len(valid))
        for row, index in enumerate(valid):
            try:
                found = self._recommender.catalogue.text_search.search(
                    queries[index], None if embeddings is None else embeddings[row]
                )
            except InvalidRequestError as error:
                answers[index] = error
            else:
                answers[index] = found
        return [answer for answer in answers if answer is not None]

    def _looked_up(self, query: SimilarRequest | SearchRequest | PlaylistRequest) -> OutputRow | InvalidRequestError:
        try:
            if isinstance(query, SearchRequest):
                return row_of_search(self._recommender.catalogue.search(query))
            if isinstance(query, PlaylistRequest):
                recent = None if query.listener.user is None else self._recent_events([query.listener])
                return row_of_playlist(self._recommender.playlist(query, recent=recent))
            return row_of_similar(self._similar.similar(query))
        except InvalidRequestError as error:
            return error

    def _response(self, request: Any, answers: list[OutputRow | Exception]) -> Any:
        rows = []
        for answer in answers:
            if isinstance(answer, OutputRow):
                self._count("answers_total", source=answer.source, arm=answer.arm)
                if self._is_counting and answer.source not in NOT_RECOMMENDED:
                    self._coverage.add(answer.arm, answer.items)
        for index, answer in enumerate(answers):
            if isinstance(answer, Exception):
                self._count("refused_total")
                if not isinstance(answer, InvalidRequestError):
                    pb_utils.Logger.log_error(
                        f"cf_ensemble: [request id: {request.request_id()}] failed at row {index}"
                    )
                return _refusal(answer, f"row {index}: " if len(answers) > 1 else "")
            rows.append(answer)
        wanted = request.requested_output_names() or self._outputs
        return pb_utils.InferenceResponse(output_tensors=[self._tensor(name, rows) for name in wanted])

    def _tensor(self, name: str, rows: list[OutputRow]) -> Any:
        """Return an output tensor; those of values that most responses have are made once."""
        value = repeated_value(name, rows)
        if value is None:
            return pb_utils.Tensor(name, self._tensors.make(name, rows))
        if (name, value) not in self._repeated:
            self._repeated[name, value] = pb_utils.Tensor(name, self._tensors.make(name, rows))
        return self._repeated[name, value]

    def _count_base_model(self, base_model: str, seconds: float) -> None:
        self._count("base_model_seconds_total", seconds, base_model=base_model)
        self._count("base_model_calls_total", base_model=base_model)

    def _count(self, name: str, amount: float = 1, **labels: str) -> None:
        if self._is_counting:
            self._counts.add(name, amount, **labels)


def _parameters(request: Any) -> str:
    """Return the parameters as JSON, empty if they cannot be read."""
    try:
        text: str = request.parameters()
    except UnicodeDecodeError:  # a header that is not UTF-8 must not fail the other requests of the call
        return ""
    return text


def _refusal(error: Exception, row: str = "") -> Any:
    if isinstance(error, InvalidRequestError):
        text, code = f"{row}{error}", pb_utils.TritonError.INVALID_ARG
    else:
        text = f"{row}the recommender failed ({type(error).__name__}); see the server's log"
        code = pb_utils.TritonError.INTERNAL
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(cut(text), code))
