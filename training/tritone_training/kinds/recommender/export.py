"""Export of a checkpoint of `recommender`, also with an A/B test.

The file of an A/B test adds ensembles, each of which serves a share of the users:

```json
{"salt": "spring", "shares": {"a": 0.9, "b": 0.1},
 "ensembles": {"b": {"warm_from": 10,
                     "weights": {"warm": {"ease": 1.0}, "short": {"ease": 1.0}, "cold": {"popularity": 1.0}}}}}
```
`a` is the ensemble fitted in training. A different salt gives a different assignment of users.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.constants import EMBEDDING_SIZE, EMOTIONS
from tritone_serving.recommender import TASTE, TASTE_SEQUENCE, Artifact, KeyFileError, read_key
from tritone_serving.recommender.artifact import (
    EMBEDDING_MODEL,
    EMBEDDINGS,
    INFERRED_MOOD,
    SEQUENCE,
    SEQUENCE_TIMES,
    files_of,
)
from tritone_serving.recommender.exceptions import shown
from tritone_serving.recommender.manifest_validation import KEYS, check_ensembles, check_shares
from tritone_serving.recommender.pseudonyms import KEY_VARIABLE, key_check
from tritone_serving.recommender.similarity import INDEX_FILENAME, build_index
from tritone_serving.recommender.text_search import TEXT_ENCODER
from tritone_training.artifact_export import ArtifactExport
from tritone_training.exceptions import CheckpointError
from tritone_training.kind import Exportable
from tritone_training.kinds.recommender import text_encoder
from tritone_training.kinds.recommender.checkpoint_folder import (
    ARTIFACT_FOLDER,
    KEY_FILENAME,
    check_together,
    load_info,
    read_artifact,
)
from tritone_training.kinds.recommender.declaration import (
    DECLARATION,
    EVENTS_DECLARATION,
    EVENTS_FILENAME,
    MANIFEST_FILENAME,
)

_AB_KEYS: Final = {"salt", "shares", "ensembles"}  # of the file of an A/B test
_NOT_SHOWN: Final = ("format", "kind", "weights", "weights_sha256", "key")  # of checkpoint.json
# Entries of the manifest that are copied to the model card.
_SHOWN: Final = (
    "personal_data",
    "base_models",
    EMBEDDING_MODEL,
    TEXT_ENCODER,
    "ensembles",
    "ab",
    "metrics",
    "data",
    "weighting",
    INFERRED_MOOD,
)


def exportable(folder: Path) -> ArtifactExport:
    """Return the export of a checkpoint folder.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    from tritone_training.registry import get_kind

    artifact, info = read_artifact(folder / ARTIFACT_FOLDER), load_info(folder)
    check_together(folder, info, artifact.manifest)
    networks = (name for name in (TASTE, TASTE_SEQUENCE) if (folder / name).is_dir())
    companions: list[Exportable | ArtifactExport] = [get_kind(name).export(folder / name) for name in networks]
    if TEXT_ENCODER in artifact.manifest:
        companions.append(text_encoder.exportable())
    key = folder / KEY_FILENAME
    return from_artifact(
        artifact,
        info=info,
        companions=tuple(each for each in companions if not isinstance(each, ArtifactExport)),
        key=key if _made_with(key, artifact) else None,
    )


def _made_with(key: Path, artifact: Artifact) -> bool:
    """Return whether a file exists and holds the artifact's key; it may be the key of an earlier training."""
    try:
        return key_check(read_key(key)) == str(artifact.manifest["key_check"])
    except KeyFileError:
        return False


def from_artifact(
    artifact: Artifact, *, info: Mapping[str, Any], companions: Sequence[Exportable] = (), key: Path | None = None
) -> ArtifactExport:
    """Return the export of an opened artifact.

    Args:
        artifact: the opened artifact.
        info: content of checkpoint.json, for the model card.
        companions: exports of the models that are served together with it.
        key: key file of the users' pseudonyms.
    """
    manifest = artifact.manifest
    card = {
        **{name: value for name, value in info.items() if name not in _NOT_SHOWN},
        **{name: manifest[name] for name in _SHOWN if name in manifest},
        "metrics": {**(manifest.get("metrics") or {}), **_how(info)},
        "personal_data": personal_data(artifact),
        "n_items": artifact.n_items,
        "artifact_format": manifest["format"],
    }
    files: dict[str, Path | bytes] = {path.name: path for path in files_of(artifact)}
    if EMBEDDINGS in artifact.arrays and (index := build_index(artifact.arrays[EMBEDDINGS])):
        files[INDEX_FILENAME] = index
    check, known_key = str(manifest["key_check"]), str(info["key"]) if "key" in info else None
    return ArtifactExport(
        declaration=DECLARATION,
        files=files,
        card=card,
        companions=companions,
        artifacts=(events_export(check),),
        key=None if key is None else (check, key),
        key_wanted=(check, known_key),
    )


def events_export(check: str) -> ArtifactExport:
    """Return the export of the model that stores events.

    Args:
        check: check value of the key of the users' pseudonyms.
    """
    content = {"format": 1, "key_check": check}
    return ArtifactExport(
        declaration=EVENTS_DECLARATION,
        files={EVENTS_FILENAME: json.dumps(content, indent=2).encode() + b"\n"},
        card={
            "personal_data": {
                "held": [],
                "stored": "events of users, in the event store that the server names, under the same pseudonyms",
            }
        },
    )


