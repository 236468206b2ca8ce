"""Model repositories on disk: their models and versions by Triton's rules, and models whose files cannot be loaded.

With some faulty files Triton 2.51 waits until its start-up timeout and logs no model name, so they are found before the
server starts. `tritone lint` reports the same faults and many more. Importing this module needs only the standard
library, because backends do so.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

_COMMENT: Final = re.compile(r"^\s*#.*$", re.M)
_REMEDY = "fill it with: tritone export genre_cnn --repository {repository}"


def filled_models(repository: Path) -> set[str]:
    """Names of the models that have a version."""
    return {folder.name for folder in repository.iterdir() if versions_of(folder)}


def servable_models(repository: Path, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names of the models that have at least one version.

    A model without a version is passed over: its config is committed before its first weights are made. So is an
    ensemble with such a model among its steps.

    Args:
        repository: folder of models.
        wanted: only these, and each must be there.

    Raises:
        ModelRepositoryError: there is no such folder, nothing in it can be served, or a wanted model cannot.
    """
    from tritone_serving._exceptions import ModelRepositoryError

    remedy = _REMEDY.format(repository=repository)
    if not repository.is_dir():
        what = "is a file" if repository.exists() else "does not exist"
        raise ModelRepositoryError(f"the model repository {repository} {what}; expected a folder of models; {remedy}")
    filled = {folder.name: folder for folder in repository.iterdir() if versions_of(folder)}
    models = tuple(sorted(name for name, folder in filled.items() if steps_of(folder) <= filled.keys()))
    if not models:
        raise ModelRepositoryError(f"no model in {repository} has a version to serve; {remedy}")
    missing = [name for name in wanted or () if name not in models]
    if missing:
        raise ModelRepositoryError(
            f"{repository} holds no version of {', '.join(missing)}{_lacking(filled, missing)}; there are: "
            f"{', '.join(models)}; {remedy}"
        )
    return models if wanted is None else tuple(wanted)


def _lacking(filled: Mapping[str, Path], missing: Sequence[str]) -> str:
    lacking = sorted({step for name in missing if name in filled for step in steps_of(filled[name]) - filled.keys()})
    return f" (which pass requests on to {', '.join(lacking)})" if lacking else ""


def steps_of(folder: Path) -> set[str]:
    """Names of the models that an ensemble joins; of any other model none."""
    try:
        text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return set()  # Triton says what is wrong with it
    return set(field_values(text, "model_name"))  # only a step of an ensemble has this field


def without_comments(config: str) -> str:
    """Return the text of a config.pbtxt without its comment lines."""
    return _COMMENT.sub("", config)


def field_values(config: str, field: str) -> list[str]:
    """Return the texts of a field in a config.pbtxt, wherever it occurs.

    The protobuf parser is not used, because importing it would delay each start of a server by a quarter of a second.
    """
    text = without_comments(config)
    return [double or single for double, single in re.findall(rf"""\b{field}\s*:\s*(?:"([^"]*)"|'([^']*)')""", text)]


# Suffix of the model name under which `tritone publish` stages a candidate version until it has passed its checks.
CANDIDATE_SUFFIX: Final = ".candidate"
LARGEST_VERSION: Final = 2**63 - 1  # a larger number terminates Triton 2.51


def is_candidate(model: str) -> bool:
    """Return whether a model's name is that of a candidate version, which must not be served at start-up."""
    return model.endswith(CANDIDATE_SUFFIX)


def versions_of(folder: Path) -> list[str]:
    """Return the names of a model's version folders, unordered; none for a hidden folder or a candidate."""
    if folder.name.startswith(".") or is_candidate(folder.name) or not folder.is_dir():
        return []
    # Triton's own rule: a whole number above 0, without leading zeros.
    return [
        child.name
        for child in folder.iterdir()
        if child.name.isdecimal()
        and child.name.isascii()
        and not child.name.startswith("0")
        and int(child.name) <= LARGEST_VERSION
        and child.is_dir()
    ]


def newest_version(folder: Path) -> Path | None:
    """Return the folder of a model's newest version; None if it has none."""
    versions = sorted(versions_of(folder), key=int)
    return folder / versions[-1] if versions else None


MODEL_FILES: Final = {
    "onnxruntime": "model.onnx",
    "composer": "model.onnx",
    "cf_ensemble": "recommender.json",
    "events": "events.json",
    "recordings": "recordings.json",
    "python": "model.py",
}
MODEL_CLASS: Final = "TritonPythonModel"
ENVIRONMENT_PARAMETER: Final = "EXECUTION_ENV_PATH"
_MODEL_FOLDER: Final = "$$TRITON_MODEL_DIRECTORY"
_BACKENDS_BY_PLATFORM: Final = {
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorrt_plan": "tensorrt",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
}


