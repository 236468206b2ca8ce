"""Whether a recommender's items were heard by the `genre_cnn` that is served beside it.

Embeddings of two trainings have nothing to do with each other: a recording that one network embeds lies anywhere among
the items that another one heard, and what is answered to it looks like any other answer. Graphs in less precision are
made of the same weights, which is what is compared here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from tritone_client.constants import GENRE_MODEL
from tritone_export._exceptions import RepositoryError
from tritone_export.card import CARD_FILENAME
from tritone_export.lint.finding import LintReport, Reporter
from tritone_serving.recommender.artifact import EMBEDDINGS, HEARD_BY, MANIFEST
from tritone_serving.repository import newest_version

_SHOWN: Final = 12  # digits of a digest: those in the name of a checkpoint's weights
_DIGEST: Final = re.compile("[0-9a-f]{64}")


def check_hearing(repository: Path, models: Collection[str]) -> LintReport:
    """Check those recommenders whose answers to recordings change with the newest versions of `models`.

    Raises:
        RepositoryError: the repository cannot be read.
    """
    report = Reporter()
    try:
        n_models = report_hearing(repository, report, None if GENRE_MODEL in models else models)
    except OSError as error:
        raise RepositoryError(f"{error.filename or repository}: cannot be read ({error.strerror})") from error
    return LintReport(tuple(report.findings), tuple(report.notes), n_models)


def report_hearing(repository: Path, report: Reporter, models: Collection[str] | None = None) -> int:
    """Hold each recommender that knows how its items sound against the `genre_cnn` of its repository.

    Args:
        models: look at these recommenders alone.

    Returns:
        how many such recommenders there are.
    """
    listener = newest_version(repository / GENRE_MODEL) if (repository / GENRE_MODEL).is_dir() else None
    n_models = 0
    for folder in sorted(path for path in repository.iterdir() if models is None or path.name in models):
        version = newest_version(folder) if folder.is_dir() else None
        manifest = {} if version is None else _read(version / MANIFEST)
        arrays = manifest.get("arrays")
        if version is not None and isinstance(arrays, dict) and EMBEDDINGS in arrays:
            n_models += 1
            _check(version, _digest(manifest.get(HEARD_BY)), repository, listener, report)
    return n_models


def _check(version: Path, heard_by: str | None, repository: Path, listener: Path | None, report: Reporter) -> None:
    model = version.parent.name
    if listener is None:
        which = f"that of {_weights(heard_by)}" if heard_by else "the one that heard its items"
        report.note(
            f"{version}: knows how its items sound, and {repository / GENRE_MODEL} has no version: to be asked about "
            f"recordings, {model} needs {GENRE_MODEL} beside it, {which}"
        )
        return
    card = _read(listener / CARD_FILENAME)
    served = _digest(card)
    backbone = card.get("pretrained") if served is None else None  # one that is served as it is, of no checkpoint
    if heard_by is None or (served is None and backbone is None):
        silent = (
            f"{version / MANIFEST} does not say which {GENRE_MODEL} heard its items"
            if heard_by is None
            else f"{listener / CARD_FILENAME} does not say of which weights it was made"
        )
        report.note(f"{silent} (an older export): whether {model} and {GENRE_MODEL} belong together is not known")
        return
    if served == heard_by:
        return
    serve = f"serve the one with {_weights(heard_by)}: tritone export {GENRE_MODEL} --checkpoint ..."
    again = f"train {model} again, its --genre-checkpoint the one with {_weights(served)}, or " if served else ""
    found = _weights(served) if served else f"the backbone {backbone}, untrained"
    report.error(
        version / MANIFEST,
        1,
        f"{model} does not belong to {listener} ({found}): its items were heard by another {GENRE_MODEL} "
        f"({_weights(heard_by)}), so its answers to recordings have no sense",
        f"{again}{serve}",
    )


def _weights(digest: str) -> str:
    """How a checkpoint's folder names its weights."""
    return f"weights-{digest[:_SHOWN]}.pt"


def _digest(said: Any) -> str | None:
    """The digest of a network's weights, if a card or a manifest says it."""
    digest = said.get("weights_sha256") if isinstance(said, dict) else None
    return digest if isinstance(digest, str) and _DIGEST.fullmatch(digest) else None


def _read(path: Path) -> dict[str, Any]:
    """A file of JSON; empty where there is none, or none that can be read, which is for others to report."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
