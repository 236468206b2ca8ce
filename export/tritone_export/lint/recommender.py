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
from tritone_serving.repository import newest_version

ARTIFACT_BACKEND: Final = "cf_ensemble"
_REMEDY: Final = "copy it again from its source, or export again"


def check_artifact(version: Path, report: Findings) -> None:
    """Report an artifact that is damaged, does not match its model card, or is readable by other users."""
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
        report.error(
            path, 1, "is a key of pseudonyms inside the repository", "move it to a folder that only the server reads"
        )
    try:
        key = key_path(str(artifact.manifest["key_check"]))
    except ValueError as error:
        report.note(f"{version}: {error}")
        return
    if not key.is_file():
        report.note(
            f"{version}: its key is not in {key.parent}; name it for the server with the config's parameter key_file "
            f"or TRITONE_RECOMMENDER_KEY"
        )
    elif stat.S_IMODE(key.stat().st_mode) & 0o077:
        report.warning(key, 1, "can be read by other users of this machine", f"chmod 600 {key}")


def _check_checksums(version: Path, files: list[Path], report: Findings) -> None:
    card = version / CARD_FILENAME
    try:
        described = json.loads(card.read_text(encoding="utf-8"))["files"]
        expected = {path: described[path.name]["sha256"] for path in files}
    except FileNotFoundError:
        report.warning(card, 1, "is missing, so the personal data of this version is undocumented", "export it again")
        return
    except (ValueError, KeyError, TypeError, OSError):
        report.warning(card, 1, "has no checksums of this version's files", "export this version again")
        return
    for path in files:
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != expected[path]:
            report.error(
                path,
                1,
                f"does not match its model card: expected sha256 {expected[path][:12]}..., got {found[:12]}...",
                _REMEDY,
            )


_N_DIGITS: Final = 12  # of a digest, as in the file names of weights in a checkpoint


def check_embedding_models(
    repository: Path, models: Collection[str], planned: Mapping[str, Path] = MappingProxyType({})
) -> LintReport:
    """Check that recommenders and `genre_cnn` belong together, as far as the newest versions of `models` affect it.

    Args:
        planned: version folders that are about to become the newest, by model.

    Raises:
        RepositoryError: the repository cannot be read.
    """
    report = Findings()
    try:
        n_models = report_embedding_models(repository, report, None if GENRE_MODEL in models else models, planned)
    except OSError as error:
        raise RepositoryError(f"{error.filename or repository}: cannot be read ({error.strerror})") from error
    return LintReport(tuple(report.findings), tuple(report.notes), n_models)


def report_embedding_models(
    repository: Path,
    report: Findings,
    models: Collection[str] | None = None,
    planned: Mapping[str, Path] = MappingProxyType({}),
) -> int:
    """Report recommenders whose item embeddings are not from the `genre_cnn` of their repository.

    Args:
        models: names of the recommenders to check; None for all.
        planned: as in `check_embedding_models`.

    Returns:
        number of recommenders with item embeddings.
    """

    def newest(folder: Path) -> Path | None:
        return planned[folder.name] if folder.name in planned else newest_version(folder)

    genre_version = newest(repository / GENRE_MODEL)
    n_models = 0
    folders = {*repository.iterdir(), *(repository / model for model in planned)}
    for folder in sorted(path for path in folders if models is None or path.name in models):
        version = newest(folder)
        manifest = {} if version is None else read_json(version / MANIFEST)
        arrays = manifest.get("arrays")
        if version is not None and isinstance(arrays, dict) and EMBEDDINGS in arrays:
            n_models += 1
            digest = weights_digest(manifest.get(EMBEDDING_MODEL))
            _check_embedding_model(version, digest, repository, genre_version, report)
    return n_models


def _check_embedding_model(
    version: Path, embedding_model: str | None, repository: Path, genre_version: Path | None, report: Findings
) -> None:
    model = version.parent.name
    if genre_version is None:
        which = f"the one with {_weights(embedding_model)}" if embedding_model else "the one that embedded its items"
        report.note(
            f"{version}: has embeddings of its items, but {repository / GENRE_MODEL} has no version: to recommend from "
            f"recordings, {model} needs a {GENRE_MODEL} in the same repository, {which}"
        )
        return
    card = read_json(genre_version / CARD_FILENAME)
    served = weights_digest(card)
    backbone = card.get("pretrained") if served is None else None  # a pretrained backbone without a checkpoint
    if embedding_model is None or (served is None and backbone is None):
        unknown = (
            f"{version / MANIFEST} does not name the {GENRE_MODEL} that embedded its items"
            if embedding_model is None
            else f"{genre_version / CARD_FILENAME} does not name its weights"
        )
        report.note(f"{unknown} (an older export): cannot check whether {model} and {GENRE_MODEL} belong together")
        return
    if served == embedding_model:
        return
    serve = f"serve the one with {_weights(embedding_model)}: tritone export {GENRE_MODEL} --checkpoint ..."
    again = f"train {model} again with --genre-checkpoint set to that of {_weights(served)}, or " if served else ""
    found = _weights(served) if served else f"the pretrained backbone {backbone}"
    report.error(
        version / MANIFEST,
        1,
        f"{model} does not belong to {genre_version} ({found}): its items were embedded by another {GENRE_MODEL} "
        f"({_weights(embedding_model)}), so its recommendations from recordings are meaningless",
        f"{again}{serve}",
    )


def _weights(digest: str) -> str:
    """Return the file name of weights in a checkpoint."""
    return f"weights-{digest[:_N_DIGITS]}.pt"
