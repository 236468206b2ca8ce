"""Check that no package imports an underscored module or name of another package; exit status 1 if one does."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER_OF = {
    "tritone": "client",
    "tritone_cli": "cli",
    "tritone_export": "export",
    "tritone_gateway": "gateway",
    "tritone_serving": "serving",
    "tritone_training": "training",
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of each absolute import."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def main() -> int:
    """Print each private import and return the exit status."""
    n_found = 0
    for package, folder in FOLDER_OF.items():
        for path in sorted((ROOT / folder / package).rglob("*.py")):
            for line, name in imports(path):
                top, *parts = name.split(".")
                if top in FOLDER_OF and top != package and any(part.startswith("_") for part in parts):
                    print(f"{path.relative_to(ROOT)}:{line}: imports {name}, which is private to {top}")
                    n_found += 1
    return 1 if n_found else 0


if __name__ == "__main__":
    sys.exit(main())
