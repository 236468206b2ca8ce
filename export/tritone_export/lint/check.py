"""Check all models of a repository: their folders, configs and versions.

```python
from tritone_export import lint_repository

for finding in lint_repository(Path("model_repository")):
    print(finding)
```
"""

from __future__ import annotations

from pathlib import Path

from tritone_export._exceptions import RepositoryError
from tritone_export.lint.config_file import ConfigFile, read_config
from tritone_export.lint.ensembles import check_steps
from tritone_export.lint.files import (
    CONFIG,
    ModelFolder,
    backend_of,
    check_checksums,
    check_labels,
    check_links,
    check_python_model,
    check_versions,
    is_of_volume,
    is_reduced,
    model_filename,
    read_folder,
    served_versions,
)
from tritone_export.lint.findings import Finding, Findings, LintReport
from tritone_export.lint.graph import (
    ONNX_BACKENDS,
    OnnxGraph,
    check_loads,
    check_policy,
    check_tensors,
    read_graph,
    wire_of,
)
from tritone_export.lint.recommender import ARTIFACT_BACKEND, check_artifact, report_embedding_models
from tritone_export.lint.settings import (
    check_agreement,
    check_default_placement,
    check_limits,
    check_precision,
    check_priorities,
    check_same_limits,
    check_settings,
    check_shapes,
    check_tuned,
    check_warmup,
)


def lint_repository(path: Path) -> list[Finding]:
    """Check a repository; see `check_repository`.

    Returns:
        the findings, sorted by path and line.
    """
    return list(check_repository(path).findings)


def check_repository(path: Path) -> LintReport:
    """Check a repository without a server; the installed onnxruntime opens its ONNX files.

    Args:
        path: the repository, a folder with one folder per model.

    Raises:
        RepositoryError: there is no such folder, or it cannot be listed.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise RepositoryError(f"{path}: {what}: expected a model repository, a folder with one folder per model")
    report = Findings()
    try:
        folders = sorted(child for child in path.iterdir() if child.is_dir() and not is_of_volume(child.name))
        for folder in folders:
            _check_model(folder, path, report)
        report_embedding_models(path, report)
    except OSError as error:
        raise RepositoryError(f"{error.filename or path}: cannot be read ({error.strerror})") from error
    if not folders:
        report.note(f"{path}: no models yet; `tritone export` adds one")
    findings = sorted(set(report.findings), key=lambda finding: (str(finding.path), finding.line, finding.message))
    return LintReport(tuple(findings), tuple(report.notes), len(folders))


def _check_model(path: Path, repository: Path, report: Findings) -> None:
    check_links(path, repository, report)
    folder = read_folder(path, report)
    if folder.is_empty:
        report.note(f"{path}: empty folder, nothing to load")
        return
    others = [file for file in (read_config(other, report) for other in folder.other_configs) if file is not None]
    default = None
    if folder.config is None:
        what = "is not a file" if (path / CONFIG).exists() else "is missing"
        remedy = "write it, export again, or let Triton generate one with `tritone serve --auto-complete`"
        report.error(path / CONFIG, 1, what, remedy)
    else:
        default = read_config(folder.config, report)
    if default is not None:
        check_default_placement(default, report)
    files = [file for file in (default, *others) if file is not None]
    for file in files:
        check_settings(file, path.name, report)
        check_shapes(file, report)
        check_priorities(file, report)
        check_warmup(file, report)
        check_precision(file, report)
        check_policy(file, backend_of(file.config), report)
        check_limits(file, report)
        check_steps(file, repository, report)
    if default is not None:
        for file in others:
            check_agreement(file, default, report)
            check_same_limits(file, default, report)
        check_tuned(path, default, report)
        _check_versions(folder, files, default, report)


def _check_versions(folder: ModelFolder, files: list[ConfigFile], default: ConfigFile, report: Findings) -> None:
    if not folder.versions:
        report.note(f"{folder.path}: no version yet; `tritone export {folder.path.name}` adds one")
    served = served_versions(default.config, folder.versions)
    # Versions that are kept for rollbacks may lack a reduced graph that was added later.
    check_versions(folder, default, served if is_reduced(default.config) else folder.versions, report)
    for file in files:
        if file is not default and model_filename(file.config) != model_filename(default.config):
            check_versions(folder, file, served, report)
    if folder.versions and not served:
        report.error(
            default.path,
            default.source.line("version_policy"),
            f"version_policy selects none of the existing versions {list(folder.versions)}",
            "name versions that exist",
        )
    backend = backend_of(default.config)
    if backend == ARTIFACT_BACKEND:
        for version in served:
            check_artifact(folder.path / str(version), report)
    if backend == "python":
        for file in files:
            check_python_model(folder, file, served, report)
    newest = _check_graphs(folder, files, default, served, report) if backend in ONNX_BACKENDS else None
    check_labels(folder, default, newest, report)


def _check_graphs(
    folder: ModelFolder, files: list[ConfigFile], default: ConfigFile, served: list[int], report: Findings
) -> OnnxGraph | None:
    """Check the ONNX files of the served versions; return the graph of the newest one that could be read."""
    newest: OnnxGraph | None = None
    backend = backend_of(default.config)
    for version in served:
        found: dict[Path, OnnxGraph | None] = {}
        for file in files:
            model = folder.path / str(version) / (model_filename(file.config) or "")
            if not model.is_file():
                continue  # reported already, or a folder of several files, which only the backend understands
            if model not in found:
                check_checksums(model, report)
                graph = read_graph(model, report)
                if graph is not None and file is default:
                    check_loads(model, default.config, report)
                found[model] = graph and wire_of(graph, backend, model, report)
            graph = found[model]
            if graph is not None:
                check_tensors(file, graph, model, report)
                newest = newest if file is not default else graph
    return newest
