"""An A/B test: further ensembles beside the trained one, each served to its share of the users.

```json
{"salt": "spring", "shares": {"a": 0.9, "b": 0.1},
 "ensembles": {"b": {"warm_from": 10,
                     "weights": {"warm": {"ease": 1.0}, "short": {"ease": 1.0}, "cold": {"popularity": 1.0}}}}}
```
`a` is the ensemble that training found. Another salt deals everybody anew.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tritone_serving.recommender.ensemble import SEGMENTS
from tritone_training._exceptions import CheckpointError
from tritone_training.artifact_export import ArtifactExport
from tritone_training.kinds.recommender.declaration import MANIFEST_FILENAME

_KEYS: Final = {"salt", "shares", "ensembles"}


def with_arms(artifact: ArtifactExport, path: Path) -> ArtifactExport:
    """The same data with the arms that a file describes.

    Raises:
        CheckpointError: it cannot be read, or says something that cannot be served.
    """
    try:
        wanted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: the A/B test cannot be read ({error})") from error
    if not isinstance(wanted, dict) or not {"salt", "shares"} <= wanted.keys() <= _KEYS:
        raise CheckpointError(f"{path}: expected an object with salt, shares and ensembles")
    source = artifact.files[MANIFEST_FILENAME]
    manifest = json.loads(source if isinstance(source, bytes) else source.read_bytes())
    ensembles = {**manifest["ensembles"], **(wanted.get("ensembles") or {})}
    for arm, described in ensembles.items():
        _check_ensemble(path, arm, described, manifest["members"])
    shares = wanted["shares"]
    if (
        not isinstance(shares, dict)
        or not shares
        or not all(_is_number(share) and share > 0 for share in shares.values())
    ):
        raise CheckpointError(f"{path}: shares are {shares!r}; expected a number above 0 for each arm")
    strangers = sorted(shares.keys() - ensembles.keys())
    if strangers:
        raise CheckpointError(
            f"{path}: shares name the arms {', '.join(strangers)}, which are no ensembles; there are: "
            f"{', '.join(ensembles)}"
        )
    if not isinstance(wanted["salt"], str):
        raise CheckpointError(f"{path}: salt is {wanted['salt']!r}; expected text")
    chosen = {"ensembles": ensembles, "ab": {"salt": wanted["salt"], "shares": shares}}
    content = json.dumps({**manifest, **chosen}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return replace(
        artifact,
        files={**artifact.files, MANIFEST_FILENAME: content.encode()},
        card={**artifact.card, **chosen},
    )


def _check_ensemble(path: Path, arm: str, described: Any, members: Mapping[str, Any]) -> None:
    weights = described.get("weights") if isinstance(described, dict) else None
    if (
        not isinstance(weights, dict)
        or set(weights) != set(SEGMENTS)
        or not isinstance(described.get("warm_from"), int)
    ):
        raise CheckpointError(f"{path}: arm {arm!r} needs warm_from and weights for {', '.join(SEGMENTS)}")
    for segment, each in weights.items():
        strangers = sorted(each.keys() - members.keys())
        if strangers:
            raise CheckpointError(
                f"{path}: arm {arm!r} weighs {', '.join(strangers)}, and there are no such members; there are: "
                f"{', '.join(members)}"
            )
        wrong = {name: weight for name, weight in each.items() if not _is_number(weight)}
        if wrong:
            raise CheckpointError(f"{path}: arm {arm!r} has the weights {wrong} for {segment}; expected finite numbers")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
