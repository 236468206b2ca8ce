"""Export trained models as versions that Triton can load.

```python
from tritone_export import export_kind
from tritone_training.registry import get_kind

kind = get_kind("genre_cnn")
for result in export_kind(kind.export(checkpoint), kind, repository=Path("model_repository")):
    print(result.model, result.version, result.parity.max_abs_difference)
```
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tritone.arguments import check_model_name
from tritone_export._exceptions import ExportError, PrecisionError
from tritone_export.card import CARD_FILENAME, build_artifact_card, card_bytes
from tritone_export.config import config_files
from tritone_export.ensembles import publish_ensemble, write_ensemble_configs
from tritone_export.models import ExportResult, prepare_model, read_label_files, write_model
from tritone_export.parity import Arrays
from tritone_export.precision import Precision, Reduction, check_reducible
from tritone_export.repository import LOCK_TIMEOUT_S, publish, update
from tritone_export.tuned import overridden
from tritone_serving.recommender import KeyFileError, read_key
from tritone_serving.recommender.pseudonyms import find_key, install_key, key_check, key_path
from tritone_training.artifact_export import ArtifactExport

if TYPE_CHECKING:
    from tritone_training.declaration import Declaration
    from tritone_training.kind import Exportable, ModelKind
    from tritone_training.quality import Quality


Exported = TypeVar("Exported", "Exportable", ArtifactExport)


def export_kind(
    exportable: Exportable | ArtifactExport,
    kind: ModelKind,
    *,
    repository: Path,
    name: str | None = None,
    reduction: Reduction | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> tuple[ExportResult, ...]:
    """Export all models of a checkpoint: the kind's main model, its companions and the ensembles that use it.

    All networks are checked before the first model is written. If writing fails, the models before it stay in place.

    Args:
        name: name of the main model, from which those of its companions are derived; None for the declared names.
        reduction: precisions to add to the models that support them.

    Raises:
        ExportError: as in `export_model`.
    """
    own = () if isinstance(exportable, ArtifactExport) else (exportable,)
    # A checkpoint may have fewer companions than its kind.
    companions = {companion.declaration.name: companion for companion in kind.companions}
    made = [companions[each.declaration.name] for each in exportable.companions]
    qualities = (*(kind.quality for _ in own), *(companion.quality for companion in made))
    draws = (*(None for _ in own), *(companion.example_inputs for companion in made))
    networks = tuple(_with_names(each, kind, name) for each in (*own, *exportable.companions))
    asked = () if reduction is None else reduction.precisions
    kept = _kept(asked, [(each.declaration, quality) for each, quality in zip(networks, qualities, strict=True)], kind)
    prepared = [
        prepare_model(
            each,
            kind,
            name=name if each.declaration.name == kind.name else companion_name(kind.name, each.declaration.name, name),
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
    for artifact in (_with_names(each, kind, name) for each in exportable.artifacts):
        own_name = companion_name(kind.name, artifact.declaration.name, name)
        results.append(export_artifact(artifact, kind, repository=repository, name=own_name, on_step=on_step))
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
    """Return the requested precisions that each model does not support, with the reasons.

    Raises:
        PrecisionError: no model supports one of the precisions.
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
    """Write the configs of all models of a kind if they differ from the existing ones; needs no checkpoint.

    Args:
        name: name of the main model, as in `export_kind`.

    Returns:
        the files that were written.

    Raises:
        DeclarationError: Triton would refuse a config.
        RepositoryError: a folder cannot be written.
    """
    written = []
    for declaration in (*kind.declarations, *kind.data_models):
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
    """Return the name of a companion if the kind's main model is named `name`."""
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
    """Convert a network, compare it with PyTorch and add it to the repository as the next version.

    Args:
        exportable: a trained network, from `kind.export`.
        kind: the model kind, which draws the inputs for the comparison unless `example_inputs` is given.
        repository: created if it is missing.
        name: name of the model's folder; None for the declared name.
        example_inputs: returns inputs by name for a batch size and a seed.
        quality: metrics and validation data for `reduction`; None for those of the kind.
        reduction: precisions to add to single precision.
        lock_timeout_s: longest time to wait for another export of the same model.
        on_step: called with a description of each step when it begins.

    Raises:
        ExportError: a step failed; the subclass tells which, and the repository is unchanged.
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
    """Add an artifact (data that is served without a network) to the repository as the next version.

    The key of its pseudonyms, if it has one, is installed where a server of this user looks for it.

    Raises:
        ExportError: a step failed; the repository is unchanged.
    """
    start_s = time.monotonic()
    declaration = artifact.declaration
    if declaration.name == kind.name:  # `export_kind` has renamed the parameters of other models
        declaration = replace(declaration, parameters=_renamed(declaration.parameters, kind, name))
    name = name or declaration.name
    check_model_name(name)
    configs = _configs(declaration, repository, name)
    if artifact.key is not None:
        check, file = artifact.key
        try:
            install_key(file, check)
        except (OSError, ValueError) as error:
            raise ExportError(f"{file}: the key cannot be installed for the server: {error}") from error
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
    """Return instructions for installing the key for the server; None if it is installed."""
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
        f"{name} cannot be served yet: it needs {used} but {found}. To install the key for the server, run: "
        f"install -d -m 700 {shlex.quote(str(target.parent))} && install -m 600 {source} {shlex.quote(str(target))}"
    )


def write_configs(declaration: Declaration, repository: Path, *, name: str | None = None) -> list[Path]:
    """Write config.pbtxt and configs/gpu.pbtxt of a declaration if they differ; needs no checkpoint.

    Returns:
        the files that were written.

    Raises:
        DeclarationError: Triton would refuse a config.
        RepositoryError: the folder cannot be written.
    """
    name = name or declaration.name
    check_model_name(name)
    return update(repository / name, _configs(declaration, repository, name))


def _configs(declaration: Declaration, repository: Path, name: str) -> dict[str, bytes]:
    """Return the configs of a declaration, with the settings that `tritone optimize` stored in the model's folder."""
    label_files = read_label_files(declaration, repository / name)
    files = {
        file: text.encode() for file, text in config_files(declaration, name=name, label_files=label_files).items()
    }
    return overridden(files, repository / name)


def _with_names(exportable: Exported, kind: ModelKind, name: str | None) -> Exported:
    """Return a model whose parameters name companions as they are called for a main model named `name`."""
    parameters = _renamed(exportable.declaration.parameters, kind, name)
    return replace(exportable, declaration=replace(exportable.declaration, parameters=parameters))


def _renamed(parameters: Mapping[str, str], kind: ModelKind, name: str | None) -> dict[str, str]:
    """Return a config's parameters, in which names of companions are those for a main model named `name`."""
    declared = (*(companion.declaration for companion in kind.companions), *kind.data_models)
    names = {kind.name, *(each.name for each in declared)}
    return {
        key: companion_name(kind.name, value, name) if value in names else value for key, value in parameters.items()
    }
