"""Publish versions to a running server, and roll back.

A candidate version is loaded under a temporary name, `MODEL.candidate`. It gets a version number in the model's folder
only when it has passed its tests, so that no restart of the server and no other load request can serve a version that
failed. Triton then loads the new version while the previous one responds, and switches requests over when it is ready.

The previous version stays on disk; the files of its model folder (labels, configs) are copied to its folder `.beside`.
A rollback adds the earlier version again under the next number, because the files of a version never change.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from filelock import FileLock, Timeout

from tritone.arguments import check_model_name
from tritone.constants import GENRE_MODEL
from tritone_export._exceptions import RepositoryBusyError, RepositoryError
from tritone_export.candidates import check_files, files_in, newest, on_trial, read_card, reference_of, refused
from tritone_export.card import CARD_FILENAME, card_bytes
from tritone_export.lint.recommender import check_embedding_models
from tritone_export.repository import publish, require_newest, translated, update, versions
from tritone_export.tuned import TUNED_FILENAME, overridden, untuned
from tritone_serving import AdminApiError, CanaryError, RefusedVersionError
from tritone_serving.admin import AdminApi
from tritone_serving.calls import Calls
from tritone_serving.canary import run_canary
from tritone_serving.repository import filled_models, steps_of
from tritone_serving.trial import Bounds, Trial, try_version

MODEL_FILES: Final = ".beside"
WITHDRAWN: Final = ".withdrawn"
_LOCK: Final = ".publish.lock"
_LOAD_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True)
class Published:
    """A version that was made live.

    Attributes:
        before: the version that was live before; None if there was none.
        trial: measurements of the candidate; None for a rollback.
        seconds: duration of the change, from writing the version until it responds.
    """

    model: str
    version: int
    before: int | None
    trial: Trial | None
    seconds: float


@dataclass(frozen=True)
class Live:
    """A running server and its model repository.

    Attributes:
        repository: the model repository that the server loads from.
        bounds: requirements for a new version.
    """

    repository: Path
    admin: AdminApi
    calls: Calls
    bounds: Bounds = field(default_factory=Bounds)


def publish_live(
    source: Path,
    models: Sequence[str],
    live: Live,
    *,
    force: bool = False,
    replaces: Mapping[str, int] = MappingProxyType({}),
    on_step: Callable[[str], None] = lambda step: None,
) -> tuple[Published, ...]:
    """Test the newest versions of `source` and make them live if all pass.

    Args:
        source: a model repository with the new versions.
        models: names, in the order to load them; an ensemble after its steps.
        live: the server to publish to.
        force: publish even if the recommender's embeddings are not from the `genre_cnn` that would be live.
        replaces: version by model that a new version was made from; it is refused if another one is live by then, such
            as one without a user who was forgotten.
        on_step: called with a description of each step when it begins.

    Returns:
        the new versions.

    Raises:
        InvalidModelNameError: a model name is invalid.
        RefusedVersionError: a version did not pass, and nothing was changed; or all versions are live, but an ensemble
            that has one of them as a step fails since then.
        RepositoryError: a version is missing, or the repository cannot be written.
        DiskFullError: the repository's disk is full; nothing was changed.
        AdminApiError: the server does not respond, or refuses the admin token.
    """
    for model in models:
        check_model_name(model)
    with translated(live.repository), _alone(live.repository):
        for model in models:
            check_files(newest(source, model))
            _model_files(source / model, live.repository / model)
        if not force:
            _refuse_mismatch(live.repository, {model: newest(source, model) for model in models})
        ensembles = _working_ensembles(live, models)
        on_step(f"loading {', '.join(models)} under temporary names")
        trials: dict[str, Trial] = {}
        with on_trial(source, models, repository=live.repository, admin=live.admin) as names:
            for model, name in names.items():
                on_step(f"{model}: {live.bounds.n_canaries} canaries")
                version = newest(source, model)
                trials[model] = try_version(
                    live.calls,
                    model,
                    name,
                    bounds=live.bounds,
                    reference=reference_of(version, version.parent / "config.pbtxt"),
                    tolerance=read_card(version).get("parity", {}).get("tolerance"),
                )
        published = []
        for model in models:
            on_step(f"{model}: making it live")
            version = newest(source, model)
            model_files = _model_files(version.parent, live.repository / model)
            published.append(_switch(live, version, model_files, trials[model], replaces=replaces.get(model)))
        _check_ensembles(live, ensembles, models, undo=f"tritone rollback {' '.join(models)}")
        return tuple(published)


def rollback(
    model: str, live: Live, *, version: int | None = None, force: bool = False, together: Sequence[str] = ()
) -> Published:
    """Make an earlier version live again, under the next version number.

    Args:
        version: number of the version; None for the newest earlier version with other content that no rollback
            withdrew.
        force: roll back even if the recommender's embeddings are not from the `genre_cnn` that would be live.
        together: other models that will be rolled back next, which the check of embeddings takes into account.

    Returns:
        the model's new version.

    Raises:
        InvalidModelNameError: the model name is invalid.
        RepositoryError: there is no such version.
        RefusedVersionError: the version does not respond any more, or an ensemble that has it as a step fails.
    """
    check_model_name(model)
    with translated(live.repository), _alone(live.repository):
        folder = live.repository / model
        found = versions(folder) if folder.is_dir() else []
        wanted = version if version is not None else _before(folder, found)
        if wanted is None or wanted not in found[:-1]:
            asked = f"version {version}" if version is not None else "version before the live one"
            listed = ", ".join(map(str, found)) or "none"
            # Versions that were withdrawn or hold the same files are skipped unless requested by number.
            passed_over = version is None and len(found) > 1
            hint = (
                "; the others have the same content or were withdrawn: name one with --version" if passed_over else ""
            )
            raise RepositoryError(f"{folder}: no {asked} to roll back to; versions on disk: {listed}{hint}")
        check_files(folder / str(wanted))
        if not force:
            others = {name: folder.parent / name for name in together if name != model}
            before = {name: _before(path, versions(path)) for name, path in others.items() if path.is_dir()}
            planned = {name: others[name] / str(number) for name, number in before.items() if number is not None}
            _refuse_mismatch(live.repository, {**planned, model: folder / str(wanted)})
        kept = folder / str(wanted) / MODEL_FILES
        # Settings of `tritone optimize` belong to the machine, not to a version, so the current ones stay.
        model_files = overridden(untuned(_contents(kept if kept.is_dir() else folder)), folder)
        ensembles = _working_ensembles(live, [model, *together])
        result = _switch(live, folder / str(wanted), model_files, None)
        (folder / str(found[-1]) / WITHDRAWN).touch()
        _check_ensembles(live, ensembles, [model], undo=f"tritone rollback {model} --version {found[-1]}")
        return result


def _working_ensembles(live: Live, changed: Sequence[str]) -> dict[str, Any]:
    """Return the configurations of the loaded ensembles with a changed model among their steps, direct or not.

    Ensembles that are changed themselves or fail already are left out.
    """
    steps = {model: steps_of(live.repository / model) for model in filled_models(live.repository)}
    affected, working = set(changed), {}
    while more := {model for model in steps.keys() - affected if steps[model] & affected}:
        affected |= more
    for model in sorted(affected - set(changed)):
        with contextlib.suppress(CanaryError):
            config = live.calls.config(model, timeout_s=live.bounds.timeout_s)
            run_canary(live.calls, model, config, timeout_s=live.bounds.timeout_s)
            working[model] = config
    return working


def _check_ensembles(live: Live, ensembles: Mapping[str, Any], changed: Sequence[str], *, undo: str) -> None:
    """Send a canary to each ensemble of changed models, because a step with other tensors may have broken it.

    Raises:
        RefusedVersionError: an ensemble fails; its `model` is the ensemble. The change is not undone.
    """
    for ensemble, config in ensembles.items():
        try:
            run_canary(live.calls, ensemble, config, timeout_s=live.bounds.timeout_s)
        except CanaryError as error:
            raise RefusedVersionError(
                f"{', '.join(changed)}: the new version is live, but ensemble {ensemble}, which has it as a step, "
                f"fails: {error}; change the ensemble, or roll back with: {undo}",
                model=ensemble,
                reason=str(error),
            ) from error


def _refuse_mismatch(repository: Path, planned: Mapping[str, Path]) -> None:
    """Check that a recommender and the `genre_cnn` whose embeddings it holds stay together.

    Args:
        planned: folder of the version that is about to become live, by model.

    Raises:
        RefusedVersionError: `genre_cnn` is not the network that embedded the recommender's items.
    """
    findings = check_embedding_models(repository, planned, planned).findings
    if findings:
        model = next(iter(planned))
        reason = "; ".join(f"{finding.message} ({finding.remedy})" for finding in findings)
        raise RefusedVersionError(
            f"{', '.join(planned)}: refused, nothing was changed: {reason}; name models that belong together "
            f"in one command, as in: tritone publish {GENRE_MODEL} recommender --from REPOSITORY; or add --force",
            model=model,
            reason=reason,
        )


def _model_files(source: Path, folder: Path) -> dict[str, bytes]:
    """Return the files of the source's model folder, with the settings that `tritone optimize` stored in `folder`."""
    return overridden(_contents(source), folder)


