"""From a trained network to a version that Triton can load.

```python
from tritone_export import export_kind
from tritone_training.registry import get_kind

kind = get_kind("genre_cnn")
for result in export_kind(kind.export(checkpoint, None), kind, repository=Path("model_repository")):
    print(result.model, result.version, result.parity.max_abs_difference)
```
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tritone_export._exceptions import ExportError, PrecisionError
from tritone_export.card import CARD_FILENAME, build_artifact_card, card_bytes
from tritone_export.config import config_files
from tritone_export.ensembles import publish_ensemble, write_ensemble_configs
from tritone_export.models import ExportResult, prepare_model, read_label_files, write_model
from tritone_export.parity import Arrays
from tritone_export.precision import Precision, Reduction, check_reducible
from tritone_export.repository import LOCK_TIMEOUT_S, check_model_name, publish, update
from tritone_export.tuned import overridden
from tritone_serving.recommender import KeyFileError, read_key
from tritone_serving.recommender.pseudonyms import find_key, install_key, key_check, key_path
from tritone_training.artifact_export import ArtifactExport

if TYPE_CHECKING:
    from tritone_training.declaration import Declaration
    from tritone_training.kind import Exportable, ModelKind
    from tritone_training.quality import Quality


def export_kind(
    exportable: Exportable | ArtifactExport,
    kind: ModelKind,
    *,
    repository: Path,
    name: str | None = None,
    reduction: Reduction | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> tuple[ExportResult, ...]:
    """Export all that a checkpoint serves: the kind's own model, its companions, the ensembles that it is a part of.

    Args:
        name: of the kind's own model; companions are named after it.
        reduction: precisions to add to those models that can have them.

    Raises:
        ExportError: as `export_model`; nothing is written unless every network passes, but where the repository
            itself refuses one, models before it are in place.
    """
    own = () if isinstance(exportable, ArtifactExport) else (exportable,)
    qualities = (*(kind.quality for _ in own), *(companion.quality for companion in kind.companions))
    draws = (*(None for _ in own), *(companion.example_inputs for companion in kind.companions))
    networks = (*own, *exportable.companions)
    asked = () if reduction is None else reduction.precisions
    kept = _kept(asked, [(each.declaration, quality) for each, quality in zip(networks, qualities, strict=True)], kind)
    prepared = [
        prepare_model(
            each,
            kind,
            name=companion_name(kind.name, each.declaration.name, name) if each is not exportable else name,
            example_inputs=draw,
            quality=quality,
            reduction=reduction and replace(reduction, precisions=tuple(p for p in asked if p not in reasons)),
            on_step=on_step,
        )
        for each, quality, draw, reasons in zip(networks, qualities, draws, kept, strict=True)
    ]
    results = []
    if isinstance(exportable, ArtifactExport):
        results.append(export_artifact(exportable, kind, repository=repository, name=name, on_step=on_step))
    for each, reasons in zip(prepared, kept, strict=True):
        on_step(f"{each.name}: writing the version")
        results.append(write_model(each, repository, kept=reasons))
    for ensemble in kind.ensembles:
        start_s = time.monotonic()
        on_step(f"{ensemble.name}: writing the version")
        path = publish_ensemble(
            ensemble,
            repository,
            rename=lambda model: name if name and model == kind.name else model,
            name=companion_name(kind.name, ensemble.name, name),
        )
        results.append(ExportResult(path.parent.name, int(path.name), path, None, time.monotonic() - start_s))
    return tuple(results)


def _kept(
    asked: Sequence[Precision], models: Sequence[tuple[Declaration, Quality | None]], kind: ModelKind
) -> list[dict[Precision, str]]:
    """For each model the precisions that it cannot have, and why.

    Raises:
        PrecisionError: none can have one that is asked for.
    """
    kept: list[dict[Precision, str]] = [{} for _ in models]
    for precision in asked:
        for (declaration, quality), reasons in zip(models, kept, strict=True):
            try:
                check_reducible(precision, declaration, quality)
            except PrecisionError as error:
                reasons[precision] = str(error)
        if all(precision in reasons for reasons in kept):
            whys = "; ".join(reasons[precision] for reasons in kept) or f"{kind.name} has no network"
            raise PrecisionError(f"{kind.name} cannot be exported in {precision}: {whys}")
    return kept


def write_kind_configs(kind: ModelKind, repository: Path, *, name: str | None = None) -> list[Path]:
    """Write the configs of all that a kind serves where they differ; needs no checkpoint.

    Args:
        name: of the kind's own model, as in `export_kind`.

    Returns:
        the files that were written.

    Raises:
        DeclarationError: Triton would refuse one.
        RepositoryError: a folder cannot be written.
    """
    written = []
    for declaration in kind.declarations:
        own = replace(declaration, parameters=_renamed(declaration.parameters, kind, name))
        written += write_configs(own, repository, name=companion_name(kind.name, declaration.name, name))
    for ensemble in kind.ensembles:
        written += write_ensemble_configs(
            ensemble,
            repository,
            rename=lambda model: name if name and model == kind.name else model,
            name=companion_name(kind.name, ensemble.name, name),
        )
    return written


def companion_name(kind_name: str, declared: str, name: str | None) -> str:
    """What a companion is called when the kind's own model is called `name`."""
    if name is None or name == kind_name:
        return declared
    return name + declared.removeprefix(kind_name) if declared.startswith(kind_name) else f"{name}_{declared}"


