"""Scoring and explanation of recommendations, used by the `cf_ensemble` backend and by offline evaluation.

Depends on NumPy and SciPy only. From the rest of `tritone_serving` it imports modules that need nothing but the
standard library (`events`, `ids`, `security.callers`), so that the backend can load it without Tritone's other
dependencies.
"""

from tritone_serving.recommender.artifact import Artifact, open_artifact
from tritone_serving.recommender.artifact_writing import write_artifact
from tritone_serving.recommender.base_models.remote import RemoteInputs
from tritone_serving.recommender.exceptions import ArtifactError, InvalidRequestError, KeyFileError, RecommenderError
from tritone_serving.recommender.moods import MOODS, AppliedMood
from tritone_serving.recommender.playlists import PlaylistRequest, PlaylistResponse
from tritone_serving.recommender.pseudonyms import make_key, pseudonym, read_key
from tritone_serving.recommender.recommender import Recommender
from tritone_serving.recommender.remote_kinds import TASTE, TASTE_SEQUENCE
from tritone_serving.recommender.requests import (
    SOURCES,
    RecommendRequest,
    RecommendResponse,
    ScoreReason,
    Source,
    UnknownInputs,
)
from tritone_serving.recommender.scorer import LocalScores, RemoteScores, ResolvedRequests
from tritone_serving.recommender.similarity import SimilarItem
from tritone_serving.recommender.text_search import TextRequest, TextResponse
from tritone_serving.recommender.track_search import SearchHit, SearchRequest, SearchResponse
from tritone_serving.security.callers import NOBODY, TRUSTED, Caller, CallerCheck

__all__ = [
    "MOODS",
    "NOBODY",
    "SOURCES",
    "TASTE",
    "TASTE_SEQUENCE",
    "TRUSTED",
    "AppliedMood",
    "Artifact",
    "ArtifactError",
    "Caller",
    "CallerCheck",
    "InvalidRequestError",
    "KeyFileError",
    "LocalScores",
    "PlaylistRequest",
    "PlaylistResponse",
    "RecommendRequest",
    "RecommendResponse",
    "Recommender",
    "RecommenderError",
    "RemoteInputs",
    "RemoteScores",
    "ResolvedRequests",
    "ScoreReason",
    "SearchHit",
    "SearchRequest",
    "SearchResponse",
    "SimilarItem",
    "Source",
    "TextRequest",
    "TextResponse",
    "UnknownInputs",
    "make_key",
    "open_artifact",
    "pseudonym",
    "read_key",
    "write_artifact",
]
