"""Scores and explains recommendations; what the `cf_ensemble` backend and the offline evaluation both call.

NumPy and SciPy are all it needs. Of its parent package it imports only itself, `callers` and `ids`, which need the
standard library alone, so that a backend may load it where the rest of Tritone is not installed.
"""

from tritone_serving.recommender._exceptions import ArtifactError, KeyFileError, QuestionError, RecommenderError
from tritone_serving.recommender.artifact import Artifact, open_artifact, write_artifact
from tritone_serving.recommender.members.taste import TASTE, TasteInputs
from tritone_serving.recommender.pseudonyms import make_key, pseudonym, read_key
from tritone_serving.recommender.question import MOODS, SOURCES, Answer, Question, Reason, Source, Unknown
from tritone_serving.recommender.recommender import Recommender
from tritone_serving.recommender.scorer import AskTaste
from tritone_serving.recommender.similar import Similar
from tritone_serving.recommender.track_search import Found, Search, SearchAnswer
from tritone_serving.security.callers import NOBODY, TRUSTED, Caller, CallerCheck

__all__ = [
    "MOODS",
    "NOBODY",
    "SOURCES",
    "TASTE",
    "TRUSTED",
    "Answer",
    "Artifact",
    "ArtifactError",
    "AskTaste",
    "Caller",
    "CallerCheck",
    "Found",
    "KeyFileError",
    "Question",
    "QuestionError",
    "Reason",
    "Recommender",
    "RecommenderError",
    "Search",
    "SearchAnswer",
    "Similar",
    "Source",
    "TasteInputs",
    "Unknown",
    "make_key",
    "open_artifact",
    "pseudonym",
    "read_key",
    "write_artifact",
]
