"""Loading of a version's artifact and key, with the parameters in config.pbtxt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tritone_cf_encoder import RemoteEncoder
from tritone_cf_remote import TIMEOUT_S, RemoteModel

from tritone_serving.recommender import Recommender, RecommenderError, read_key
from tritone_serving.recommender.artifact import read_manifest
from tritone_serving.recommender.candidates import MAX_PER_MODEL, MIN_PER_MODEL, CandidateSettings
from tritone_serving.recommender.exceptions import shown
from tritone_serving.recommender.memory import keep_freed_memory
from tritone_serving.recommender.pseudonyms import KEY_VARIABLE, find_key
from tritone_serving.recommender.remote_kinds import REMOTE_KINDS
from tritone_serving.recommender.requests import MIN_FRIENDS
from tritone_serving.recommender.text_search import TEXT_ENCODER, VOCABULARY

KEY_PARAMETER = "key_file"
ENCODER_PARAMETER = "text_encoder_model"
MIN_PARAMETER = "min_friends"
CANDIDATES_PARAMETER = "candidates_min_items"
PER_MODEL_PARAMETER = "candidates_per_model"
_LARGEST_TIMEOUT_MS = 60_000
_LARGEST_MIN_FRIENDS = 1_000
NEVER = "never"
MOST_ITEMS = 2**31 - 1
_MOST_DIGITS = 10


class LoadError(Exception):
    """Raised when the model cannot be loaded."""


def load(folder: Path, config: dict[str, Any], *, on_base_model: Callable[[str, float], None]) -> Recommender:
    """Open the artifact with its key.

    Args:
        folder: the version folder.
        config: the model's configuration as passed by Triton.
        on_base_model: as in `Recommender.open`.

    Raises:
        LoadError: the artifact or its key is missing or damaged, or they do not belong together.
    """
    keep_freed_memory()
    if config.get("response_cache", {}).get("enable"):
        raise LoadError(
            "response_cache is enabled: it identifies requests by their inputs only and would return one caller's "
            "response to another; remove it from the config"
        )
    try:
        check = str(read_manifest(folder)["key_check"])
        path = find_key(_parameter(config, KEY_PARAMETER), check)
        if not path.is_file():
            raise LoadError(
                f"the key of the users' pseudonyms is missing: there is no file {path}; name it in the config's "
                f"parameter {KEY_PARAMETER} or in {KEY_VARIABLE}, or put it there: `tritone export recommender` "
                "copies it to tritone/recommender-keys under XDG_STATE_HOME (~/.local/state)"
            )
        return Recommender.open(
            folder,
            key=read_key(path),
            on_base_model=on_base_model,
            min_friends=_count(config, MIN_PARAMETER, MIN_FRIENDS, (1, _LARGEST_MIN_FRIENDS)),
            candidates=_candidates(config),
        )
    except (RecommenderError, ValueError) as error:
        raise LoadError(str(error)) from error


def make_remote_models(recommender: Recommender, config: dict[str, Any], pb_utils: Any) -> list[RemoteModel]:
    """Return the clients of the artifact's remote base models.

    Raises:
        LoadError: a timeout in the config is no number of milliseconds.
    """
    found = []
    for name, described in recommender.artifact.manifest["base_models"].items():
        kind = REMOTE_KINDS.get(described.get("kind"))
        if kind is not None:
            found.append(
                RemoteModel(
                    pb_utils,
                    name,
                    _parameter(config, kind.model_parameter) or name,
                    int(described["n_known"]),
                    timeout_s=_timeout_s(kind.timeout_parameter, _parameter(config, kind.timeout_parameter)),
                )
            )
    return found


def _timeout_s(name: str, text: str) -> float:
    if not text:
        return TIMEOUT_S
    if not text.isdecimal() or not 1 <= int(text) <= _LARGEST_TIMEOUT_MS:
        raise LoadError(
            f"the config's parameter {name} is {shown(text)}: expected a whole number of milliseconds from 1 to "
            f"{_LARGEST_TIMEOUT_MS:,}"
        )
    return int(text) / 1_000


def make_remote_encoder(recommender: Recommender, config: dict[str, Any], pb_utils: Any) -> RemoteEncoder | None:
    """Return the client of the sentence encoder; None if the artifact was made without one.

    Raises:
        LoadError: the artifact's entries about the encoder are damaged.
    """
    described = recommender.artifact.manifest.get(TEXT_ENCODER)
    if described is None or not recommender.catalogue.text_search.knows_meaning:
        return None
    try:
        return RemoteEncoder(
            pb_utils,
            _parameter(config, ENCODER_PARAMETER) or str(described["model"]),
            recommender.artifact.texts(VOCABULARY),
            n_features=int(described["n_features"]),
            most_tokens=int(described["most_tokens"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"the manifest's {TEXT_ENCODER} is damaged ({error}); export the recommender again") from error


def scoring_description(recommender: Recommender, config: dict[str, Any]) -> str:
    """Return for the log whether all items or only candidates are scored, and by which setting."""
    settings = _candidates(config)
    limit = NEVER if settings is None else f"{settings.min_items:,}"
    scored = "all items"
    if settings is not None and recommender.uses_candidates:
        scored = f"candidates, {settings.per_model:,} of each base model ({PER_MODEL_PARAMETER})"
    return f"{recommender.artifact.n_items:,} items, scoring {scored}; {CANDIDATES_PARAMETER}: {limit}"


def _candidates(config: dict[str, Any]) -> CandidateSettings | None:
    """Return the settings of candidate scoring; None for never."""
    usual = CandidateSettings()
    per_model = _count(config, PER_MODEL_PARAMETER, usual.per_model, (MIN_PER_MODEL, MAX_PER_MODEL))
    if _parameter(config, CANDIDATES_PARAMETER) == NEVER:
        return None
    return CandidateSettings(
        _count(config, CANDIDATES_PARAMETER, usual.min_items, (1, MOST_ITEMS), f", or {NEVER}"), per_model
    )


def _count(config: dict[str, Any], name: str, usual: int, within: tuple[int, int], or_else: str = "") -> int:
    """Return a parameter that is a whole number, `usual` if it is empty."""
    text = _parameter(config, name)
    if not text:
        return usual
    least, most = within
    if not (text.isdecimal() and len(text) <= _MOST_DIGITS and least <= int(text) <= most):
        raise LoadError(
            f"the config's parameter {name} is {shown(text)}: expected a whole number from {least} to {most}{or_else}"
        )
    return int(text)


def _parameter(config: dict[str, Any], name: str) -> str:
    return str(config.get("parameters", {}).get(name, {}).get("string_value", ""))
