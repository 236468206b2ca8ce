"""Find models that cannot load by their files, before the server starts.

With some of these faults Triton 2.51 waits until its start-up timeout and logs no model name. `tritone lint` reports
the same faults and many more.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tritone_serving.repository.folders import field_values, newest_version, steps_of, without_comments

MODEL_FILES: Final = {
    "onnxruntime": "model.onnx",
    "composer": "model.onnx",
    "cf_ensemble": "recommender.json",
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
