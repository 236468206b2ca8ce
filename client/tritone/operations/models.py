"""The models that the server has loaded, all or one of them."""

from __future__ import annotations

from typing import cast

from tritone.constants import CANDIDATE_SUFFIX
from tritone.exceptions import ModelNotFoundError, RequestRejectedError
from tritone.messages import Flow, ModelStatistics, ReadyRequest, ReadyResponse, StatisticsRequest, StatisticsResponse
from tritone.results.model_info import ModelInfo


def models_flow() -> Flow[tuple[ModelInfo, ...]]:
    """List the loaded models; see `MusicClient.models`."""
    loaded: dict[str, list[ModelStatistics]] = {}
    for each in cast(StatisticsResponse, (yield StatisticsRequest())).models:
        if not each.model.endswith(CANDIDATE_SUFFIX):
            loaded.setdefault(each.model, []).append(each)
    found = []
    for name in sorted(loaded):
        ready = cast(ReadyResponse, (yield ReadyRequest(name))).ready
        found.append(_info(name, loaded[name], ready=ready))
    return tuple(found)


def model_info_flow(model: str) -> Flow[ModelInfo]:
    """Return the state of one model; see `MusicClient.model_info`."""
    try:
        versions = cast(StatisticsResponse, (yield StatisticsRequest(model))).models
    except RequestRejectedError as error:  # the name is all that the request has
        raise ModelNotFoundError(
            f"the server has no model {model!r}; load it, or give another name", model=model
        ) from error
    ready = cast(ReadyResponse, (yield ReadyRequest(model))).ready
    return _info(model, list(versions), ready=ready)


def _info(name: str, versions: list[ModelStatistics], *, ready: bool) -> ModelInfo:
    times_s = [each.last_inference_s for each in versions if each.last_inference_s is not None]
    return ModelInfo(
        name=name,
        versions=tuple(sorted((each.version for each in versions), key=lambda version: (len(version), version))),
        ready=ready,
        n_inferences=sum(each.n_inferences for each in versions),
        n_failures=sum(each.n_failures for each in versions),
        last_inference_s=max(times_s, default=None),
    )
