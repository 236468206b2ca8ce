"""Check that the files and tests that the documentation names exist; exit status 1 if one does not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/**/*.md", "docker/*.md", "deploy/**/*.md", "examples/**/*.md", "benchmarks/*.md", "weights/*.md")
FOLDERS = "benchmarks|cli|client|deploy|docker|docs|examples|export|gateway|serving|studio|tests|training|weights"
# A path in backticks, and the test function after it: `tests/unit/test_x.py::test_y`.
CREATED_BY_USERS = {"docker/.env"}
NAMED = re.compile(rf"`((?:{FOLDERS})/[\w./-]+)(?:::(\w+))?`")


def main() -> int:
    """Print each name that leads nowhere and return the exit status."""
    n_found = 0
    for page in sorted({page for pattern in PAGES for page in ROOT.glob(pattern)} - {ROOT / "CHANGELOG.md"}):
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            for name, test in NAMED.findall(line):
                path = ROOT / name
                if name in CREATED_BY_USERS:
                    continue
                if not path.exists() or (test and f"def {test}(" not in path.read_text(encoding="utf-8")):
                    print(f"{page.relative_to(ROOT)}:{number}: {name}{'::' * bool(test)}{test} does not exist")
                    n_found += 1
    return 1 if n_found else 0


if __name__ == "__main__":
    sys.exit(main())