def find_faults(
    repository: Path, models: Collection[str], *, backends: Collection[str], config: str = "config.pbtxt"
) -> dict[str, str]:
    """Return the models that cannot load, with the reasons; ensembles of such models included.

    Args:
        repository: folder of models.
        models: names to check.
        backends: names of the installed backends.
        config: path of the configuration within a model's folder; config.pbtxt for models without it.
    """
    faults = {}
    for name in models:
        folder = repository / name
        path = folder / config if (folder / config).is_file() else folder / "config.pbtxt"
        reason = _fault(folder, path, backends)
        if reason is not None:
            faults[name] = reason
    while True:
        more = {
            name: f"it passes requests on to {step}, which cannot be loaded"
            for name in models
            if name not in faults
            for step in sorted(steps_of(repository / name) & faults.keys())
        }
        if not more:
            return faults
        faults |= more


def python_fault(path: Path) -> tuple[str, int] | None:
    """Return (reason, line) if a Python model's file cannot be loaded, else None; the file is parsed, not run."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        return f"{path.name} is not valid Python: line {error.lineno or 1}: {error.msg}", error.lineno or 1
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return f"{path.name} cannot be read: {reason}", 1
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            if any(alias.name == "*" for alias in node.names):
                return None
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and node.value == MODEL_CLASS:
            names.add(MODEL_CLASS)  # set by name, as in `globals()[...]`
        elif isinstance(node, ast.ClassDef):
            names.add(node.name)
            if node.name == MODEL_CLASS and not node.bases and not node.decorator_list and not _has_execute(node):
                return f"{path.name}: class {MODEL_CLASS} has no method `execute`", node.lineno
    return None if MODEL_CLASS in names else (f"{path.name} defines no class {MODEL_CLASS}", 1)


def environment_fault(value: str, model_folder: Path) -> str | None:
    """Return why the packed Python environment of a model cannot be used; None if it exists."""
    path = Path(value.replace(_MODEL_FOLDER, str(model_folder)))
    if path.exists():
        return None
    return f"the Python environment {path} of the parameter {ENVIRONMENT_PARAMETER} does not exist"


def _fault(folder: Path, config: Path, backends: Collection[str]) -> str | None:
    try:
        text = without_comments(config.read_text(encoding="utf-8"))
    except IsADirectoryError:
        return f"{config} is a folder; expected a text file"  # terminates Triton 2.51
    except (OSError, UnicodeDecodeError):
        return None  # Triton reports it
    if folders := [name for name in field_values(text, "label_filename") if (folder / name).is_dir()]:
        return f"its label file {folders[0]!r} is a folder; expected a text file"  # terminates Triton
    backend = _value(text, "backend") or _BACKENDS_BY_PLATFORM.get(_value(text, "platform"), "")
    if backend and backend not in backends and not any(folder.rglob("libtriton_*.so")):  # a model may bring its own
        return f"its backend {backend!r} is not installed; installed are: {', '.join(sorted(backends))}"
    return _version_fault(folder, backend, text)


def _version_fault(folder: Path, backend: str, config: str) -> str | None:
    version = newest_version(folder)
    filename = _value(config, "default_model_filename") or MODEL_FILES.get(backend)
    if version is None or not filename or re.search(r"\b(specific|all)\s*:?\s*\{", config):
        return None  # other versions than the newest may be served
    if not (version / filename).exists():
        what = "is empty" if not any(version.iterdir()) else f"has no {filename}"
        return f"version folder {version} {what}; expected {filename}, which backend {backend!r} loads"
    return _python_model_fault(folder, version / filename, config) if backend == "python" else None


def _python_model_fault(folder: Path, path: Path, config: str) -> str | None:
    if (fault := python_fault(path)) is not None:
        return f"{path.parent.name}/{fault[0]}"
    environment = re.search(rf'"{ENVIRONMENT_PARAMETER}"\s*value\s*:?\s*\{{\s*string_value\s*:\s*"([^"]*)"', config)
    return environment_fault(environment[1], folder) if environment else None


def _has_execute(node: ast.ClassDef) -> bool:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    targets = [target for each in node.body if isinstance(each, ast.Assign) for target in each.targets]
    assigned = {target.id for target in targets if isinstance(target, ast.Name)}
    return "execute" in assigned or any(isinstance(each, functions) and each.name == "execute" for each in node.body)


def _value(text: str, field: str) -> str:
    return next(iter(field_values(text, field)), "")