def _how(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of how the metrics were measured, from checkpoint.json."""
    metrics = info.get("metrics")
    return {"how": metrics["how"]} if isinstance(metrics, Mapping) and "how" in metrics else {}


def personal_data(artifact: Artifact) -> dict[str, Any]:
    """Return the description of the personal data in an artifact, for the model card."""
    check = str(artifact.manifest["key_check"])
    held = ["listening histories (which items, how often)"]
    if len(artifact.arrays["friends.columns"]):
        held.append("which users are friends")
    if any(name.endswith(".own_tags.starts") for name in artifact.arrays):
        held.append("which items they tagged")
    not_held = "names, raw user ids"
    if f"{SEQUENCE}.starts" in artifact.arrays:
        with_times = " and times" if SEQUENCE_TIMES in artifact.arrays else ""
        held.append(f"the order{with_times} of their latest listens and skips")
    if SEQUENCE_TIMES not in artifact.arrays:
        not_held += ", times of listening"
    return {
        "n_users": artifact.n_users,
        "held": held,
        "identified_by": "pseudonyms: HMAC-SHA256 of the user's id under a key that is not in this folder",
        "key": (
            f"the server loads this version only with the key that has the check value {check}; it looks in "
            f"tritone/recommender-keys/{check}.key under XDG_STATE_HOME (~/.local/state), or where {KEY_VARIABLE} or "
            f"the config's parameter key_file says"
        ),
        "not_held": not_held,
        "derived": "counts, similarities and network weights that many users' histories went into together",
        "to_remove_a_user": "tritone forget USER",
        "said_at_training": artifact.manifest.get("personal_data"),
    }


def example_inputs(n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return requests with all inputs and random item ids."""
    random = np.random.default_rng(seed)

    def ids(n: int) -> npt.NDArray[np.generic]:
        return np.array([[b"item-%d" % random.integers(1000) for _ in range(n)] for _ in range(n_batch)], object)

    def each(value: object, dtype: object) -> npt.NDArray[np.generic]:
        return np.full((n_batch, 1), value, dtype)  # type: ignore[call-overload, no-any-return]

    return {
        "user_id": ids(1),
        "history": ids(3),
        "weights": random.uniform(1, 50, (n_batch, 3)).astype(np.float32),
        "times": random.integers(10**9, 1_700_000_000, (n_batch, 3)),
        "skipped": ids(1),
        "friends": ids(2),
        "embedding": random.standard_normal((n_batch, EMBEDDING_SIZE)).astype(np.float32),
        "mood": each(b"power", object),
        "mood_strengths": np.zeros((n_batch, len(EMOTIONS)), np.float32),
        "k": each(10, np.int32),
        "exclude": ids(1),
        "filter_listened": each(True, np.bool_),
        "diversity": each(0.5, np.float32),
        "novelty": each(0.5, np.float32),
        "explain": each(False, np.bool_),
        "similar_to": each(b"", object),
        "by": each(b"", object),
        "query": each(b"", object),
        "query_field": each(b"", object),
        "offset": each(0, np.int32),
        "text": each(b"", object),
        "resolve": each(False, np.bool_),
        "playlist_from": each(b"", object),
        "playlist_to": each(b"", object),
        "after": ids(1),
        "artist_gap": each(-1, np.int32),
        "seed": each(-1, np.int64),
    }


def with_arms(artifact: ArtifactExport, path: Path) -> ArtifactExport:
    """Return the export with the A/B test described in a file.

    Raises:
        CheckpointError: the file cannot be read, or its content is invalid.
    """
    try:
        wanted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the A/B test cannot be read ({error})") from error
    if not isinstance(wanted, dict) or not {"salt", "shares"} <= wanted.keys() <= _AB_KEYS:
        raise CheckpointError(f"{path}: expected an object with salt, shares and ensembles")
    source = artifact.files[MANIFEST_FILENAME]
    manifest = json.loads(source if isinstance(source, bytes) else source.read_bytes())
    given = wanted.get("ensembles", {})
    try:
        if given != {}:
            check_ensembles(given, manifest["base_models"])
        for arm, described in given.items():
            _check_keys(arm, described)
        ensembles = {**manifest["ensembles"], **given}
        check_shares(wanted["shares"], ensembles, above_0=True)
        if not isinstance(wanted["salt"], str) or not _is_text(wanted["salt"]):
            raise ValueError(f"salt is {shown(wanted['salt'])}; expected text")
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    chosen = {"ensembles": ensembles, "ab": {"salt": wanted["salt"], "shares": wanted["shares"]}}
    # Rankings that were precomputed for arms which the file redefines.
    stale = {f"lists.{arm}.{part}" for arm in given for part in ("starts", "columns", "values")}
    arrays = {name: described for name, described in manifest["arrays"].items() if name not in stale}
    content = json.dumps({**manifest, **chosen, "arrays": arrays}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    files = {name: file for name, file in artifact.files.items() if name.removesuffix(".npy") not in stale}
    return replace(artifact, files={**files, MANIFEST_FILENAME: content.encode()}, card={**artifact.card, **chosen})


def _check_keys(arm: str, described: Mapping[str, Any]) -> None:
    unknown = sorted(described.keys() - KEYS)
    if unknown:
        raise ValueError(f"arm {arm!r} holds {shown(unknown, 200)}; expected {', '.join(sorted(KEYS))}")
    if not isinstance(how := described.get("how", ""), str) or not _is_text(how):
        raise ValueError(f"arm {arm!r}: how is {shown(how)}; expected text")


def _is_text(value: str) -> bool:
    """Return whether a string can be encoded in UTF-8; JSON may contain lone surrogates."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
