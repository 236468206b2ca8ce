"""What `make demo` installs."""

from __future__ import annotations

import re
from pathlib import Path

MAKEFILE = Path(__file__).parents[3] / "Makefile"


def test_the_environment_of_the_demonstration_has_the_gateway_that_its_studio_needs() -> None:
    recipe = MAKEFILE.read_text().split("$(READY): ", 1)[1].split("\n\n", 1)[0]
    extras = re.search(r"-e '\.\[([a-z,]+)\]'", recipe)
    assert extras is not None, recipe
    assert {"export", "gateway", "serve"} <= set(extras[1].split(","))
