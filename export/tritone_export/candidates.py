"""Stage a candidate version under a temporary model name that is not loaded at start-up."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format

from tritone.atomic import make_private_folder, restrict_to_owner
from tritone_export._exceptions import RepositoryError
from tritone_export.card import CARD_FILENAME, checksum
from tritone_export.config import CONFIG_FILES, read_config
from tritone_export.parity import open_session
from tritone_export.repository import holds_personal_data, versions
from tritone_serving import AdminApiError, RefusedVersionError
from tritone_serving.admin import AdminApi
from tritone_serving.repository import CANDIDATE_SUFFIX
from tritone_serving.trial import Reference

LOAD_TIMEOUT_S: Final = 60.0
_ORT = ("onnxruntime",)


def newest(source: Path, model: str) -> Path:
    """Return the folder of a model's newest version.

    Raises:
        RepositoryError: the model has no version.
    """
    folder = source / model
    found = versions(folder) if folder.is_dir() else []
    if not found:
        raise RepositoryError(f"{source}: no version of {model}; add one with: tritone export {model}")
    return folder / str(found[-1])


def read_card(version: Path) -> dict[str, Any]:
    """Return the model card of a version; empty if it has none.

    Raises:
        RefusedVersionError: the card cannot be read.
    """
    path = version / CARD_FILENAME
    if not path.is_file():
        return {}
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise refused(version, f"{CARD_FILENAME} cannot be read: {error}") from error
    return card


def check_files(version: Path) -> None:
    """Compare a version's files with the checksums in its model card.

    Raises:
        RefusedVersionError: a file is missing or has other content.
    """
    for name, described in read_card(version).get("files", {}).items():
        path = version / name
        if not path.is_file():
            raise refused(version, f"{name} is missing")
        if checksum(path)["sha256"] != described["sha256"]:
            raise refused(version, f"{name} does not match the checksum in its model card; export the version again")


def refused(version: Path, reason: str) -> RefusedVersionError:
    """Return the error for a new version that is not made live."""
    model = version.parent.name
    return RefusedVersionError(
        f"{model}: the new version is refused, the previous one stays live: {reason}", model=model, reason=reason
    )


@contextmanager
def on_trial(source: Path, models: Sequence[str], *, repository: Path, admin: AdminApi) -> Iterator[dict[str, str]]:
    """Load the newest versions of `source` under temporary names, and unload them afterwards.

    Yields:
        the temporary names, by model.

    Raises:
        RefusedVersionError: a version does not load.
    """
    names = {model: f"{model}{CANDIDATE_SUFFIX}" for model in models}
    _remove(repository, admin)  # left by a publication that was killed
    try:
        for model in models:
            stage_candidate(newest(source, model), repository / names[model], names)
        for model in models:  # ensembles come after their steps
            try:
                admin.load(names[model], timeout_s=LOAD_TIMEOUT_S)
            except AdminApiError as error:
                if error.status is None:
                    raise
                raise refused(newest(source, model), f"it does not load: {error}") from error
        yield names
    finally:
        _remove(repository, admin)


def reference_of(version: Path, config_file: Path) -> Reference | None:
    """Return a function that runs a version's ONNX file in this process; None without the file or ONNX Runtime."""
    config = read_config(config_file)
    path = version / (config.default_model_filename or "model.onnx")
    if config.backend not in _ORT or not path.is_file() or importlib.util.find_spec("onnxruntime") is None:
        return None
    session = open_session(path)
    batch = [1] if config.max_batch_size > 0 else []
    shapes = {tensor.name: [*batch, *tensor.reshape.shape] for tensor in config.input if tensor.HasField("reshape")}
    outputs = [tensor.name for tensor in config.output]

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        feed = {name: array.reshape(shapes.get(name, array.shape)) for name, array in inputs.items()}
        return dict(zip(outputs, session.run(outputs, feed), strict=True))

    return run


def files_in(folder: Path, *, is_version: bool = False) -> dict[str, Path]:
    """Return the files of a version or a model's folder by relative path, without hidden files and nested versions."""

    def is_apart(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        return any(part.startswith(".") for part in parts) or (not is_version and parts[0].isdecimal())

    return {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not is_apart(path)
    }


def stage_candidate(version: Path, folder: Path, names: Mapping[str, str]) -> None:
    """Copy a model's files and one version, as version 1, and put the temporary names into its configs."""
    is_private = holds_personal_data(version / CARD_FILENAME)
    if is_private:
        make_private_folder(folder / "1")
    for name, path in files_in(version, is_version=True).items():
        target = folder / "1" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    if is_private:
        restrict_to_owner(folder / "1")
    for name, path in files_in(version.parent).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name not in CONFIG_FILES:
            shutil.copy(path, target)
            continue
        config = read_config(path)
        config.name = folder.name
        for step in config.ensemble_scheduling.step if config.HasField("ensemble_scheduling") else ():
            step.model_name = names.get(step.model_name, step.model_name)
        for parameter in config.parameters.values():  # the name of a companion model
            parameter.string_value = names.get(parameter.string_value, parameter.string_value)
        for group in config.instance_group:  # one instance suffices, because the trial sends one request at a time
            group.count = 1
        target.write_text(text_format.MessageToString(config))


def _remove(repository: Path, admin: AdminApi) -> None:
    for folder in sorted(repository.glob(f"*{CANDIDATE_SUFFIX}"), reverse=True):
        try:
            admin.unload(folder.name, timeout_s=LOAD_TIMEOUT_S)
        except AdminApiError as error:
            if error.status is None:
                shutil.rmtree(folder, ignore_errors=True)  # the server has stopped, so no candidate is loaded
                continue
        shutil.rmtree(folder, ignore_errors=True)
