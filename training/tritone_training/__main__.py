"""`torchrun ... -m tritone_training train KIND ...`: the command `tritone train` in each process that torchrun starts.

The command line is a package above this one, which installs the command `tritone`; it is found by that entry point.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points

_COMMAND = "tritone"


def main() -> None:
    """Run `tritone train`; other commands are not for several processes."""
    if sys.argv[1:2] != ["train"]:
        sys.stderr.write(
            f"error: expected `python -m tritone_training train KIND ...`, got {' '.join(sys.argv[1:2]) or 'nothing'}; "
            f"start other commands with `{_COMMAND}`\n"
        )
        sys.exit(2)
    # DDP warns in every process that a model without unused parameters is searched for them.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    found = entry_points(group="console_scripts", name=_COMMAND)
    if not found:
        sys.stderr.write(
            f"error: the command {_COMMAND} is not installed; install it with: pip install 'tritone[train]'\n"
        )
        sys.exit(1)
    next(iter(found)).load()()


if __name__ == "__main__":
    main()
