"""Report the structure of the source: sizes of modules, duplicate class names, private imports in tests.

    python -m benchmarks.structure [ROOT] [--server localhost:8001] [--json]

With `--server`, a server of the demonstration's models, it also counts the client's modules that run during one
`classify`, `recommend` and `compose`: those in which at least one function is called, after a first request has
opened the connection and read the models' metadata.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PACKAGES = ("client", "gateway", "serving", "training", "export", "cli")
_LEFT_OUT = "Without TritonPythonModel, and without names that are defined only in the folders of model kinds."


def source_files(root: Path) -> list[Path]:
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


def test_files(root: Path) -> list[Path]:
    return sorted(path for folder in ("tests", "benchmarks") for path in (root / folder).rglob("*.py"))


def n_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def duplicate_classes(files: list[Path]) -> dict[str, list[str]]:
    """Return the class names that more than one module defines at its top level, with the paths of the modules.

    Two kinds of names are repeated on purpose and left out: `TritonPythonModel`, which Triton requires of each
    Python backend, and names that only modules in the folders of model kinds define.
    """
    where: defaultdict[str, list[str]] = defaultdict(list)
    for path in files:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(str(path))
    return {
        name: paths
        for name, paths in sorted(where.items())
        if len(paths) > 1 and name != "TritonPythonModel" and not all("/kinds/" in path for path in paths)
    }


def private_uses(files: list[Path]) -> tuple[int, int]:
    """Count imports of underscored modules or names, and reads of underscored attributes of imported names."""
    n_imports = n_attributes = 0
    for path in files:
        imported: set[str] = set()
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0].startswith("tritone"):
                imported |= {alias.asname or alias.name for alias in node.names}
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                n_imports += any(_is_private(part) for part in parts)
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.startswith("tritone")]
                imported |= {name.split(".")[0] for name in names}
                n_imports += sum(any(_is_private(part) for part in name.split(".")) for name in names)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and _is_private(node.attr):
                base: Any = node.value
                while isinstance(base, ast.Attribute):
                    base = base.value
                n_attributes += isinstance(base, ast.Name) and base.id in imported
    return n_imports, n_attributes


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def n_matches(files: list[Path]) -> int:
    """Count `match=` arguments of `pytest.raises` and `pytest.warns`."""
    return sum(
        keyword.arg == "match"
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
    )


def wheel_bytes(root: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(root)]
        subprocess.run(command, check=True)
        return next(Path(folder).glob("*.whl")).stat().st_size


def modules_run(call: Callable[[], object]) -> set[str]:
    """Return the files of our packages in which a function runs during the call, in any thread."""
    seen: set[str] = set()

    def note(frame: Any, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            seen.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return {name for name in seen if "/tritone" in name and "/site-packages/" not in name}


def request_modules(server: str) -> Iterator[tuple[str, set[str]]]:
    """Yield operation and modules, for a server of the demonstration's models."""
    import numpy as np

    from tritone import MusicClient

    tone = (np.sin(np.arange(88_200) * 0.06).astype(np.float32), 22_050)
    with MusicClient(server, timeout_s=120) as music:
        track = next(iter(music.recommend(n=1))).track_id
        calls: dict[str, Callable[[], object]] = {
            "classify": lambda: music.classify(tone),
            "recommend": lambda: music.recommend(history=[track], n=5),
            "compose": lambda: music.compose(bars=1, seed=1),
        }
        for name, call in calls.items():
            call()
            yield name, modules_run(call)


def report(root: Path, server: str | None) -> dict[str, Any]:
    """Return the metrics by name."""
    sources, tests = source_files(root), test_files(root)
    sizes = [n_lines(path) for path in sources]
    n_imports, n_attributes = private_uses(tests)
    found: dict[str, Any] = {
        "source modules": len(sources),
        "lines of source": sum(sizes),
        "median lines of a module": statistics.median(sizes),
        "90th percentile": statistics.quantiles(sizes, n=10)[-1],
        "largest module": max(sizes),
        "class names defined more than once (*)": len(duplicate_classes(sources)),
        "test and benchmark files": len(tests),
        "lines of tests and benchmarks": sum(map(n_lines, tests)),
        "private imports in tests": n_imports,
        "private attributes in tests": n_attributes,
        "match= in tests": n_matches(tests),
        "lines of README.md": n_lines(root / "README.md"),
        "bytes of the wheel": wheel_bytes(root),
    }
    if server:
        for name, modules in request_modules(server):
            found[f"client modules run by {name}"] = len(modules)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Report the structure of the source.")
    parser.add_argument("root", type=Path, nargs="?", default=Path(__file__).parents[1])
    parser.add_argument("--server", help="address of a server of the demonstration's models")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--duplicates", action="store_true", help="list the class names defined more than once")
    arguments = parser.parse_args()
    if arguments.duplicates:
        print(json.dumps(duplicate_classes(source_files(arguments.root)), indent=2))
        print(_LEFT_OUT, file=sys.stderr)
        return
    found = report(arguments.root, arguments.server)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name:40} {value:>10,}")
        print(f"(*) {_LEFT_OUT}")


if __name__ == "__main__":
    main()