def export_model(
    exportable: Exportable,
    kind: ModelKind,
    *,
    repository: Path,
    name: str | None = None,
    example_inputs: Callable[[int, int], Arrays] | None = None,
    quality: Quality | None = None,
    reduction: Reduction | None = None,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    on_step: Callable[[str], None] = lambda step: None,
) -> ExportResult:
    """Convert, check against PyTorch, and add the next version to the repository.

    Args:
        exportable: a trained network, from `kind.export`.
        kind: draws the inputs for the comparison, unless `example_inputs` does.
        repository: made if it is missing.
        name: the model's folder, if it differs from the declaration's name.
        quality: how to judge it, if that differs from the kind's own; needed for `reduction` alone.
        reduction: precisions to add to single precision.
        lock_timeout_s: how long to wait for another export of the same model.
        on_step: told each step's name as it begins.

    Raises:
        ExportError: its subclass says what is wrong; the repository is as it was before.
    """
    quality = quality or kind.quality
    for precision in () if reduction is None else reduction.precisions:
        check_reducible(precision, exportable.declaration, quality)
    prepared = prepare_model(
        exportable,
        kind,
        name=name,
        example_inputs=example_inputs,
        quality=quality,
        reduction=reduction,
        on_step=on_step,
    )
    on_step(f"{prepared.name}: writing the version")
    return write_model(prepared, repository, lock_timeout_s=lock_timeout_s)


def export_artifact(
    artifact: ArtifactExport,
    kind: ModelKind,
    *,
    repository: Path,
    name: str | None = None,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    on_step: Callable[[str], None] = lambda step: None,
) -> ExportResult:
    """Add data that is served without a network as the next version.

    Its key, if it needs one, goes to where the server of this user looks for it.

    Raises:
        ExportError: its subclass says what is wrong; the repository is as it was before.
    """
    start_s = time.monotonic()
    declaration = artifact.declaration
    declaration = replace(declaration, parameters=_renamed(declaration.parameters, kind, name))
    name = name or declaration.name
    check_model_name(name)
    configs = _configs(declaration, repository, name)
    if artifact.key is not None:
        check, file = artifact.key
        try:
            install_key(file, check)
        except (OSError, ValueError) as error:
            raise ExportError(f"{file}: the key cannot be put where the server looks for it ({error})") from error
    on_step(f"{name}: writing the version")

    def version_files(version: int) -> dict[str, bytes | Path]:
        card = build_artifact_card(artifact, kind=kind.name, name=name, version=version, files=artifact.files)
        return {**artifact.files, CARD_FILENAME: card_bytes(card)}

    path = publish(
        repository / name,
        version_files=version_files,
        model_files=configs,
        lock_timeout_s=lock_timeout_s,
    )
    return ExportResult(name, int(path.name), path, None, time.monotonic() - start_s, _key_warning(artifact, name))


def _key_warning(artifact: ArtifactExport, name: str) -> str | None:
    """How to bring the key to where the server looks for it, if it is not there."""
    if artifact.key_wanted is None:
        return None
    check, recorded = artifact.key_wanted
    try:
        expected = find_key("", check)
    except ValueError as error:
        return f"{name} cannot be served yet: {error}"
    try:
        if key_check(read_key(expected)) == check:
            return None
        found = f"{expected} holds another key"
    except KeyFileError:
        found = f"there is no key at {expected}"
    target = key_path(check)
    source = shlex.quote(recorded) if recorded else "KEY_FILE"
    used = f"the key that training used, {recorded}," if recorded else "recommender.key, which training wrote,"
    return (
        f"{name} cannot be served yet: it needs {used} and {found}. To put it where the server looks: "
        f"install -d -m 700 {shlex.quote(str(target.parent))} && install -m 600 {source} {shlex.quote(str(target))}"
    )


def write_configs(declaration: Declaration, repository: Path, *, name: str | None = None) -> list[Path]:
    """Write a declaration's config.pbtxt and configs/gpu.pbtxt where they differ; needs no checkpoint.

    Returns:
        the files that were written.

    Raises:
        DeclarationError: Triton would refuse it.
        RepositoryError: the folder cannot be written.
    """
    name = name or declaration.name
    check_model_name(name)
    return update(repository / name, _configs(declaration, repository, name))


def _configs(declaration: Declaration, repository: Path, name: str) -> dict[str, bytes]:
    """A declaration's configs, with what `tritone optimize` found for this repository's machine."""
    label_files = read_label_files(declaration, repository / name)
    files = {
        file: text.encode() for file, text in config_files(declaration, name=name, label_files=label_files).items()
    }
    return overridden(files, repository / name)


def _renamed(parameters: Mapping[str, str], kind: ModelKind, name: str | None) -> dict[str, str]:
    """A config's parameters, with companions that they name called as they are beside a model called `name`."""
    names = {companion.declaration.name for companion in kind.companions}
    return {
        key: companion_name(kind.name, value, name) if value in names else value for key, value in parameters.items()
    }
