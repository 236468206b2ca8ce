"""Print the requirements of extras in pyproject.toml, one a line, without the project itself.

    requirements.py PYPROJECT EXTRA...

pip has no option for this: the images install the dependencies in a layer of their own, before the source is copied.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Return the requirements of the project with the extras, and of the extras that those name."""
    project = tomllib.loads(pyproject.read_text())["project"]
    found, waiting, done = dict.fromkeys(project["dependencies"]), list(extras), set()
    while waiting:
        extra = waiting.pop(0)
        if extra in done:
            continue
        done.add(extra)
        for requirement in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[([\w\s,-]+)\]", requirement)
            if own:
                waiting += [name.strip() for name in own[1].split(",")]
            else:
                found[requirement] = None
    return list(found)


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])))
