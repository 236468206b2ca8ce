"""Check a recommender's version: its artifact, model card and key, and the model that embedded its items."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tritone.constants import GENRE_MODEL
from tritone_export._exceptions import RepositoryError
from tritone_export.card import CARD_FILENAME
from tritone_export.lint.findings import Findings, LintReport
from tritone_serving.recommender import ArtifactError, open_artifact
from tritone_serving.recommender.artifact import EMBEDDING_MODEL, EMBEDDINGS, MANIFEST, files_of
from tritone_serving.recommender.embedding_weights import read_json, weights_digest
from tritone_serving.recommender.pseudonyms import key_path
from tritone_serving.repository.folders import newest_version

ARTIFACT_BACKEND: Final = "cf_ensemble"
_REMEDY: Final = "copy it again from where it was exported, or export again"


def check_artifact(version: Path, report: Findings) -> None:
    """Report an artifact that does not open, is not what its card describes, or lies beside its key."""
    if not (version / MANIFEST).is_file():
        return  # reported already
    try:
        artifact = open_artifact(version)
    except ArtifactError as error:
        text = str(error)
        message, _, remedy = text.rpartition("; ")
        report.error(version / MANIFEST, 1, message or text, remedy or _REMEDY)
        return
    if stat.S_IMODE(version.stat().st_mode) & 0o077:
        report.warning(
            version, 1, "other users of this machine can read listening histories", f"chmod -R go= {version}"
        )
    _check_checksums(version, sorted(files_of(artifact)), report)
    for path in sorted(version.rglob("*.key")):
        report.error(path, 1, "a key of pseudonyms lies in the repository", "move it to where only the server reads it")
    try:
        key = key_path(str(artifact.manifest["key_check"]))
    except ValueError as error:
        report.note(f"{version}: {error}")
        return
    if not key.is_file():
        report.note(
            f"{version}: its key is not in {key.parent}; the server needs it, by the config's parameter key_file or by "
            f"TRITONE_RECOMMENDER_KEY"
        )
    elif stat.S_IMODE(key.stat().st_mode) & 0o077:
        report.warning(key, 1, "can be read by other users of this machine", f"chmod 600 {key}")


def _check_checksums(version: Path, files: list[Path], report: Findings) -> None:
    card = version / CARD_FILENAME
    try:
        described = json.loads(card.read_text(encoding="utf-8"))["files"]
        expected = {path: described[path.name]["sha256"] for path in files}
    except FileNotFoundError:
        report.warning(card, 1, "is missing: nothing says what personal data this version holds", "export it again")
        return
    except (ValueError, KeyError, TypeError, OSError):
        report.warning(card, 1, "does not say the checksums of this version's files", "export this version again")
        return
    for path in files:
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != expected[path]:
            report.error(
                path,
                1,
                f"is not the file that its model card describes (sha256 {found[:12]}..., expected "
                f"{expected[path][:12]}...)",
                _REMEDY,
            )


_SHOWN: Final = 12  # digits of a digest: those in the name of a checkpoint's weights


def check_hearing(
    repository: Path, models: Collection[str], planned: Mapping[str, Path] = MappingProxyType({})
) -> LintReport:
    """Check those recommenders whose answers to recordings change with the newest versions of `models`.

    Args:
        planned: model -> version folder that is about to become its newest.

    Raises:
        RepositoryError: the repository cannot be read.
    """
    report = Findings()
    try:
        n_models = report_hearing(repository, report, None if GENRE_MODEL in models else models, planned)
    except OSError as error:
        raise RepositoryError(f"{error.filename or repository}: cannot be read ({error.strerror})") from error
    return LintReport(tuple(report.findings), tuple(report.notes), n_models)


def report_hearing(
    repository: Path,
    report: Findings,
    models: Collection[str] | None = None,
    planned: Mapping[str, Path] = MappingProxyType({}),
) -> int:
    """Hold each recommender that knows how its items sound against the `genre_cnn` of its repository.

    Args:
        models: look at these recommenders alone.
        planned: as for `check_hearing`.

    Returns:
        how many such recommenders there are.
    """

    def newest(folder: Path) -> Path | None:
        return planned[folder.name] if folder.name in planned else newest_version(folder)

    listener = newest(repository / GENRE_MODEL)
    n_models = 0
    folders = {*repository.iterdir(), *(repository / model for model in planned)}
    for folder in sorted(path for path in folders if models is None or path.name in models):
        version = newest(folder)
        manifest = {} if version is None else read_json(version / MANIFEST)
        arrays = manifest.get("arrays")
        if version is not None and isinstance(arrays, dict) and EMBEDDINGS in arrays:
            n_models += 1
            _check_embedding_model(version, weights_digest(manifest.get(EMBEDDING_MODEL)), repository, listener, report)
    return n_models


def _check_embedding_model(
    version: Path, embedding_model: str | None, repository: Path, listener: Path | None, report: Findings
) -> None:
    model = version.parent.name
    if listener is None:
        which = f"that of {_weights(embedding_model)}" if embedding_model else "the one that heard its items"
        report.note(
            f"{version}: knows how its items sound, and {repository / GENRE_MODEL} has no version: to be asked about "
            f"recordings, {model} needs {GENRE_MODEL} beside it, {which}"
        )
        return
    card = read_json(listener / CARD_FILENAME)
    served = weights_digest(card)
    backbone = card.get("pretrained") if served is None else None  # one that is served as it is, of no checkpoint
    if embedding_model is None or (served is None and backbone is None):
        silent = (
            f"{version / MANIFEST} does not say which {GENRE_MODEL} heard its items"
            if embedding_model is None
            else f"{listener / CARD_FILENAME} does not say of which weights it was made"
        )
        report.note(f"{silent} (an older export): whether {model} and {GENRE_MODEL} belong together is not known")
        return
    if served == embedding_model:
        return
    serve = f"serve the one with {_weights(embedding_model)}: tritone export {GENRE_MODEL} --checkpoint ..."
    again = f"train {model} again, its --genre-checkpoint the one with {_weights(served)}, or " if served else ""
    found = _weights(served) if served else f"the backbone {backbone}, untrained"
    report.error(
        version / MANIFEST,
        1,
        f"{model} does not belong to {listener} ({found}): its items were heard by another {GENRE_MODEL} "
        f"({_weights(embedding_model)}), so its answers to recordings have no sense",
        f"{again}{serve}",
    )


def _weights(digest: str) -> str:
    """How a checkpoint's folder names its weights."""
    return f"weights-{digest[:_SHOWN]}.pt"
