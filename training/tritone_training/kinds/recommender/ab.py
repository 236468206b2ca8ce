"""A/B tests: adds ensembles to an artifact, each of which serves a share of the users.

```json
{"salt": "spring", "shares": {"a": 0.9, "b": 0.1},
 "ensembles": {"b": {"warm_from": 10,
                     "weights": {"warm": {"ease": 1.0}, "short": {"ease": 1.0}, "cold": {"popularity": 1.0}}}}}
```
`a` is the ensemble fitted in training. A different salt gives a different assignment of users.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tritone_serving.recommender.messages import shown
from tritone_serving.recommender.validation import KEYS, check_ensembles, check_shares
from tritone_training.artifact_export import ArtifactExport
from tritone_training.exceptions import CheckpointError
from tritone_training.kinds.recommender.declaration import MANIFEST_FILENAME

_KEYS: Final = {"salt", "shares", "ensembles"}


def with_arms(artifact: ArtifactExport, path: Path) -> ArtifactExport:
    """Return the export with the A/B test described in a file.

    Raises:
        CheckpointError: the file cannot be read, or its content is invalid.
    """
    try:
        wanted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the A/B test cannot be read ({error})") from error
    if not isinstance(wanted, dict) or not {"salt", "shares"} <= wanted.keys() <= _KEYS:
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
