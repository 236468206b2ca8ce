"""What `cf_ensemble` serves: a recommender's artifact, its model card and its key."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Final

from tritone_export.card import CARD_FILENAME
from tritone_export.lint.finding import Reporter
from tritone_serving.recommender import ArtifactError, open_artifact
from tritone_serving.recommender.artifact import MANIFEST, files_of
from tritone_serving.recommender_keys import key_path

ARTIFACT_BACKEND: Final = "cf_ensemble"
_REMEDY: Final = "copy it again from where it was exported, or export again"


def check_artifact(version: Path, report: Reporter) -> None:
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


def _check_checksums(version: Path, files: list[Path], report: Reporter) -> None:
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