def _contents(folder: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files_in(folder).items()}


def _before(folder: Path, found: Sequence[int]) -> int | None:
    live = found[-1] if found else 0
    now = _content(folder / str(live))
    usable = [each for each in found[:-1] if not (folder / str(each) / WITHDRAWN).exists()]
    return next((each for each in reversed(usable) if _content(folder / str(each)) != now), None)


def _content(version: Path) -> Any:
    """Return a value that is equal for two versions with the same files."""
    files = files_in(version, is_version=True)
    checksums = read_card(version).get("files")
    return checksums or {name: path.read_bytes() for name, path in files.items() if name != CARD_FILENAME}


def _switch(
    live: Live, source: Path, model_files: Mapping[str, bytes], trial: Trial | None, *, replaces: int | None = None
) -> Published:
    """Add a version under the next number, load it and send a canary; undo everything if one of these fails."""
    begun_s = time.monotonic()
    model, bounds = source.parent.name, live.bounds
    folder = live.repository / model
    found = versions(folder) if folder.is_dir() else []
    before = found[-1] if found else None
    kept = _contents(folder) if found else {}
    if before is not None:
        _keep(folder / str(before) / MODEL_FILES, kept)
    card = read_card(source)

    def version_files(number: int) -> dict[str, bytes | Path]:
        if replaces is not None:
            require_newest(folder, replaces)
        files: dict[str, bytes | Path] = dict(files_in(source, is_version=True))
        if card:
            files[CARD_FILENAME] = card_bytes({**card, "model": model, "version": number})
        return files

    placed = publish(folder, version_files=version_files, model_files=model_files)
    try:
        check_files(placed)
        live.admin.load(model, timeout_s=_LOAD_TIMEOUT_S)
        config = live.calls.config(model, timeout_s=bounds.timeout_s)
        run_canary(live.calls, model, config, timeout_s=bounds.timeout_s, version=placed.name)
    except (AdminApiError, CanaryError, RefusedVersionError) as error:
        _take_back(placed, kept, live.admin)
        if isinstance(error, RefusedVersionError):
            raise
        raise refused(placed, f"it passed under its temporary name but not under its own: {error}") from error
    return Published(model, int(placed.name), before, trial, time.monotonic() - begun_s)


def _take_back(placed: Path, kept: Mapping[str, bytes], admin: AdminApi) -> None:
    folder = placed.parent
    if kept:
        update(folder, kept)
        if TUNED_FILENAME not in kept:
            (folder / TUNED_FILENAME).unlink(missing_ok=True)
    placed.rename(folder / f".refused-{placed.name}-{time.time_ns()}")
    with contextlib.suppress(AdminApiError):  # a server that has stopped loads the restored files when it starts
        admin.load(folder.name, timeout_s=_LOAD_TIMEOUT_S)
    for leftover in folder.glob(".refused-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _keep(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def _alone(repository: Path) -> Iterator[None]:
    """Allow one publication at a time; the kernel releases the lock when the process ends, for whatever reason."""
    if not repository.is_dir():
        raise RepositoryError(f"{repository}: not a folder: expected the model repository that the server serves")
    lock = FileLock(repository / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RepositoryBusyError(f"{repository}: another publication is running; wait until it ends") from None
    try:
        yield
    finally:
        lock.release()
