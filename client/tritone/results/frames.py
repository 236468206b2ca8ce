"""Results as pandas data frames."""

from __future__ import annotations

from typing import Any

from tritone.extras import require


def require_pandas() -> Any:
    """Import pandas.

    Raises:
        MissingExtraError: with the command that installs it.
    """
    return require("pandas", extra="pandas", purpose="data frames")
